"""The mouth's own frame: what is painted in it goes where the lips go, and nowhere else."""

import math

import torch

from flowportrait.codecs.mouth import (
    CORNERS,
    LOWER_LIP,
    UPPER_LIP,
    MouthFrame,
    MouthPainter,
    pixel_places,
)

SIDE = 64


def face(centre=(0.1, 0.4), half_width=0.2, gap=0.1, turned=0.0):
    """68 points of which only the inner lips matter."""
    points = torch.zeros(68, 2)
    for corner, x in zip(CORNERS, (-1, 1), strict=True):
        points[corner, 0] = x * half_width
    for lip, y in ((UPPER_LIP, -gap / 2), (LOWER_LIP, gap / 2)):
        points[list(lip)] = torch.tensor([[x * half_width, y] for x in (-0.5, 0.0, 0.5)])
    turn = torch.tensor(
        [[math.cos(turned), math.sin(turned)], [-math.sin(turned), math.cos(turned)]]
    )
    return (points @ turn + torch.tensor(centre))[None]


def laid(landmarks):
    """How a black picture changes when a painter that likes white paints this mouth."""
    painter = MouthPainter(8)
    painter.body[-1].bias.data.fill_(3.0)
    black = torch.zeros(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        return painter(black, black, landmarks, landmarks)[0].mean(0)


def middle(picture):
    axis = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    mass = picture / picture.sum()
    return torch.stack([(mass.sum(0) * axis).sum(), (mass.sum(1) * axis).sum()])


def test_the_frame_is_that_of_the_inner_lips():
    mouth = MouthFrame.of(face(turned=0.5))
    torch.testing.assert_close(mouth.centre[0, 0], torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(mouth.along[0, 0], torch.tensor([math.cos(0.5), math.sin(0.5)]))
    torch.testing.assert_close(mouth.across[0, 0], torch.tensor([-math.sin(0.5), math.cos(0.5)]))
    torch.testing.assert_close(mouth.half_width[0, 0], torch.tensor(0.2))
    assert abs(mouth.half_height[0, 0] - 0.07) < 1e-6
    assert MouthFrame.of(face(gap=-0.1)).half_height[0, 0] > 0, "crossed lips are a closed mouth"


def test_paint_goes_where_the_lips_go_and_nowhere_else():
    for at in ((0.1, 0.4), (-0.3, 0.1)):
        painted = laid(face(centre=at))
        torch.testing.assert_close(middle(painted), torch.tensor(at), atol=0.01, rtol=0)
        rows, columns = torch.where(painted > 0)
        x, y = (columns + 0.5) * 2 / SIDE - 1 - at[0], (rows + 0.5) * 2 / SIDE - 1 - at[1]
        assert x.abs().max() < 0.2 * 1.3 + 0.05 and y.abs().max() < 0.07 * 2.2 + 0.05


def test_a_wider_gap_gets_more_paint_and_a_turned_mouth_turned_paint():
    assert laid(face(gap=0.2)).sum() > 1.4 * laid(face(gap=0.1)).sum()
    upright = laid(face(turned=math.pi / 2))
    rows, columns = torch.where(upright > 0.5)
    assert rows.max() - rows.min() > 1.3 * (columns.max() - columns.min())


def test_lips_learn_from_the_picture():
    """The picture's error reaches the landmarks: a landmarker can be trained through the
    painter.
    """
    landmarks = face().requires_grad_()
    painter = MouthPainter(8)
    painter.body[-1].bias.data.fill_(3.0)
    picture = painter(
        torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE), face(), landmarks
    )
    (picture * torch.linspace(0, 1, SIDE)).sum().backward()
    gradient = landmarks.grad[0]
    assert gradient[list(UPPER_LIP)].abs().sum() > 0 and gradient[list(CORNERS)].abs().sum() > 0


def test_what_is_laid_into_a_mouth_can_be_cut_out_again():
    mouth = MouthFrame.of(face(turned=0.4, gap=0.3, half_width=0.4))
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    patch = torch.nn.functional.interpolate(coarse, (16, 24))
    laid = mouth.lay(patch, pixel_places(256, 256, patch.device))
    cut = mouth.cut(laid, MouthPainter.SIZE)
    torch.testing.assert_close(cut[..., 2:-2, 2:-2], patch[..., 2:-2, 2:-2], atol=0.08, rtol=0)
