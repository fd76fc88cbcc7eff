"""InsightFace's detector, by the numbers its network gives; its weights are nobody's to ship."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flowportrait.errors import CheckpointError, ConfigError, MissingDependency
from flowportrait.faces import scrfd
from flowportrait.faces.scrfd import STRIDES, ScrfdDetector, decode
from flowportrait.registry import FACE_DETECTORS

SIDE = 64


def outputs(faces, side_px=SIDE):
    """What the network says where it sees `faces` (stride, row, column, which, score, sides in
    cells), and nothing else.
    """
    cells = [(side_px // stride) ** 2 * 2 for stride in STRIDES]
    scores = [np.zeros((count, 1), np.float32) for count in cells]
    sides = [np.zeros((count, 4), np.float32) for count in cells]
    points = [np.zeros((count, 10), np.float32) for count in cells]
    for stride, row, column, which, score, distances in faces:
        level = STRIDES.index(stride)
        place = (row * (side_px // stride) + column) * 2 + which
        scores[level][place], sides[level][place] = score, distances
    return [*scores, *sides, *points]


def test_boxes_reach_from_their_cells_corner():
    found = decode(
        outputs([(8, 2, 3, 1, 0.9, (1, 2, 3, 0.5)), (32, 1, 0, 0, 0.4, (0, 1, 1, 0))]), SIDE, 0.3
    )
    assert np.allclose(found, [[16, 0, 48, 20, 0.9], [0, 0, 32, 32, 0.4]])
    assert len(decode(outputs([(16, 0, 0, 0, 0.49, (1, 1, 1, 1))]), SIDE, 0.5)) == 0


@pytest.fixture
def network(monkeypatch, tmp_path):
    """A session that answers as told and keeps what it was shown."""
    shown, answers = [], []

    def run(names, given):
        shown.append(given["input.1"])
        return answers[-1]

    session = SimpleNamespace(
        run=run,
        get_inputs=lambda: [SimpleNamespace(name="input.1")],
        get_outputs=lambda: [None] * 9,
    )
    monkeypatch.setattr(scrfd, "_session", lambda path: session)
    (tmp_path / "det_500m.onnx").touch()
    return SimpleNamespace(shown=shown, answers=answers, folder=tmp_path, session=session)


def test_a_picture_is_shown_as_the_authors_show_it_and_its_faces_lie_in_its_own_pixels(network):
    detector = ScrfdDetector(network.folder, side_px=SIDE)
    surest = (8, 2, 3, 0, 0.9, (1, 2, 3, 1))  # x 16..48, y 0..24 of the square
    double = (8, 2, 3, 1, 0.8, (1, 2, 2.8, 1))
    other = (16, 1, 3, 0, 0.7, (0.5, 0.5, 2, 0.5))  # leaves the square on the right
    network.answers.append(outputs([double, surest, other]))
    image = np.full((64, 128, 3), 255, np.uint8)
    image[..., 2] = 0
    found = detector.detect(image)
    assert [tuple(round(value, 3) for value in box) for box in found] == [
        (32, 0, 96, 48, 0.9),
        (80, 16, 128, 48, 0.7),
    ]
    (given,) = network.shown
    assert given.shape == (1, 3, SIDE, SIDE) and given.dtype == np.float32
    assert np.allclose(given[0, 0, :32], (255 - 127.5) / 128)  # red first
    assert np.allclose(given[0, 2, :32], -127.5 / 128)
    assert np.allclose(given[0, :, 32:], -127.5 / 128)  # below it: black
    network.answers.append(outputs([]))
    assert detector.detect(image) == []


def test_what_cannot_be_used_is_one_line(network, tmp_path, monkeypatch):
    detector = FACE_DETECTORS.load("buffalo_sc")
    with pytest.raises(ConfigError, match="non-commercial research alone: give det_500m.onnx by"):
        detector()
    with pytest.raises(CheckpointError, match="det_500m.onnx: no such file"):
        detector(tmp_path / "det_500m.onnx" / "det_500m.onnx")
    with pytest.raises(ConfigError, match="side_px: got 100; give a multiple of 32"):
        detector(network.folder, side_px=100)
    network.session.get_outputs = lambda: [None] * 3
    with pytest.raises(CheckpointError, match="has 3 outputs; a face detector of InsightFace has"):
        detector(network.folder)


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "det_500m.onnx").touch()
    with pytest.raises(MissingDependency, match=r"pip install 'flowportrait\[onnx\]'"):
        ScrfdDetector(tmp_path)


def test_a_file_that_is_no_network_is_one_line(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    path = tmp_path / "det_500m.onnx"
    path.write_bytes(b"no network at all")
    with pytest.raises(CheckpointError, match="cannot be loaded") as refused:
        ScrfdDetector(path)
    assert "\n" not in str(refused.value)
