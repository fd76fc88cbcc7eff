"""The person matte: the network against MediaPipe's, edges, persons small in the picture.

`tests/golden/selfie_matte.npz` holds the mask that MediaPipe 1.2.2's ImageSegmenter makes of the
sample portrait (256 x 256 px, as the network sees it) with `selfie_segmentation.tflite`: float16.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowportrait import media
from flowportrait.errors import CheckpointError
from flowportrait.faces import matte
from flowportrait.faces.centerface import CenterFaceDetector
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.matte import PersonMatte, part_around, refined

ROOT = Path(__file__).parents[2]
PORTRAITS = ROOT.parent / "shared" / "clips" / "portraits"
SAMPLE = ROOT / "flowportrait" / "samples" / "portrait.png"
GOLDEN = np.load(ROOT / "tests" / "golden" / "selfie_matte.npz")["mask"]


@pytest.fixture(scope="module")
def finder() -> PersonMatte:
    return PersonMatte()


def largest_face(image: np.ndarray) -> FaceBox:
    return max(CenterFaceDetector().detect(image), key=lambda face: face.area)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of what is more person than not."""
    a, b = a > 0.5, b > 0.5
    return (a & b).sum() / (a | b).sum()


def test_the_network_against_mediapipe(finder):
    pixels = torch.tensor(media.read_portrait(SAMPLE)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        mask = finder.network(pixels)[0, 0].numpy()
    assert np.abs(mask - GOLDEN).max() < 1e-3


def test_the_sample(finder):
    image = media.read_portrait(SAMPLE)
    found = finder.find(image)
    assert found.shape == image.shape[:2] and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert overlap(found, GOLDEN) > 0.97
    assert overlap(finder.find(image, largest_face(image)), GOLDEN) > 0.97


def test_edges_go_to_those_of_the_picture():
    """An edge that the mask spreads over four of its pixels gets sharper by half and more."""
    y, x = np.mgrid[:512, :512]
    distance = np.hypot(x - 256, y - 256)
    picture = np.where(distance[..., None] < 120, (0.8, 0.4, 0.3), (0.2, 0.3, 0.5))
    picture += np.random.default_rng(0).normal(0, 0.01, picture.shape)
    soft = np.clip((120 - distance) / 8 + 0.5, 0, 1)
    small = np.asarray(Image.fromarray(soft.astype(np.float32)).resize((256, 256)))
    result = refined(
        torch.from_numpy(small.copy())[None, None],
        torch.tensor(picture, dtype=torch.float32).permute(2, 0, 1)[None],
    )[0, 0].numpy()
    truth = distance < 120
    assert np.abs(result - truth).mean() < 0.5 * np.abs(soft - truth).mean()
    assert np.abs((result > 0.5).sum() - truth.sum()) < 0.02 * truth.sum()


def test_a_person_who_is_small_in_the_picture(finder):
    """All but the part around the face is background; in it the matte is that of a close look."""
    image = media.read_portrait(SAMPLE)
    face = largest_face(image)
    large = np.full((1100, 1400, 3), (90, 110, 130), np.uint8)
    large[500:756, 800:1056] = image
    moved = FaceBox(face.x0 + 800, face.y0 + 500, face.x1 + 800, face.y1 + 500, 1.0)
    found = finder.find(large, moved)
    assert overlap(found[500:756, 800:1056], GOLDEN) > 0.9
    x0, y0, x1, y1 = part_around(moved, 1400, 1100)
    found[y0:y1, x0:x1] = 0
    assert not found.any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (2300, 40)])
def test_pictures_of_odd_sizes(finder, shape):
    image = np.zeros((*shape, 3), np.uint8)
    for face in (None, FaceBox(-5, -5, 3, 2, 1.0), FaceBox(90, 90, 300, 300, 1.0)):
        found = finder.find(image, face)
        assert found.shape == shape and np.isfinite(found).all()


@pytest.mark.skipif(not PORTRAITS.is_dir(), reason="../shared/clips/portraits is not there")
def test_real_portraits(finder):
    """The face is person, nearly whole; at least one upper corner of the picture is not."""
    for path in sorted(PORTRAITS.iterdir())[::4]:
        image = media.read_portrait(path)
        face = largest_face(image)
        found = finder.find(image, face)
        width, height = face.x1 - face.x0, face.y1 - face.y0
        inner = found[
            round(face.y0 + 0.2 * height) : round(face.y1 - 0.1 * height),
            round(face.x0 + 0.25 * width) : round(face.x1 - 0.25 * width),
        ]
        assert inner.mean() > 0.97, path.name
        assert found[0, [0, -1]].min() < 0.1, path.name


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matte, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the person matte's weights are missing"):
        PersonMatte()
