"""From a picture to the canvas that moves, and back into the picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowportrait import media, registry
from flowportrait.composite import AUTO_PX, compose
from flowportrait.errors import ConfigError, DataError
from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.matte import PersonMatte
from flowportrait.generate import load
from flowportrait.registry import MODELS_DIR

SAMPLE = MODELS_DIR.parent / "samples" / "portrait.png"
SPEECH = MODELS_DIR.parent / "samples" / "speech.wav"


class FindsAt:
    """A detector that knows where the face is."""

    name = "told"

    def __init__(self, box):
        self.box = box

    def detect(self, image):
        return [] if self.box is None else [FaceBox(*self.box, 1.0)]


@pytest.fixture(scope="module")
def sample():
    return np.asarray(Image.open(SAMPLE).convert("RGB"))


@pytest.fixture(scope="module")
def speech():
    """A second and a half of the sample."""
    sound = media.read_audio(SPEECH)
    return sound.samples[: round(1.5 * sound.sample_rate)], sound.sample_rate


@pytest.fixture(scope="module")
def scene(sample):
    """The sample portrait, 256 px, in a large picture with straight lines behind it."""
    picture = np.full((700, 900, 3), 90, np.uint8)
    picture[:, ::25] = 160
    picture[200 : 200 + 256, 300 : 300 + 256] = sample
    return picture


@pytest.fixture(scope="module")
def tools():
    return registry.FACE_DETECTORS.load("centerface")(), FaceMesh(), PersonMatte()


@pytest.mark.parametrize(
    ("width", "height", "face", "size", "frame", "shape", "side"),
    [
        (900, 700, 200, "auto", "whole", (700, 900), 300),
        (901, 701, 200, "auto", "whole", (700, 900), 300),
        (900, 700, 200, "auto", "face", (300, 300), 300),
        (900, 700, 40, "auto", "face", (128, 128), 128),
        (900, 700, 40, "auto", "whole", (700, 900), 60),
        (3000, 3000, 1200, "auto", "face", (AUTO_PX, AUTO_PX), AUTO_PX),
        (3000, 4000, 1000, "auto", "whole", (1440, 1080), 540),
        (4000, 2000, 800, "auto", "whole", (960, 1920), 576),
        (900, 700, 200, 512, "face", (512, 512), 512),
        (900, 700, 200, 450, "whole", (1050, 1350), 450),
    ],
)
def test_sizes(width, height, face, size, frame, shape, side):
    box = (width / 2 - face / 2, height / 2 - face / 2, width / 2 + face / 2, height / 2 + face / 2)
    made = compose(np.zeros((height, width, 3), np.uint8), 128, size, frame, "auto", FindsAt(box))
    assert made.picture.shape == (*shape, 3) and all(
        length % 2 == 0 for length in made.picture.shape[:2]
    )
    assert made.square.side == side
    x, y, _ = made.square
    assert 0 <= x <= made.picture.shape[1] - side and 0 <= y <= made.picture.shape[0] - side
    assert made.view(128).shape == (128, 128, 3)


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ConfigError, match=r"size: got 2000; give auto or a number of pixels from 128 to 1024"
    ):
        compose(np.zeros((300, 300, 3), np.uint8), 128, 2000, "whole", "none")
    with pytest.raises(DataError, match="no face found in 400x300 px"):
        compose(np.zeros((300, 400, 3), np.uint8), 128, "auto", "whole", "auto", FindsAt(None))


def test_outside_the_square_and_at_its_border_every_pixel_is_the_portrait_s(scene, speech):
    result = load("tiny", device="cpu").generate(scene, speech, seed=1)
    x, y, side = result.shot.composite.square
    assert x > 0 and y > 0 and x + side < 900 and y + side < 700
    moved = np.zeros(scene.shape[:2], bool)
    for frame in result.stream():
        moved |= (frame != scene).any(-1)
    assert not moved[: y + 2].any() and not moved[y + side - 2 :].any()
    assert not moved[:, : x + 2].any() and not moved[:, x + side - 2 :].any()
    assert (
        moved[y + side // 3 : y + 2 * side // 3, x + side // 3 : x + 2 * side // 3].mean() > 0.5
    ), "the face moves"


def test_lines_behind_a_head_stay_straight_beside_it(scene, tools):
    """The matte keeps the background out of the movement."""
    made = compose(scene, 128, "auto", "whole", "auto", *tools)
    weight = made.canvas(torch.device("cpu")).moving[0, 0].numpy()
    landmarks = (made.landmarks() + 1) / 2 * len(weight)
    inside = weight[landmarks[:, 1].astype(int), landmarks[:, 0].astype(int)]
    assert inside.min() > 0.9, "the face moves whole"
    assert weight[:, :2].max() == 0 and weight[:2].max() == 0


@pytest.mark.parametrize("degrees", [90, 180, 270, 35])
def test_a_rolled_head_is_seen_upright(sample, tools, degrees):
    margin = np.pad(sample, ((120, 120), (120, 120), (0, 0)), mode="edge")
    turned = np.asarray(Image.fromarray(margin).rotate(-degrees, Image.Resampling.BICUBIC))
    made = compose(turned, 128, "auto", "whole", "auto", *tools)
    assert np.rad2deg(made.roll) % 360 == pytest.approx(degrees, abs=6)
    assert any("rolled" in warning for warning in made.warnings)
    eyes = made.landmarks()[[36, 45]]
    assert abs(eyes[0, 1] - eyes[1, 1]) < 0.08 and eyes[0, 0] < eyes[1, 0], (
        "level, and the right way up"
    )
    upright = FaceMesh().find(made.view(256), FaceBox(50, 50, 206, 206, 1.0))
    assert abs(np.rad2deg(upright.roll)) < 6 and upright.presence > 0.9


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [(256, 0, False), (184, 0, False), (160, 0, True), (256, 80, False), (256, 115, True)],
)
def test_a_mouth_that_the_edge_cuts_off_is_said(sample, tools, rows, columns, said):
    cut = np.ascontiguousarray(sample[:rows, columns:])
    made = compose(cut, 128, "auto", "whole", "auto", *tools[:2])
    assert any("the mouth is cut off" in warning for warning in made.warnings) == said


def test_landmarks_and_eyes_of_the_canvas_lie_on_the_face(sample, tools):
    made = compose(sample, 128, "auto", "face", "auto", *tools)
    points, canvas = made.landmarks(), made.canvas(torch.device("cpu"))
    assert np.abs(points).max() < 1 and canvas.grey is None
    for shape, corners in zip(canvas.eyes, ((36, 39), (42, 45)), strict=True):
        middle = torch.from_numpy(points[list(corners)].mean(0))
        torch.testing.assert_close(shape.centre, middle, atol=0.02, rtol=0)
        assert 0.1 < float(shape.opening) < 1.2 and float(shape.iris.norm()) < 0.6


def test_a_portrait_at_rest_stays_itself(sample, speech):
    """Without any movement the first frame is the portrait, but for the mouth."""
    result = load("tiny", device="cpu").generate(sample, speech, head=0, lips=0, eyes=0)
    frame = next(iter(result.stream()))
    upper = slice(0, 140)
    assert np.abs(frame[upper].astype(int) - sample[upper]).mean() < 4


def test_frames_come_with_their_sound_as_they_are_made(sample, speech):
    pipeline = load("tiny", device="cpu")
    made = pipeline.generate(sample, speech, seed=2, size=128, frame="face")
    streamed = list(pipeline.stream(sample, speech, seed=2, size=128, frame="face"))
    off = np.abs(np.stack([frame for frame, _ in streamed]).astype(int) - made.frames)
    assert off.max() < 30 and off.mean() < 0.1, "the same but for the rounding of other blocks"
    sound = np.concatenate([samples for _, samples in streamed])
    assert np.array_equal(sound, made.sound.samples)


@pytest.mark.parametrize("size", [(1, 1)])
def test_a_picture_of_one_pixel_across_has_no_face(size):
    from flowportrait.faces.centerface import CenterFaceDetector
    from flowportrait.faces.framing import find_face

    with pytest.raises(DataError, match="no face found"):
        find_face(np.zeros((*size, 3), np.uint8), CenterFaceDetector(), [])
