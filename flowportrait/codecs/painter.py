"""Decoder tokens to what a canvas shows: a refined flow, painted content and a mask, settled over
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.codecs.canvas import Painted
from flowportrait.codecs.motion import GROUP, gaussian
from flowportrait.codecs.mouth import pixel_places


class Drafts(NamedTuple):
    """Knowledge of each of n frames before the portrait is looked at: the `fine` part of the flow
    [n, 2, u, v] and features to `paint` [n, u, v, c] at 1/2, the `coarse` flow [n, 2, y, x] at 1/4,
    the map of the open `mouth` [n, 1, u, v], the `landmarks` [n, 68, 2] and the `gaze` [n, 2].
    """

    fine: Tensor
    paint: Tensor
    coarse: Tensor
    mouth: Tensor
    landmarks: Tensor
    gaze: Tensor

    def rows(self, start: int, stop: int | None = None) -> Drafts:
        """Some of the frames."""
        return Drafts(*(part[start:stop] for part in self))


class Painter(nn.Module):
    """Flow at 1/2 warps the portrait, three 3x3 convolutions at 1/2 paint and mask."""

    PAINT = 12  # painted features per half-size pixel
    FLOW_SCALE = 0.25  # tokens speak in units of a quarter of half the picture

    def __init__(self, width: int, hidden: int = 24):
        super().__init__()
        self.flow = nn.Linear(width, GROUP * 4 * 4 * 2)
        self.paint = nn.Linear(width, GROUP * 4 * 4 * self.PAINT)
        self.refine = nn.Sequential(
            nn.Conv2d(12 + self.PAINT + 3, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, 4 * 4, 3, padding=1),
        )
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)

    def draft(
        self, tokens: Float[Tensor, "b y x d"]
    ) -> tuple[Float[Tensor, "n 2 u v"], Float[Tensor, "n u v c"]]:
        """The fine flow and the features of the four frames of each group of tokens."""
        fine = rearrange(
            self.flow(tokens).float(),
            "b y x (f p q d) -> (b f) d (y p) (x q)",
            f=GROUP,
            p=4,
            q=4,
            d=2,
        )
        paint = rearrange(
            self.paint(tokens), "b y x (f p q c) -> (b f) (y p) (x q) c", f=GROUP, p=4, q=4
        )
        return fine, paint

    def finish(self, drafts: Drafts, portrait: Float[Tensor, "n 3 h w"]) -> Painted:
        """Frames at the model's size; `portrait` is that of each frame."""
        coarse = F.interpolate(
            drafts.coarse, drafts.fine.shape[-2:], mode="bilinear", align_corners=False
        )
        flow = coarse + self.FLOW_SCALE * drafts.fine
        height, width = portrait.shape[-2:]
        full = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False).permute(
            0, 2, 3, 1
        )
        places = pixel_places(height, width, flow.device) + full
        warped = F.grid_sample(portrait.float(), places, padding_mode="border", align_corners=False)
        return self._refined(warped, drafts, flow)

    def _refined(self, warped: Tensor, drafts: Drafts, flow: Tensor) -> Painted:
        """Paint and mask at full resolution."""
        half = rearrange(
            warped.to(drafts.paint.dtype), "n c (y p) (x q) -> n y x (p q c)", p=2, q=2
        )
        told = torch.cat(
            [drafts.mouth, F.interpolate(drafts.coarse, drafts.mouth.shape[-2:]) / self.FLOW_SCALE],
            1,
        )
        seen = torch.cat([half, drafts.paint, told.permute(0, 2, 3, 1).to(drafts.paint.dtype)], -1)
        refined = self.refine(seen.permute(0, 3, 1, 2))
        refined = rearrange(refined, "n (p q c) y x -> n c (y p) (x q)", p=2, q=2).float()
        return Painted(
            flow,
            warped,
            refined[:, 1:],
            torch.sigmoid(refined[:, :1]),
        )


SMOOTHING = 2.0  # frames: the deviation of the Gaussian over which drafts are averaged
REACH = 6  # frames on both sides


def smoothed(blocks: Iterable[Drafts]) -> Iterator[Drafts]:
    """Drafts of a clip, the same number in all, with fine flow and features averaged over
    neighbouring frames.

    Tokens are read once for four frames, so that the fine flow jumps at every fourth frame: 1.8 to
    2.0 times as much changed there as elsewhere. A block comes out once `REACH` frames behind it
    are known; the ends of a clip repeat.
    """
    kernel = gaussian(SMOOTHING, REACH)
    held, past = (
        None,
        REACH,
    )  # frames in hand; how many of the first are there for their neighbours only
    for block in blocks:
        held = _joined(_repeated(block, 0, REACH) if held is None else held, block)
        ready = len(held.fine) - past - REACH
        if ready > 0:
            yield _averaged(held, past, ready, kernel)
            held = held.rows(ready)
    if held is not None:
        held = _joined(held, _repeated(held, len(held.fine) - 1, REACH))
        yield _averaged(held, past, len(held.fine) - past - REACH, kernel)


def _repeated(drafts: Drafts, row: int, times: int) -> Drafts:
    return Drafts(*(part[row : row + 1].expand(times, *part.shape[1:]) for part in drafts))


def _joined(one: Drafts, other: Drafts) -> Drafts:
    return Drafts(*(torch.cat(pair) for pair in zip(one, other, strict=True)))


def _averaged(
    drafts: Drafts,
    start: int,
    count: int,
    kernel: Float[Tensor, " k"],
) -> Drafts:
    """Drafts from `start` on, each a mean of its neighbours in time by the weights of `kernel`."""
    reach = len(kernel) // 2
    band = torch.zeros(count, count + 2 * reach, device=drafts.fine.device)
    for k, weight in enumerate(kernel):
        band.diagonal(k).fill_(weight)

    def averaged(part: Tensor) -> Tensor:
        near = part[start - reach : start + reach + count].float().flatten(1)
        return (band @ near).view(count, *part.shape[1:]).to(part.dtype)

    rows = drafts.rows(start, start + count)
    return rows._replace(fine=averaged(drafts.fine), paint=averaged(drafts.paint))
