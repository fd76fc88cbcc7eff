"""What the face mesh sees of clips that are encoded, and what is done where it sees nothing."""

import numpy as np
import pytest
import torch

from flowportrait.codecs.finder import mesh_sight
from flowportrait.codecs.motion import gather_from_grid
from flowportrait.data.sources import load_sources
from flowportrait.media import read_frames
from flowportrait.modeldir import load_parts
from flowportrait.registry import MODELS_DIR

FRAMES = 25


@pytest.fixture(scope="module")
def codec():
    return load_parts("tiny", ("codec",), "cpu")[1]["codec"]


@pytest.fixture(scope="module")
def clip():
    """Frames [f, 3, s, s] of a rendered clip, its true landmarks in the square."""
    source = load_sources(world=MODELS_DIR.parent / "samples" / "world")[0]
    frames = np.stack(list(read_frames(source.video)))[:FRAMES]
    with np.load(source.labels) as labels:
        size = float(labels["size_px"]) if "size_px" in labels else frames.shape[1]
        points = (labels["landmarks68"][:FRAMES].astype(np.float32) + 0.5) * 2 / size - 1
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels = torch.nn.functional.interpolate(pixels, (128, 128), mode="bilinear", antialias=True)
    return pixels, torch.from_numpy(points)


def test_encoded_movement_is_the_true_one(codec, clip):
    """Lips within a pixel of 128 on average, where the landmarker is often further off."""
    frames, true = clip
    context = codec.prepare(frames[:1])
    with torch.inference_mode():
        latents = codec.encode(frames.transpose(0, 1)[None], context)
    at = codec.landmarks_of(latents, context.landmarks)[0].flatten(0, 1)[3:]
    moves = (at - context.landmarks) - (true - true[:1])
    assert moves[:, 48:].norm(dim=-1).mean() * 64 < 1.0
    assert moves[:, 36:48].norm(dim=-1).mean() * 64 < 0.7


def test_the_gaze_is_part_of_what_is_encoded(codec, clip):
    frames, _ = clip
    own, seen = mesh_sight(frames[:1]), mesh_sight(frames)
    gaze = seen.gaze_since(own)
    assert gaze[0].abs().max() < 0.02 and gaze.std(0).max() > 0.01
    latents = codec.encode_landmarks(seen.points[None], own.points, gaze[None])
    read = codec.motion.gaze_of(gather_from_grid(latents))[0].flatten(0, 1)[3:]
    torch.testing.assert_close(read, gaze, atol=1e-4, rtol=0)


def test_a_frame_without_a_face_keeps_the_one_before(clip):
    frames = clip[0].clone()
    frames[7] = 0.0
    seen = mesh_sight(frames)
    assert torch.equal(seen.points[7], seen.points[6])
    assert not torch.equal(seen.points[8], seen.points[6])


def test_a_clip_in_which_the_mesh_is_lost_is_read_by_the_landmarker_alone(codec, clip):
    """Finders differ, so that one of them reads portrait and clip."""
    frames = clip[0].clone()
    frames[4:20] = 0.0
    assert mesh_sight(frames) is None
    context = codec.prepare(frames[:1])
    with torch.inference_mode():
        latents = codec.encode(frames.transpose(0, 1)[None], context)
        expected = codec.encode_landmarks(
            codec.landmarker(frames)[None], codec.landmarker(frames[:1])
        )
    torch.testing.assert_close(latents, expected, atol=1e-3, rtol=0)
