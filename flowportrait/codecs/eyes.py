"""Eyes at full resolution: lids that close over an eyeball that stays, and irises that turn.

The flow of the decoder has cells of a few pixels and cannot close an eye that is three of them
high. Here the portrait's own pixels are moved by geometry alone: above the upper lid the skin
follows its edge, between the lids the eyeball stays where it is and is covered, and its iris moves
by the gaze. Nothing is painted, so nothing gets blurred.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EYES = (
    slice(36, 42),
    slice(42, 48),
)  # of the 68 points: corner, two of the upper lid, corner, two of the lower
BROWS = slice(17, 22), slice(22, 27)
TABLE = 33  # samples of a lid's height from corner to corner
BROW, CHEEK = (
    0.95,
    0.6,
)  # how far above and below the lids the skin moves with them, at most, in half widths
LASHES, FOLDED = (
    0.14,
    0.35,
)  # how high the upper lashes stand, and the share of it that is seen of a shut eye
MEET = 0.15  # lids meet this share of the opening above the lower lid
RIM = 0.07  # of the lower lid: the bright edge that a shut upper lid covers, in half widths
SIDE = 1.45  # where the eye's region ends beyond its corners, in half widths
REGION = 1.9  # half the side of the square outside of which an eye moves nothing, in half widths
SHUT, OPEN = 0.3, 0.85  # shares of the portrait's opening that are seen as closed and as open
WIDEST = 1.12


class EyeShape(NamedTuple):
    """One eye of a portrait. `centre` [2] and `along` [2] (the unit vector from corner to corner)
    in the square's coordinates, `half_width` there; the lids' heights `upper` and `lower` [33] from
    corner to corner, the `iris` [2] and its `radius` in the eye's own frame: x along, y down, in
    half widths; and how far above the lid the skin moves with it, short of the `brow`.
    """

    centre: Tensor
    along: Tensor
    half_width: Tensor
    upper: Tensor
    lower: Tensor
    iris: Tensor
    radius: Tensor
    brow: Tensor

    @classmethod
    def of(
        cls,
        upper: Float[Tensor, "n 2"],
        lower: Float[Tensor, "m 2"],
        iris: Float[Tensor, "2"] | None = None,
        radius: float | None = None,
        brow: Float[Tensor, "k 2"] | None = None,
    ) -> EyeShape:
        """An eye from the points of both lids, each from one corner to the other, left to right in
        the face's frame, and where they are known of iris and brow.
        """
        start, stop = (upper[0] + lower[0]) / 2, (upper[-1] + lower[-1]) / 2
        centre, half_width = (start + stop) / 2, (stop - start).norm().clamp(min=1e-3) / 2
        along = (stop - start) / (2 * half_width)
        heights = [_table(_local(points, centre, along, half_width)) for points in (upper, lower)]
        lids = torch.minimum(heights[0], heights[1]), torch.maximum(heights[0], heights[1])
        if iris is None:
            place = torch.stack([torch.zeros(()), (lids[0] + lids[1])[TABLE // 2] / 2]).to(centre)
        else:
            place = _local(iris[None], centre, along, half_width)[0]
        size = torch.as_tensor(0.42 if radius is None else radius / float(half_width)).to(centre)
        room = torch.as_tensor(BROW).to(centre)
        if brow is not None:
            height = -_local(brow, centre, along, half_width)[:, 1].mean() + lids[0][TABLE // 2]
            room = (0.75 * height).clamp(0.3, BROW)
        return cls(centre, along, half_width, *lids, place, size, room)

    @property
    def opening(self) -> Tensor:
        """The gap between the lids halfway, in half widths."""
        return (self.lower - self.upper)[TABLE // 2]


def eyes_of(landmarks: Float[Tensor, "68 2"]) -> tuple[EyeShape, EyeShape]:
    """Both eyes from the 68 points; `EyeShape.of` takes denser contours."""
    eyes = ((landmarks[part], landmarks[brow]) for part, brow in zip(EYES, BROWS, strict=True))
    first, second = (EyeShape.of(eye[:4], eye[[0, 5, 4, 3]], brow=brow) for eye, brow in eyes)
    return first, second


def lid_ratio(
    landmarks: Float[Tensor, "n 68 2"], portrait: Float[Tensor, "68 2"], eye: int
) -> Float[Tensor, " n"]:
    """How far the eye (0 or 1) stands open in each frame, as a share of the portrait's opening: 0
    is shut, and what is nearly shut or nearly as the portrait's is taken as such. Landmarks
    tremble, and lids must not.
    """
    now = _gap(landmarks[:, EYES[eye]])
    own = _gap(portrait[None, EYES[eye]])
    share = now / own.clamp(min=1e-3)
    level = (share - SHUT) / (OPEN - SHUT)
    return torch.where(share > 1, share.clamp(max=WIDEST), level.clamp(0, 1))


class EyeMotion(NamedTuple):
    """The motion of an eye in n frames: where it is (`centre` [n, 2], `along` [n, 2], `half_width`
    [n] as in `EyeShape`), how far it is `open` [n] (0 to about 1), and how far the iris is `turned`
    [n, 2] from its place, in half widths.
    """

    centre: Tensor
    along: Tensor
    half_width: Tensor
    open: Tensor
    turned: Tensor

    def region(self) -> tuple[Float[Tensor, "2"], Float[Tensor, ""]]:
        """The centre and half the side of the square outside of which the eye moves nothing in any
        of the frames, in square coordinates.
        """
        reach = REGION * self.half_width[:, None]
        low = (self.centre - reach).amin(0)
        high = (self.centre + reach).amax(0)
        return (low + high) / 2, (high - low).amax() / 2


def eye_motions(
    landmarks: Float[Tensor, "n 68 2"],
    portrait: Float[Tensor, "68 2"],
    shape: EyeShape,
    eye: int,
    gaze: Float[Tensor, "n 2"],
) -> EyeMotion:
    """The movement of one eye (0 or 1): it goes where its corners go, and looks where the `gaze`
    says.
    """
    corners = [EYES[eye].start, EYES[eye].start + 3]
    moved, own = landmarks[:, corners], portrait[corners]
    shift = (moved - own).mean(1)
    before, after = own[1] - own[0], moved[:, 1] - moved[:, 0]
    scale = after.norm(dim=-1) / before.norm().clamp(min=1e-3)
    turn = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[1], before[0])
    cos, sin = torch.cos(turn), torch.sin(turn)
    along = torch.stack(
        [cos * shape.along[0] - sin * shape.along[1], sin * shape.along[0] + cos * shape.along[1]],
        -1,
    )
    is_open = lid_ratio(landmarks, portrait, eye)
    return EyeMotion(shape.centre + shift, along, shape.half_width * scale, is_open, gaze)


class MovedEye(NamedTuple):
    """An eye in a window of n frames, as three layers that cover each other: what is over the upper
    lid's edge, what is under the lower lid's, and the eyeball between them. `flows` [3, n, h, w, 2]
    in square coordinates say where each comes from, `shares` [3, n, h, w] what is seen of it;
    `weight` [n, h, w] is how much of each pixel the eye decides.
    """

    flows: Tensor
    shares: Tensor
    weight: Tensor


def move_eye(
    shape: EyeShape,
    motion: EyeMotion,
    places: Float[Tensor, "h w 2"],
    flow: Float[Tensor, "n h w 2"],
    pixel: float,
) -> MovedEye:
    """The eye at `places` of every frame, on top of its `flow`; `pixel` is the width of one in
    square coordinates. Layers meet within a pixel: one flow that jumps at the lid's edge would show
    the edge as stairs.
    """
    centre, along, half_width, is_open, turned = (part[:, None, None] for part in motion)
    offset = (places - centre) / half_width[..., None]
    x = (offset * along).sum(-1)
    y = offset[..., 1] * along[..., 0] - offset[..., 0] * along[..., 1]
    upper, lower = _height(shape.upper, x), _height(shape.lower, x)
    meet = lower + MEET * (upper - lower)
    now_upper, now_lower = meet + (upper - meet) * is_open, meet + (lower - meet) * is_open
    brow, cheek = upper - shape.brow, lower + CHEEK
    over = upper - _over_lid(now_upper - y, now_upper - brow, shape.brow, is_open)
    rim = RIM * (1 - is_open.clamp(max=1))
    under = y - (now_lower - lower - rim) * _ease((cheek - y) / (cheek - now_lower).clamp(min=1e-3))
    ball_x, ball_y = _ball(shape, turned, x, y, upper, lower)
    sharp = half_width / pixel
    is_over = ((now_upper - y) * sharp + 0.5).clamp(0, 1)
    is_under = torch.minimum(((y - now_lower) * sharp + 0.5).clamp(0, 1), 1 - is_over)
    own_across = torch.stack([-shape.along[1], shape.along[0]])
    from_x, from_y = (
        torch.stack(layers)[..., None] for layers in ([x, x, ball_x], [over, under, ball_y])
    )
    sources = shape.centre + shape.half_width * (from_x * shape.along + from_y * own_across)
    weight = _ease((SIDE - x.abs()) / (SIDE - 1.1))
    weight = weight * _ease((y - brow) / (0.5 * shape.brow)) * _ease((cheek - y) / CHEEK)
    weight = weight * (offset.abs().amax(-1) <= REGION)
    flows = torch.lerp(flow.expand_as(sources), sources - places, weight[..., None])
    return MovedEye(flows, torch.stack([is_over, is_under, 1 - is_over - is_under]), weight)


def _over_lid(height: Tensor, room: Tensor, own_room: Tensor, is_open: Tensor) -> Tensor:
    """How far over the portrait's lid lies what is seen `height` over the moved one, with `room` to
    the brow: the skin stretches, lashes fold.
    """
    shown = LASHES * (FOLDED + (1 - FOLDED) * is_open.clamp(max=1))
    stretch = (own_room - LASHES) / (room - shown).clamp(min=1e-3)
    skin = LASHES + (height - shown) * stretch
    return torch.where(
        height < shown, height * LASHES / shown, torch.where(height < room, skin, height)
    )


def _ball(
    shape: EyeShape, turned: Tensor, x: Tensor, y: Tensor, upper: Tensor, lower: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the eyeball's pixels come from: the iris as a whole turns, white makes room, lids are
    never looked at.
    """
    centre = shape.iris + turned
    distance = torch.hypot(x - centre[..., 0], y - centre[..., 1])
    share = ((shape.radius + 0.55 - distance) / 0.5).clamp(0, 1) * ((1.0 - x.abs()) / 0.2).clamp(
        0, 1
    )
    edge = 0.06 * (lower - upper)
    ball_y = torch.minimum(torch.maximum(y - share * turned[..., 1], upper + edge), lower - edge)
    return x - share * turned[..., 0], ball_y


