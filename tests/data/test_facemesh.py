"""The face mesh against MediaPipe's own, turned heads, and what is read from its points.

`tests/golden/face_mesh.npz` holds the 478 points (x, y, z in px) that MediaPipe 1.2.2 finds in the
sample portrait: `image` at one look, `tracking` after twelve frames of this picture in video mode.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowportrait import media
from flowportrait.errors import CheckpointError
from flowportrait.faces import facemesh
from flowportrait.faces.centerface import CenterFaceDetector
from flowportrait.faces.facemesh import FaceMesh, region_of
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.mesh import INNER_LIPS, LEFT_LIDS, OUTER_LIPS, RIGHT_LIDS, Mesh, turn

ROOT = Path(__file__).parents[2]
PORTRAITS = ROOT.parent / "shared" / "clips" / "portraits"
LANDMARKER = ROOT.parent / "shared" / "weights" / "face_landmarker.task"
GOLDEN = np.load(ROOT / "tests" / "golden" / "face_mesh.npz")
SAMPLE = ROOT / "flowportrait" / "samples" / "portrait.png"

MOUTH = np.unique([OUTER_LIPS, INNER_LIPS])
EYES = np.unique([*RIGHT_LIDS.flat, *LEFT_LIDS.flat, *range(468, 478)])


@pytest.fixture(scope="module")
def finder() -> FaceMesh:
    return FaceMesh()


@cache
def sample() -> tuple[np.ndarray, FaceBox]:
    image = media.read_portrait(SAMPLE)
    return image, largest_face(image)


def largest_face(image: np.ndarray) -> FaceBox:
    return max(CenterFaceDetector().detect(image), key=lambda face: face.area)


def distances(mesh: Mesh, points: np.ndarray, face: FaceBox) -> np.ndarray:
    """Of each point, in px of the face's square at 128 px."""
    return np.linalg.norm(mesh.points - points[:, :2], axis=1) * 128 / region_of(face).side


def test_the_sample_against_mediapipe(finder):
    image, face = sample()
    mesh = finder.find(image, face)
    assert mesh.presence > 0.99
    tracking = distances(mesh, GOLDEN["tracking"], face)
    assert tracking.max() < 0.1
    depth = GOLDEN["tracking"][:, 2]
    assert np.abs((mesh.depth - depth) * 128 / region_of(face).side).max() < 0.3
    once = distances(mesh, GOLDEN["image"], face)
    assert once[MOUTH].max() < 0.8 and once[EYES].max() < 0.8


@pytest.mark.skipif(not PORTRAITS.is_dir(), reason="../shared/clips/portraits is not there")
@pytest.mark.skipif(
    not LANDMARKER.is_file(), reason="../shared/weights/face_landmarker.task is not there"
)
@pytest.mark.parametrize("tracking", [False, True], ids=["one look", "tracking"])
def test_real_portraits_against_mediapipe(finder, tracking):
    """Its one look starts from its own detector's box; the box tracking settles on is ours too."""
    mediapipe = pytest.importorskip("mediapipe", reason="mediapipe (extra eval) is not installed")
    mouths, eyes = [], []
    for path in sorted(PORTRAITS.iterdir()):
        image = media.read_portrait(path)
        reference = by_mediapipe(mediapipe, image, num_frames=8 if tracking else 0)
        if reference is None:
            continue
        face = largest_face(image)
        found = distances(finder.find(image, face), reference, face)
        mouths.append(found[MOUTH].max())
        eyes.append(found[EYES].max())
        assert mouths[-1] < 2.5 and eyes[-1] < 3, path.name
    assert len(mouths) > 50
    bar = 0.3 if tracking else 0.7
    assert np.median(mouths) < bar and np.median(eyes) < bar


