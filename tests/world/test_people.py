"""Rigs and people: one file format, people that differ, the same person from the same seed."""

import numpy as np
import pytest

from flowportrait.errors import DataError
from flowportrait.world.import_rig import import_rig
from flowportrait.world.names import ARKIT, EYE_LEFT, EYE_RIGHT, MOUTH, SKIN, TEETH, TONGUE
from flowportrait.world.person import draw_person
from flowportrait.world.rig import EYE_DISTANCE, load_rig, loop_subdivision

SEEDS = range(20)


def test_the_shipped_rig_has_all_parts(rig):
    assert {SKIN, TEETH, TONGUE, MOUTH, EYE_LEFT, EYE_RIGHT} <= set(np.unique(rig.parts))
    assert len(np.unique(rig.landmarks)) == 68
    assert (np.abs(rig.expressions).max((1, 2)) > 0.05).all(), [
        name
        for name, delta in zip(ARKIT, rig.expressions, strict=True)
        if np.abs(delta).max() <= 0.05
    ]
    assert "CC0" in rig.about.licence


def test_landmarks_are_where_their_names_say(rig):
    at = rig.vertices[rig.landmarks]
    assert (at[:8, 0] < 0).all() and (at[9:17, 0] > 0).all(), (
        "the person's right side comes first, on the left"
    )
    assert at[30, 2] == at[:, 2].max() and at[8, 1] == at[:, 1].min(), (
        "the tip of the nose, the chin"
    )
    assert (at[[61, 62, 63], 1] > at[[67, 66, 65], 1]).all() and (
        at[[50, 52], 1] > at[[58, 56], 1]
    ).all()
    mirrored = at[[16, 26, 35, 45, 54, 64]] * [-1, 1, 1]
    assert np.abs(mirrored - at[[0, 17, 31, 36, 48, 60]]).max() < 0.05


def test_people_differ_and_a_seed_is_one_person(rig):
    people = [draw_person(rig, seed) for seed in SEEDS]
    shapes = np.stack([head[rig.landmarks] for _, head in people])
    apart = np.linalg.norm(shapes[:, None] - shapes[None], axis=-1).mean(-1)
    assert apart[~np.eye(len(SEEDS), dtype=bool)].min() > 0.1, "centimetres, mean over landmarks"
    assert len({person.hair_style for person, _ in people}) > 4
    assert len({person.presentation for person, _ in people}) == 2
    assert len({(person.hair_colour, person.eye_colour, person.cloth) for person, _ in people}) > 12
    again, head = draw_person(rig, 3)
    assert again == people[3][0] and (head == people[3][1]).all()


def test_eyes_are_at_their_place(rig):
    for seed in SEEDS:
        left, right = rig.eye_centres(draw_person(rig, seed)[1])
        assert np.linalg.norm(left - right) == pytest.approx(EYE_DISTANCE, abs=1e-3)
        assert left[0] > 0 > right[0]


def test_subdivision_keeps_flat_things_flat():
    y, x = np.mgrid[0:4, 0:4]
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1).astype(float)
    quads = np.array([[i, i + 1, i + 5, i + 4] for i in range(11) if i % 4 < 3])
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    matrix, fine = loop_subdivision(triangles, len(points))
    assert len(fine) == 4 * len(triangles) and np.allclose(matrix.sum(1), 1)
    a, b, c = (np.asarray(matrix @ points)[fine[:, k]] for k in range(3))
    area = np.cross(b - a, c - a)[:, 2] / 2
    # Corners of an open border are rounded off, all else of the square's area stays.
    assert (area > 0).all() and area.sum() == pytest.approx(9, abs=0.6)


def test_what_is_no_rig_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match="rig: no rig or file 'any'; did you mean 'anny'"):
        load_rig("any")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="bad.npz: not a rig .*import-rig"):
        load_rig(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="other.npz: not a rig"):
        load_rig(tmp_path / "other.npz")
    with pytest.raises(DataError, match="no known head model; give the folder of ICT-FaceKit"):
        import_rig(tmp_path, tmp_path / "rig.npz")