def _ease(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, level at both ends."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _local(
    points: Float[Tensor, "n 2"], centre: Tensor, along: Tensor, half_width: Tensor
) -> Float[Tensor, "n 2"]:
    offset = (points - centre) / half_width
    return torch.stack([offset @ along, offset @ torch.stack([-along[1], along[0]])], -1)


def _table(points: Float[Tensor, "n 2"]) -> Float[Tensor, "33"]:
    """Heights of a lid at equal steps from corner to corner, by linear interpolation; 0 at both
    corners.
    """
    order = points[:, 0].argsort()
    x = points[order, 0].clone()
    y = points[order, 1].clone()
    x[0], x[-1], y[0], y[-1] = -1, 1, 0, 0
    at = torch.linspace(
        -1,
        1,
        TABLE,
        device=points.device,
        dtype=points.dtype,
    )
    right = torch.searchsorted(x.contiguous(), at.contiguous()).clamp(1, len(x) - 1)
    share = ((at - x[right - 1]) / (x[right] - x[right - 1]).clamp(min=1e-4)).clamp(0, 1)
    return torch.lerp(y[right - 1], y[right], share)


def _height(table: Float[Tensor, "33"], x: Tensor) -> Tensor:
    """The lid's height at `x`; beyond the corners it is 0."""
    at = ((x.clamp(-1, 1) + 1) / 2 * (TABLE - 1)).clamp(0, TABLE - 1.001)
    cell = at.long()
    return torch.lerp(table[cell], table[cell + 1], at - cell)


def _gap(eye: Float[Tensor, "n 6 2"]) -> Float[Tensor, " n"]:
    """The mean gap between both lids as a share of the eye's width."""
    height = ((eye[:, 4] + eye[:, 5]) - (eye[:, 1] + eye[:, 2])).norm(dim=-1) / 2
    return height / (eye[:, 3] - eye[:, 0]).norm(dim=-1).clamp(min=1e-3)
