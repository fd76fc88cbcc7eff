"""Where a mouth lies, and what it looks like inside."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.faces.landmarks import CORNERS, LOWER_LIP, POINTS, UPPER_LIP


def pixel_places(height: int, width: int, device: torch.device) -> Float[Tensor, "h w 2"]:
    """(x, y) of every pixel's centre, in [-1, 1]."""
    rows = (torch.arange(height, device=device) + 0.5) * 2 / height - 1
    columns = (torch.arange(width, device=device) + 0.5) * 2 / width - 1
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)


def mouth_map(landmarks: Float[Tensor, "n 68 2"], side: int) -> Float[Tensor, "n 1 side side"]:
    """About 1 between the inner lips and 0 elsewhere: where there is something to paint."""
    upper, lower, corners = (landmarks[:, list(part)] for part in (UPPER_LIP, LOWER_LIP, CORNERS))
    centre = (upper + lower) / 2
    height = (lower - upper).norm(dim=-1) / 2 + 0.008
    width = (corners[:, 1] - corners[:, 0]).norm(dim=-1, keepdim=True) / 5 + 0.008
    offset = pixel_places(side, side, landmarks.device) - centre[:, :, None, None]
    x = offset[..., 0] / width[..., None, None]
    y = offset[..., 1] / height[..., None, None]
    return torch.exp(-0.5 * (x.square() + y.square())).amax(1, keepdim=True)


PATCH_WIDTH = 0.27  # of the square, of an ordinary face
PATCH_REACH = (1.3, 2.2)  # of the painted patch, in half widths and half heights of the open mouth


class MouthFrame(NamedTuple):
    """Where a mouth lies, [n, 1, 2] each but the sizes [n, 1]: the middle of the gap between the
    inner lips, the direction from corner to corner and the one across; half the width, and half the
    height of the gap.
    """

    centre: Tensor
    along: Tensor
    across: Tensor
    half_width: Tensor
    half_height: Tensor

    @classmethod
    def of(cls, landmarks: Float[Tensor, "n 68 2"]) -> MouthFrame:
        """The frame of the inner lips; a closed mouth keeps a little height."""
        upper, lower = (landmarks[:, list(part)].mean(1) for part in (UPPER_LIP, LOWER_LIP))
        span = landmarks[:, CORNERS[1]] - landmarks[:, CORNERS[0]]
        width = span.norm(dim=-1, keepdim=True).clamp(min=0.02)
        along = span / width
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        gap = ((lower - upper) * across).sum(-1, keepdim=True).clamp(min=0)
        return cls(
            (upper + lower)[:, None] / 2, along[:, None], across[:, None], width / 2, gap / 2 + 0.02
        )

    def cut(
        self,
        frames: Float[Tensor, "n c h w"],
        size: tuple[int, int],
        reach: tuple[float, float] = PATCH_REACH,
    ) -> Tensor:
        """The content of the frame, [n, c, *size], as far as `reach` half widths and half
        heights.
        """
        cells = pixel_places(*size, frames.device).flatten(0, 1)
        along = cells[:, :1] * self.half_width[:, None] * reach[0] * self.along
        across = cells[:, 1:] * self.half_height[:, None] * reach[1] * self.across
        places = (self.centre + along + across).unflatten(1, size)
        return F.grid_sample(frames.float(), places, align_corners=False)

    def lay(
        self, patch: Float[Tensor, "n c y x"], places: Float[Tensor, "h w 2"]
    ) -> Float[Tensor, "n c h w"]:
        """A patch laid into the frame on an empty picture whose pixels have these places: the
        reverse of `cut`.
        """
        offset = places[None] - self.centre[:, None]
        x = (offset * self.along[:, None]).sum(-1) / (PATCH_REACH[0] * self.half_width[:, None])
        y = (offset * self.across[:, None]).sum(-1) / (PATCH_REACH[1] * self.half_height[:, None])
        return F.grid_sample(patch, torch.stack([x, y], -1), align_corners=False)

    def window(self) -> tuple[Float[Tensor, "2"], Float[Tensor, ""]]:
        """Middle and half the side of the square that holds all patches."""
        reach = torch.hypot(PATCH_REACH[0] * self.half_width, PATCH_REACH[1] * self.half_height)
        low = (self.centre[:, 0] - reach).amin(0)
        high = (self.centre[:, 0] + reach).amax(0)
        return (low + high) / 2, (high - low).amax() / 2


