"""Portrait framing (App. B) and the face detector."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowportrait import media
from flowportrait.errors import CheckpointError, DataError
from flowportrait.faces import centerface
from flowportrait.faces.centerface import CenterFaceDetector
from flowportrait.faces.framing import FaceBox, Square, frame_portrait, portrait_square

ROOT = Path(__file__).parents[2]
PORTRAITS = ROOT.parent / "shared" / "clips" / "portraits"
SAMPLE = ROOT / "flowportrait" / "samples" / "portrait.png"


class Finds:
    """A detector that finds the given boxes."""

    name = "finds"

    def __init__(self, *boxes: FaceBox):
        self.boxes = list(boxes)

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        return self.boxes


@pytest.fixture(scope="module")
def detector():
    return CenterFaceDetector()


def test_the_papers_example():
    """App. B: 224 x 168 becomes 224 x 224, then 336 x 336."""
    assert portrait_square(FaceBox(400, 316, 624, 484, 1.0), 1024, 1024) == Square(344, 232, 336)


def test_a_square_that_sticks_out_is_shifted():
    assert portrait_square(FaceBox(0, 10, 100, 110, 1.0), 400, 300) == Square(0, 0, 150)
    assert portrait_square(FaceBox(300, 200, 400, 300, 1.0), 400, 300) == Square(250, 150, 150)


def test_a_square_larger_than_the_picture_shrinks():
    assert portrait_square(FaceBox(100, 20, 400, 280, 1.0), 500, 300) == Square(100, 0, 300)


@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_the_square_is_always_inside(width, height, x, y, w, h):
    box = FaceBox(
        x * width, y * height, min(width, (x + w) * width), min(height, (y + h) * height), 1.0
    )
    square = portrait_square(box, width, height)
    assert 0 <= square.x <= width - square.side and 0 <= square.y <= height - square.side


def test_the_largest_of_several_faces_and_a_warning():
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:200, 200:300] = 255
    small, large = FaceBox(10, 10, 40, 40, 0.9), FaceBox(200, 100, 300, 200, 0.5)
    framed, report = frame_portrait(image, 64, "auto", Finds(small, large))
    assert framed.shape == (64, 64, 3) and framed.dtype == np.uint8
    assert report.face == large and report.warnings == (
        "portrait: 2 faces found; the largest is used",
    )
    assert framed[32, 32].min() == 255 and framed[0, 0].max() == 0


def test_a_small_face_is_warned_of():
    _, report = frame_portrait(
        np.zeros((300, 400, 3), np.uint8), 128, "auto", Finds(FaceBox(0, 0, 20, 20, 1))
    )
    assert "enlarged to 128" in report.warnings[0]


def test_no_face_names_the_way_out():
    with pytest.raises(DataError, match="no face found in 40x30 px; .*--crop none"):
        frame_portrait(np.zeros((30, 40, 3), np.uint8), 64, "auto", Finds())


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 700), (300, 200)])
def test_crop_none_takes_the_centre(shape):
    framed, report = frame_portrait(np.full((*shape, 3), 77, np.uint8), 64, "none")
    assert (framed == 77).all() and framed.shape == (64, 64, 3)
    assert report.square.side == min(shape) and report.face is None


def test_no_face_in_noise_or_grey(detector):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert detector.detect(noise) == detector.detect(np.full((200, 100, 3), 90, np.uint8)) == []


def test_tiny_pictures_do_not_break_it(detector):
    assert (
        detector.detect(np.zeros((8, 8, 3), np.uint8))
        == detector.detect(np.zeros((1, 400, 3), np.uint8))
        == []
    )


@pytest.mark.skipif(not SAMPLE.exists(), reason="the bundled sample portrait is not there")
def test_the_box_follows_the_face(detector):
    image = media.read_portrait(SAMPLE)
    [face] = detector.detect(image)
    moved = np.full((image.shape[0] + 60, image.shape[1] + 100, 3), 127, np.uint8)
    moved[60:, 100:] = image
    [again] = detector.detect(moved)
    side = face.x1 - face.x0
    assert np.abs(np.array(again[:4]) - np.array(face[:4]) - [100, 60, 100, 60]).max() < 0.1 * side
    [mirrored] = detector.detect(image[:, ::-1])
    assert abs((image.shape[1] - mirrored.x1) - face.x0) < 0.1 * side


@pytest.mark.skipif(not PORTRAITS.is_dir(), reason="../shared/clips/portraits is not there")
@pytest.mark.parametrize("tight", [False, True], ids=["as it is", "the head fills the picture"])
def test_real_portraits(detector, tight):
    for path in sorted(PORTRAITS.iterdir())[::6]:
        image = media.read_portrait(path)
        [face] = detector.detect(image)
        if tight:
            x0, y0, x1, y1 = (round(value) for value in face[:4])
            [again] = detector.detect(image[y0:y1, x0:x1])
            assert again.area > 0.7 * face.area, path.name


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(centerface, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        CenterFaceDetector()
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        CenterFaceDetector()
