"""The landmarker: 68 points of faces, found by a small convolutional network."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import safe_open
from torch import Tensor, nn

from flowportrait.arrays import Array
from flowportrait.errors import CheckpointError
from flowportrait.faces.landmarks import POINTS
from flowportrait.files import sha256_of
from flowportrait.precision import matmul_precision
from flowportrait.registry import MODELS_DIR

LANDMARKER_SHA256 = "5a4de3fcdee06719f7079452d4ca65fbe876c8617786d3fe89db11f225bfc6a0"
SIZE_PX = 128


class ResidualConv(nn.Module):
    """Two 3x3 convolutions beside the input [n, width, h, w]."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            change = conv(F.silu(norm(change)))
        return x + change


class Landmarker(nn.Module):
    """68 points [n, 68, 2] of frames [n, 3, h, w] in [-1, 1]: convolutions at 1/4, 1/8 and 1/16,
    read off together, then moved by what lies about each of them at 1/4, `refinements` times.

    A transformer of the same cost learned to follow landmarks several times more slowly.
    """

    READ = 16  # numbers read off every cell of 16 x 16 pixels

    def __init__(self, widths: tuple[int, int, int], grid: int, refinements: int = 0):
        super().__init__()
        fine, middle, coarse = widths
        self.body = nn.Sequential(
            nn.Conv2d(3, fine, 4, stride=4),
            ResidualConv(fine),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1),
            ResidualConv(middle),
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1),
            ResidualConv(coarse),
            nn.GroupNorm(8, coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, self.READ, 1),
            nn.SiLU(),
        )
        self.points = nn.Linear(self.READ * (grid // 2) ** 2, 2 * POINTS)
        self.refiners = nn.ModuleList(
            PointRefiner(fine, 2 / grid / 2**step) for step in range(refinements)
        )

    def forward(self, frames: Tensor) -> Tensor:
        fine = self.body[:2](frames.contiguous(memory_format=torch.channels_last))
        cells = self.body[2:](fine)
        points = self.points(cells.flatten(1)).float().unflatten(-1, (POINTS, 2))
        for refiner in self.refiners:
            points = points + refiner(fine, points)
        return points


class PointRefiner(nn.Module):
    """Steps [n, 68, 2] that bring points nearer to where they belong, from the features [n, c, y,
    x] about each.

    Read off whole pictures alone, points lie 0.8 px off at 128 px even on people that were trained
    on; what stands beside a point tells its place within the pixel. All points see each other: a
    jaw or a hidden eye has no corner.
    """

    TAPS = 3  # along a side of the square that is looked at

    def __init__(self, channels: int, reach: float, hidden: int = 128):
        """`reach` from the point to the square's edge, in half-pictures."""
        super().__init__()
        offsets = torch.linspace(-reach, reach, self.TAPS)
        self.register_buffer("taps", torch.cartesian_prod(offsets, offsets), persistent=False)
        self.look = nn.Linear(channels * self.TAPS**2, hidden)
        self.which = nn.Parameter(torch.randn(POINTS, hidden) * 0.02)
        self.place = nn.Linear(2, hidden)
        self.together = nn.Linear(POINTS, POINTS)
        self.step = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2)
        )
        nn.init.zeros_(self.step[-1].weight)
        nn.init.zeros_(self.step[-1].bias)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        places = points.detach()[:, :, None] + self.taps
        seen = F.grid_sample(features.float(), places, padding_mode="border", align_corners=False)
        hidden = (
            self.look(rearrange(seen, "n c k t -> n k (c t)"))
            + self.which
            + self.place(points.detach())
        )
        hidden = hidden + self.together(F.silu(hidden).transpose(1, 2)).transpose(1, 2)
        return self.step(hidden).float()


@torch.inference_mode()
def find_landmarks(frames: Array, batch: int = 32) -> Array:
    """The 68 landmarks [f, 68, 2] of framed faces uint8 [f, 128, 128, 3], in pixels."""
    network = load_landmarker()
    found = []
    for start in range(0, len(frames), batch):
        part = (
            torch.from_numpy(frames[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        with matmul_precision("cpu"):
            found.append(network(part))
    return ((torch.cat(found) + 1) * SIZE_PX / 2).numpy()


@lru_cache(maxsize=1)
def load_landmarker() -> Landmarker:
    """The landmarker that scorers see faces with. Raises CheckpointError when its file is not the
    one that was shipped.

    It is that of `tiny`'s second checkpoint, kept apart: a scorer must not change with the
    generator that it scores.
    """
    path = MODELS_DIR / "landmarker" / "landmarker.safetensors"
    if not path.is_file() or sha256_of(path) != LANDMARKER_SHA256:
        raise CheckpointError(f"{path}: missing or damaged; install flowportrait again")
    with safe_open(path, "pt") as file:
        widths = tuple(int(width) for width in file.metadata()["widths"].split())
        network = Landmarker(widths, SIZE_PX // 8)
        network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return network.eval().requires_grad_(False)
