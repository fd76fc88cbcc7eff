"""Two small towers that agree where mouth and sound belong together: the network of the scorer
`sync-small`.

Lips are seen as grey pictures of the mouth, cut about points that do not move when somebody speaks,
so that all of the mouth's motion stays in the picture. Every frame gets an embedding of the seven
frames around it, and every moment of the sound one of the same length; their cosines, averaged over
a clip, say how well a shift of the sound fits (SyncNet, Chung and Zisserman 2016, with a contrast
over clips and shifts instead of pairs).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.encoders.mel import MelEncoder
from flowportrait.tensors import Crops, LandmarkTrack, Rows, Tokens

MOUTH_PX = 48
LUMA = (0.299, 0.587, 0.114)

_EYES = (slice(36, 42), slice(42, 48))
_NOSE = slice(31, 36)
_LIP_CORNERS = [48, 54]
_SIDE = 1.4  # of the mouth's square, in distances between the eyes
# eyes' distance over that from eyes to nose: the larger of both is the scale of a turned head
_NOSE_PER_EYES = 1.35
_SMOOTH_FRAMES = 3.0


class LipEncoder(nn.Module):
    """Grey mouths [b, f, s, s] to one vector a frame [b, f, d], each seeing three frames to both
    sides.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        widths = (24, 64, 96, 128)
        self.stem = nn.Conv2d(
            3, widths[0], 5, stride=2, padding=2
        )  # a frame between its neighbours
        stages = []
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
            stages += [
                nn.GroupNorm(8, narrow),
                nn.SiLU(),
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
                Residual(wide),
            ]
        self.body = nn.Sequential(*stages)
        self.read = nn.Linear(widths[-1] * (MOUTH_PX // 16) ** 2, width)
        self.time = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.out = nn.Linear(width, dim)

    def trunk(self, mouths: Float[Tensor, "b f s s"]) -> Float[Tensor, "b f w"]:
        """Features that the head reads."""
        shown = torch.cat([mouths[:, :1], mouths, mouths[:, -1:]], 1)
        triples = rearrange(shown.unfold(1, 3, 1), "b f y x t -> (b f) t y x")
        cells = self.body(self.stem(triples.contiguous(memory_format=torch.channels_last)))
        x = self.read(rearrange(cells, "(b f) c y x -> b f (c y x)", b=len(mouths)))
        for norm, conv in zip(self.norms[:-1], self.time, strict=True):
            change = conv(rearrange(F.silu(norm(x)), "b f w -> b w f"))
            x = x + rearrange(change, "b w f -> b f w")
        return self.norms[-1](x)

    def forward(self, mouths: Float[Tensor, "b f s s"]) -> Float[Tensor, "b f d"]:
        return F.normalize(self.out(self.trunk(mouths)).float(), dim=-1)


class Residual(nn.Module):
    """One 3x3 convolution beside its input."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class SyncNetwork(nn.Module):
    """Both towers. Embeddings have unit length, 24 per second."""

    class Config(Frozen):
        """Sizes."""

        lip_width: int = 224
        sound: MelEncoder.Config = MelEncoder.Config(width=160, dilations=(1, 2, 4))
        dim: int = 128

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.lips = LipEncoder(config.lip_width, config.dim)
        self.sound = MelEncoder(config.sound)
        self.sound_out = nn.Linear(config.sound.width, config.dim)

    def hear(self, mels: Float[Tensor, "b 80 m"], num_frames: int) -> Tokens:
        """One embedding for every frame's moment of levelled log-mels (`MelEncoder.mels`)."""
        return F.normalize(self.sound_out(self.sound.encode(mels, num_frames)).float(), dim=-1)


def shift_profile(lips: Rows, sounds: Float[Tensor, "m d"], reach: int) -> Float[Tensor, " shifts"]:
    """Mean cosine of the frames with the sound `shift` frames later, shift = -reach .. reach, where
    both exist; nan where nothing overlaps.
    """
    means = []
    for shift in range(-reach, reach + 1):
        seen = lips[max(0, -shift) :]
        heard = sounds[max(0, shift) :]
        count = min(len(seen), len(heard))
        means.append((seen[:count] * heard[:count]).sum(-1).mean())
    return torch.stack(means)


def mouth_places(landmarks: LandmarkTrack) -> Float[Tensor, "f 2 3"]:
    """Where the mouth's square lies: maps from [-1, 1] of the square to pixels, from landmarks in
    pixels.

    Eyes and the base of the nose carry it; where the mouth stands beneath them is the clip's
    median. All is smoothed over time, so that neither speech nor the landmarks' noise moves the
    square.
    """
    left, right = (landmarks[:, eye].mean(1) for eye in _EYES)
    nose = landmarks[:, _NOSE].mean(1)
    eyes = (left + right) / 2
    across = right - left
    scale = torch.maximum(across.norm(dim=-1), _NOSE_PER_EYES * (nose - eyes).norm(dim=-1)).clamp(
        min=1e-3
    )
    axis = across / across.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    turn = torch.stack(
        [axis, torch.stack([-axis[:, 1], axis[:, 0]], -1)], -1
    )  # columns: right and down of the face
    return _mouth_maps(landmarks, turn, nose, scale)


def _mouth_maps(
    landmarks: LandmarkTrack,
    turn,
    nose,
    scale,
) -> Float[Tensor, "f 2 3"]:
    """Affine maps from a square of side 2 to the mouth in each frame; it sits at one place of the
    head throughout.
    """
    mouth = landmarks[:, _LIP_CORNERS].mean(1)
    beneath = (
        torch.linalg.solve(turn, ((mouth - nose) / scale[:, None])[..., None])[..., 0]
        .median(0)
        .values
    )
    centre = nose + scale[:, None] * (turn @ beneath[:, None])[..., 0]
    maps = torch.cat([turn * (scale.median() * _SIDE / 2), centre[..., None]], -1)
    return _smoothed(maps.flatten(1)).unflatten(1, (2, 3))


def _smoothed(rows: Float[Tensor, "f k"]) -> Float[Tensor, "f k"]:
    """A Gaussian's mean over time; the ends are repeated."""
    reach = int(3 * _SMOOTH_FRAMES)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / _SMOOTH_FRAMES) ** 2)
    kernel = (kernel / kernel.sum()).to(rows)
    padded = F.pad(rows.T[None], (reach, reach), mode="replicate")[0]
    return F.conv1d(padded[:, None], kernel[None, None])[:, 0].T


