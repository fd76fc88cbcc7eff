"""Lids that cover the eyeball and irises that turn, by geometry alone."""

import pytest
import torch

from flowportrait.codecs.canvas import Canvas, Painted
from flowportrait.codecs.eyes import EYES, EyeMotion, EyeShape, eye_motions, eyes_of, lid_ratio
from flowportrait.codecs.mouth import pixel_places

SIDE = 256
SKIN, WHITE, IRIS = 0.4, 0.9, -0.8
CENTRE, HALF_WIDTH, GAP = (-0.25, -0.2), 0.16, 0.1


def face(gap=GAP) -> torch.Tensor:
    """68 points with both eyes open by `gap`."""
    points = torch.zeros(68, 2)
    for eye, part in enumerate(EYES):
        x = torch.tensor([-1, -0.5, 0.5, 1, 0.5, -0.5]) * HALF_WIDTH + (
            CENTRE[0] if eye == 0 else -CENTRE[0]
        )
        y = torch.tensor([0, -1, -1, 0, 1, 1]) * gap / 2 + CENTRE[1]
        points[part] = torch.stack([x, y], -1)
    points[17:27, 1] = CENTRE[1] - 0.25
    points[17:22, 0], points[22:27, 0] = CENTRE[0], -CENTRE[0]
    return points


def portrait() -> torch.Tensor:
    """Skin with two almond eyes."""
    places = pixel_places(SIDE, SIDE, torch.device("cpu"))
    picture = torch.full((SIDE, SIDE), SKIN)
    for sign in (1, -1):
        offset = places - torch.tensor([sign * CENTRE[0], CENTRE[1]])
        eye = offset[..., 1].abs() < GAP / 2 * (1 - (offset[..., 0] / HALF_WIDTH) ** 2)
        picture[eye] = WHITE
        picture[eye & (offset.norm(dim=-1) < 0.45 * GAP)] = IRIS
    return picture.expand(1, 3, -1, -1).clone()


def shown(landmarks, gaze=(0.0, 0.0)) -> torch.Tensor:
    own = face()
    canvas = Canvas(portrait(), eyes=eyes_of(own))
    looks = torch.tensor(gaze).expand(len(landmarks), 2)
    motions = tuple(
        eye_motions(landmarks, own, shape, eye, looks) for eye, shape in enumerate(canvas.eyes)
    )
    still = torch.zeros(len(landmarks), 2, 32, 32)
    pictures = torch.zeros(len(landmarks), 3, 64, 64)
    painted = Painted(still, pictures, pictures, torch.ones(len(landmarks), 1, 64, 64))
    return canvas.show(painted, motions)[:, 0]


def test_eyes_that_do_nothing_stay_as_they_are():
    assert (shown(face()[None])[0] - portrait()[0, 0]).abs().mean() < 0.002


def test_a_shut_eye_shows_neither_iris_nor_white():
    closed = shown(face(gap=0.0)[None])[0]
    around = slice(int((CENTRE[1] - 0.2 + 1) / 2 * SIDE), int((CENTRE[1] + 0.2 + 1) / 2 * SIDE))
    assert (closed[around] - SKIN).abs().max() < 0.25, "lid edges may be mixed within a pixel"
    assert ((closed[around] - SKIN).abs() > 0.1).float().mean() < 0.01
    assert (portrait()[0, 0][around] - SKIN).abs().max() > 1


def test_half_a_lid_covers_half_an_eye():
    visible = [
        float((shown(face(gap=GAP * share)[None])[0] < 0).sum()) for share in (0.9, 0.575, 0.3)
    ]
    assert visible[0] > visible[1] > visible[2] == 0


def test_the_iris_goes_where_the_gaze_says():
    pictures = [shown(face()[None], gaze)[0] for gaze in ((0.0, 0.0), (0.2, 0.0))]
    columns = pixel_places(SIDE, SIDE, torch.device("cpu"))[..., 0]
    left = columns < 0
    means = [float(columns[left & (picture < 0)].mean()) for picture in pictures]
    assert means[1] - means[0] == pytest.approx(0.2 * HALF_WIDTH, abs=0.006)
    sizes = [int((picture < 0).sum()) for picture in pictures]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15), "the iris keeps its size"


def test_trembling_landmarks_move_no_lid_and_a_nearly_shut_eye_is_shut():
    own = face()
    shares = torch.tensor([1.0, 0.9, 0.86, 0.3, 0.2, 0.0, 1.3])
    landmarks = torch.stack([face(gap=GAP * float(share)) for share in shares])
    ratio = lid_ratio(landmarks, own, 0)
    assert torch.equal(ratio[:3], torch.ones(3)) and torch.equal(ratio[3:6], torch.zeros(3))
    assert 1 < float(ratio[6]) < 1.13


def test_an_eye_goes_where_its_corners_go():
    own = face()
    moved = own + torch.tensor([0.05, -0.03])
    motion = eye_motions(moved[None], own, eyes_of(own)[1], 1, torch.zeros(1, 2))
    assert isinstance(motion, EyeMotion)
    torch.testing.assert_close(
        motion.centre[0], torch.tensor([-CENTRE[0] + 0.05, CENTRE[1] - 0.03])
    )
    torch.testing.assert_close(motion.half_width[0], torch.tensor(HALF_WIDTH))


def test_dense_contours_and_an_iris_are_taken_as_they_are():
    angle = torch.linspace(torch.pi, 2 * torch.pi, 9)
    upper = torch.stack([0.2 * torch.cos(angle), 0.08 * torch.sin(angle)], -1)
    lower = upper * torch.tensor([1.0, -0.5])
    shape = EyeShape.of(upper, lower, iris=torch.tensor([0.04, 0.0]), radius=0.05)
    torch.testing.assert_close(shape.iris, torch.tensor([0.2, 0.0]), atol=1e-5, rtol=0)
    assert float(shape.radius) == pytest.approx(0.25, abs=1e-5)
    assert float(shape.opening) == pytest.approx((0.08 + 0.04) / 0.2, abs=1e-3)
