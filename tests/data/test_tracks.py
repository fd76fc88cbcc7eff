"""Splits and squares of Appendix B."""

import numpy as np
import pytest

from flowportrait.faces.framing import FaceBox, portrait_square
from flowportrait.prepare.tracks import (
    CropConfig,
    FacesConfig,
    ScenesConfig,
    Track,
    find_cuts,
    link,
    side_of,
    squares,
)

FACE = FaceBox(100.0, 100.0, 200.0, 220.0, 0.9)
OTHER = FaceBox(400.0, 100.0, 480.0, 200.0, 0.9)


@pytest.mark.parametrize(("gone", "tracks"), [(1, 1), (23, 1), (24, 1), (25, 2)])
def test_more_than_24_frames_without_a_face_split(gone, tracks):
    seen = {tick: [FACE] if tick < 30 or tick >= 30 + gone else [] for tick in range(120)}
    found = link(seen, range(120), FacesConfig(detect_every=1))
    assert len(found) == tracks
    assert (found[0].start, found[-1].stop) == (0, 120)
    if tracks == 2:
        assert (found[0].stop, found[1].start) == (30, 55)


def test_every_fourth_frame_stands_for_four():
    def seen(missed):
        return {tick: [] if 40 <= tick < 40 + 4 * missed else [FACE] for tick in range(0, 200, 4)}

    assert len(link(seen(6), range(200), FacesConfig(detect_every=4))) == 1
    first, second = link(seen(7), range(200), FacesConfig(detect_every=4))
    assert (first.stop, second.start) == (37, 68)


def test_two_faces_are_two_tracks_however_the_detector_orders_them():
    seen = {tick: [FACE, OTHER][:: 1 if tick % 8 else -1] for tick in range(0, 96, 4)}
    left, right = link(seen, range(96), FacesConfig())
    assert {box.x0 for box in left.boxes} == {100.0} and {box.x0 for box in right.boxes} == {400.0}


def test_a_scene_ends_its_tracks():
    seen = {tick: [FACE] for tick in range(0, 100, 4)}
    assert [(t.start, t.stop) for t in link(seen, range(50, 100), FacesConfig())] == [(50, 100)]


def test_the_papers_example_becomes_336():
    square = portrait_square(FaceBox(400, 400, 624, 568, 1.0), 1000, 1000)
    assert square.side == 336 and (square.x + 168, square.y + 168) == (512, 484)


BOXES = np.tile([400.0, 400.0, 624.0, 568.0], (48, 1))


@pytest.mark.parametrize("path", ["clip", "smooth", "frame"])
def test_a_face_that_keeps_still_is_cut_alike_by_all_paths(path):
    found = squares(BOXES, (1000, 1000), CropConfig(path=path))
    assert (found == [344, 316, 336]).all()


@pytest.mark.parametrize("path", ["clip", "smooth", "frame"])
def test_squares_are_shifted_and_only_then_shrunk(path):
    config = CropConfig(path=path)
    assert (squares(BOXES, (640, 1000), config) == [304, 316, 336]).all()
    assert (squares(BOXES - [300, 300, 300, 300], (330, 1000), config) == [0, 19, 330]).all()


def test_one_square_holds_a_face_that_moves():
    moving = BOXES + np.linspace(0, 200, 48)[:, None] * [1, 0, 1, 0]
    found = squares(moving, (1000, 1000), CropConfig())
    assert len(np.unique(found, axis=0)) == 1
    assert found[0].tolist() == [400, 272, 424]


def test_a_smoothed_path_follows_at_one_size_without_a_jolt():
    steps = BOXES + np.where(np.arange(48) < 24, 0, 100)[:, None] * [1, 0, 1, 0]
    found = squares(steps, (1000, 1000), CropConfig(path="smooth"))
    assert np.ptp(found[:, 2]) == 0 and np.abs(np.diff(found[:, 0])).max() < 8
    drift = BOXES + np.arange(48)[:, None] * [2, 0, 2, 0]
    follow = squares(drift, (1000, 1000), CropConfig(path="smooth"))
    assert np.abs(follow[:, 0] - (344 + 2 * np.arange(48))).max() <= 1


@pytest.mark.parametrize(
    ("square", "side"), [(1000, 384), (384, 384), (383, 368), (160, 160), (129, 128)]
)
def test_sides_are_multiples_of_16_and_never_enlarged(square, side):
    assert side_of(square, CropConfig()) == side


def test_boxes_between_looks_are_interpolated():
    track = Track(0, 9, [0, 8], [FACE, FaceBox(108.0, 100.0, 208.0, 220.0, 0.9)])
    assert track.boxes_at(np.array([0.0, 2.0, 8.0, 9.0]))[:, 0].tolist() == [100, 102, 108, 108]
    wrong = Track(0, 9, [0, 4, 8], [FACE, FaceBox(0.0, 0.0, 900.0, 900.0, 0.5), FACE])
    assert np.unique(wrong.boxes_at(np.arange(9.0)), axis=0).tolist() == [list(FACE[:4])]


def test_a_cut_stands_out_alone():
    rng = np.random.default_rng(0)
    still, moving = rng.uniform(1, 3, 50), rng.uniform(5, 15, 50)
    changes = np.concatenate([[0], still, [60], moving, still])
    assert find_cuts(changes, ScenesConfig()) == [51]
    doubled = np.concatenate([[0], still, [0, 60, 0], still])
    assert find_cuts(doubled, ScenesConfig()) == [52]
    assert find_cuts(changes, ScenesConfig(split=False)) == []