def cut_mouths(
    frames: UInt8[Tensor, "f h w 3"],
    places: Float[Tensor, "f 2 3"],
    bend: Float[Tensor, "2 p q"] | None = None,
) -> Crops:
    """The squares at `places` in [0, 1], bent by offsets in half-squares where given; beyond the
    picture its edge.
    """
    height, width = frames.shape[1:3]
    axis = (torch.arange(MOUTH_PX) + 0.5) * 2 / MOUTH_PX - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    if bend is not None:
        smooth = F.interpolate(
            bend[None], (MOUTH_PX, MOUTH_PX), mode="bicubic", align_corners=True
        )[0]
        grid = grid + smooth.permute(1, 2, 0)
    pixels = torch.einsum("fij,yxj->fyxi", places[..., :2], grid) + places[:, None, None, :, 2]
    return _sampled(pixels, width, height, frames)


def _sampled(
    pixels,
    width,
    height,
    frames: UInt8[Tensor, "f h w 3"],
) -> Crops:
    """The squares' pixels; only the part of the frames that holds all of them is converted."""
    low = pixels.amin((0, 1, 2)).floor().long() - 1
    high = pixels.amax((0, 1, 2)).ceil().long() + 2
    x0, y0 = (int(v) for v in low.clamp(min=0).minimum(torch.tensor([width - 2, height - 2])))
    x1, y1 = (
        int(v)
        for v in high.minimum(torch.tensor([width, height])).maximum(torch.tensor([x0 + 2, y0 + 2]))
    )
    part = rearrange(frames[:, y0:y1, x0:x1], "f h w c -> f c h w").float() / 255
    size = torch.tensor([x1 - x0, y1 - y0], dtype=torch.float32)
    unit = (pixels - torch.tensor([x0, y0])) * 2 / size - 1
    return F.grid_sample(part, unit, mode="bilinear", padding_mode="border", align_corners=False)


def as_seen(
    mouths: Float[Tensor, "... f 3 s s"], weights: Float[Tensor, "3"] | None = None
) -> Tensor:
    """Grey, of zero mean and unit spread over each clip: [..., f, s, s]."""
    weights = torch.tensor(LUMA) if weights is None else weights
    grey = torch.einsum("...chw,c->...hw", mouths, weights)
    mean = grey.mean((-3, -2, -1), keepdim=True)
    return (grey - mean) / (grey.std((-3, -2, -1), keepdim=True) + 0.02)