class Mouth(NamedTuple):
    """Patches in the frame of the lips: colours [n, 3, y, x] in [-1, 1], and how much of what is
    there they cover.
    """

    colours: Tensor
    cover: Tensor

    @property
    def patch(self) -> Float[Tensor, "n 4 y x"]:
        """Colours to add to a picture, [:, :3], when as much of it as [:, 3:] says is taken."""
        return torch.cat([self.cover * self.colours, self.cover], 1)


class MouthPainter(nn.Module):
    """The inside of the mouth, painted in the frame of the lips and laid between them.

    Teeth and the dark behind them look alike in all faces and differ in place. A painter on the
    picture's grid has to learn them for every place anew, and stayed a grey blur.
    """

    SIZE = (16, 24)
    REACH = PATCH_REACH
    LOOK = (8, 12)  # cells of the portrait's mouth

    def __init__(self, width: int = 320):
        super().__init__()
        look = 3 * self.LOOK[0] * self.LOOK[1]
        self.body = nn.Sequential(
            nn.Linear(look + 2 * POINTS, width),
            nn.GELU("tanh"),
            nn.Linear(width, width),
            nn.GELU("tanh"),
            nn.Linear(width, 4 * self.SIZE[0] * self.SIZE[1]),
        )
        # The patch begins by covering the gap between the lips: begun as a faint veil it stays one,
        # in glaring colours.
        radius = pixel_places(*self.SIZE, torch.device("cpu")).norm(dim=-1)
        self.body[-1].bias.data[: radius.numel()] = (2 - 6 * radius.square()).flatten()

    def forward(
        self,
        frames: Float[Tensor, "n 3 h w"],
        portrait: Float[Tensor, "b 3 h w"],
        portrait_landmarks: Float[Tensor, "b 68 2"],
        landmarks: Float[Tensor, "n 68 2"],
    ) -> Float[Tensor, "n 3 h w"]:
        """Frames with their mouths; every portrait belongs to n / b of them in a row."""
        patch = self.paint(portrait, portrait_landmarks, landmarks).patch
        places = pixel_places(*frames.shape[-2:], frames.device)
        laid = MouthFrame.of(landmarks).lay(patch, places)  # nothing beyond the patch
        return frames * (1 - laid[:, 3:]) + laid[:, :3]

    def paint(
        self,
        portrait: Float[Tensor, "b 3 h w"],
        portrait_landmarks: Float[Tensor, "b 68 2"],
        landmarks: Float[Tensor, "n 68 2"],
    ) -> Mouth:
        """Paint between the lips. Training also holds its colours against the truth, as long as
        they cover nothing they would never learn.
        """
        mouth = MouthFrame.of(landmarks)
        own = MouthFrame.of(portrait_landmarks)
        wide = own._replace(half_height=own.half_width)  # a closed mouth, too, shows its lips
        look = wide.cut(portrait, self.LOOK, (1.5, 1.5)).flatten(1)
        look = repeat(look, "b d -> (b f) d", f=len(landmarks) // len(portrait))
        shape = ((landmarks - mouth.centre) / mouth.half_width[:, None] / 2).flatten(1)
        painted = self.body(torch.cat([look, shape], -1)).float().unflatten(-1, (4, *self.SIZE))
        return Mouth(torch.tanh(painted[:, 1:]), torch.sigmoid(painted[:, :1]))

    def missed(
        self,
        truth: Float[Tensor, "n 3 h w"],
        portrait: Float[Tensor, "b 3 h w"],
        portrait_landmarks: Float[Tensor, "b 68 2"],
        landmarks: Float[Tensor, "n 68 2"],
    ) -> Tensor:
        """L1 distance of the painted colours from what is there in the true frames."""
        colours = self.paint(portrait, portrait_landmarks, landmarks).colours
        return (colours - MouthFrame.of(landmarks).cut(truth, self.SIZE)).abs().mean()