def by_mediapipe(mediapipe, image: np.ndarray, num_frames: int) -> np.ndarray | None:
    """MediaPipe's points [478, 2] of the image: one look, or after `num_frames` of tracking."""
    vision = mediapipe.tasks.vision
    mode = vision.RunningMode.VIDEO if num_frames else vision.RunningMode.IMAGE
    base = mediapipe.tasks.BaseOptions(model_asset_path=str(LANDMARKER))
    options = vision.FaceLandmarkerOptions(base_options=base, running_mode=mode, num_faces=1)
    picture = mediapipe.Image(
        image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        if not num_frames:
            result = landmarker.detect(picture)
        for frame in range(num_frames):
            result = landmarker.detect_for_video(picture, 1000 * frame)
    if not result.face_landmarks:
        return None
    return np.array([(p.x, p.y) for p in result.face_landmarks[0]]) * image.shape[1::-1]


@pytest.mark.parametrize("degrees", [30, -30, 45, 90, 135, 180, 270])
def test_turned_heads(finder, degrees):
    image, face = sample()
    upright = finder.find(image, face)
    turned, move = turned_picture(image, np.radians(degrees))
    corners = move(np.array([(x, y) for x in (face.x0, face.x1) for y in (face.y0, face.y1)]))
    box = FaceBox(*corners.min(0), *corners.max(0), 1.0)
    mesh = finder.find(turned, box)
    expected = move(upright.points)
    width = face.x1 - face.x0
    assert np.linalg.norm(mesh.points - expected, axis=1).max() < 0.015 * width
    error = mesh.roll - upright.roll - np.radians(degrees)
    assert abs(np.degrees(np.angle(np.exp(1j * error)))) < 1
    assert mesh.yaw_pitch == pytest.approx(upright.yaw_pitch, abs=np.radians(2))
    assert mesh.presence > 0.99


def turned_picture(image: np.ndarray, angle: float):
    """The picture turned clockwise by `angle`, on a grey square, and how points move."""
    height, width = image.shape[:2]
    size = int(np.hypot(height, width)) + 2
    old, new = np.array([width - 1, height - 1]) / 2, np.array([size - 1, size - 1]) / 2
    back = turn(angle).T  # column vectors
    offset = old + 0.5 - back @ (new + 0.5)
    turned = Image.fromarray(image).transform(
        (size, size),
        Image.Transform.AFFINE,
        [*back[0], offset[0], *back[1], offset[1]],
        resample=Image.Resampling.BICUBIC,
        fillcolor=(127, 127, 127),
    )
    return np.asarray(turned), lambda points: (points - old) @ turn(-angle) + new


def test_no_face_has_no_presence(finder):
    box = FaceBox(40, 40, 160, 180, 1.0)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:8, :8]).resize((256, 256)))
    for image in (noise, smooth, np.full((200, 200, 3), 90, np.uint8)):
        mesh = finder.find(image, box)
        assert mesh.presence < 0.5 and np.isfinite(mesh.points).all()


def test_boxes_that_leave_the_picture_and_tiny_pictures(finder):
    image, face = sample()
    half = image[:, : int((face.x0 + face.x1) / 2)]
    assert np.isfinite(finder.find(half, face).points).all()
    for shape in ((1, 1), (3, 200)):
        mesh = finder.find(np.zeros((*shape, 3), np.uint8), FaceBox(-5, 0, 40, 30, 1.0))
        assert np.isfinite(mesh.points).all() and mesh.presence < 0.5


def test_parts_of_the_mesh(finder):
    image, face = sample()
    mesh = finder.find(image, face)
    assert mesh.landmarks68.shape == (68, 2)
    assert (
        mesh.landmarks68[48, 0] < mesh.landmarks68[54, 0]
    )  # the mouth's right corner lies to the left
    for lids, iris, radius in zip(
        (mesh.right_lids, mesh.left_lids), mesh.irises, mesh.iris_radius, strict=True
    ):
        upper, lower = lids
        assert (upper[[0, -1]] == lower[[0, -1]]).all() and (upper[1:-1, 1] < lower[1:-1, 1]).all()
        assert upper[:, 1].min() < iris[1] < lower[:, 1].max()
        width = np.linalg.norm(upper[0] - upper[-1])
        assert 0.15 * width < radius < 0.35 * width
    assert (
        mesh.right_lids[0, 0, 0]
        < mesh.right_lids[0, -1, 0]
        < mesh.left_lids[0, -1, 0]
        < mesh.left_lids[0, 0, 0]
    )
    for lips in (mesh.outer_lips, mesh.inner_lips):
        assert all(a[0] < b[0] for arc in lips for a, b in pairwise(arc))
    assert (mesh.outer_lips[0, 1:-1, 1] < mesh.inner_lips[0, 1:-1, 1]).all()
    assert (mesh.inner_lips[1, 1:-1, 1] < mesh.outer_lips[1, 1:-1, 1]).all()
    assert mesh.oval[0, 1] < mesh.oval[18, 1] and mesh.oval[8, 0] > mesh.oval[28, 0]


def test_a_mirrored_face_turns_the_other_way(finder):
    image, face = sample()
    skewed, _ = turned_picture(image, 0.2)
    box = largest_face(skewed)
    mesh = finder.find(skewed, box)
    width = skewed.shape[1]
    mirrored = finder.find(skewed[:, ::-1], box._replace(x0=width - box.x1, x1=width - box.x0))
    assert mirrored.roll == pytest.approx(-mesh.roll, abs=0.03)
    yaw, pitch = mesh.yaw_pitch
    assert mirrored.yaw_pitch == pytest.approx((-yaw, pitch), abs=0.06)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(facemesh, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the face mesh's weights are missing"):
        FaceMesh()
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        FaceMesh()
