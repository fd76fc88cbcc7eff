"""The Wan-VAE: the official code's numbers, both layouts of its files, and streams that equal the
whole.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the extra 'bagel' is not installed")

from flowportrait.codecs.wan import WanCodec, WanConfig  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = {"atol": 1e-5, "rtol": 0}
MANIFEST = json.loads((GOLDEN / "wanvae_manifest.json").read_text())


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "wanvae_tiny" / "io.safetensors")


@pytest.fixture(scope="module")
def codec(golden):
    mean, std = golden["latent_mean"].tolist(), golden["latent_std"].tolist()
    codec = WanCodec(WanConfig(width=4, channels=6, latent_mean=mean, latent_std=std))
    weights = load_file(GOLDEN / "wanvae_tiny" / "weights_original.safetensors")
    codec.load_state_dict({MANIFEST["tensors"][name][0]: value for name, value in weights.items()})
    return codec.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small(golden):
    """Nine frames of 16 x 16 px."""
    return golden["t9.video"][..., :16, :16]


@pytest.mark.parametrize("case", ["t1", "t9", "t12"])
def test_latents_and_frames(codec, golden, case):
    """Of 12 frames the official code encodes the first 9; here the caller has to say so.

    By torch's own convolutions: oneDNN's differ by processor, with AVX512 by 1.06e-5 where these
    differ by 7e-6.
    """
    video, expected = golden[f"{case}.video"], golden[f"{case}.latent_normalised"]
    with torch.backends.mkldnn.flags(enabled=False):
        latents = codec.encode(video[:, :, : 4 * expected.shape[2] - 3], None)
        frames = codec.decode(expected, None)
    assert_close(latents, expected, **CLOSE)
    assert_close(frames, golden[f"{case}.decoded"].clamp(-1, 1), **CLOSE)


def test_a_prefix_is_encoded_as_in_the_whole(codec, golden):
    prefix = codec.encode(golden["t9.video"][:, :, :5], None)
    assert_close(prefix, golden["t9.prefix5.latent_normalised"], **CLOSE)


@pytest.mark.parametrize("lengths", [[9], [1, 4, 4], [2, 3, 4], [6, 0, 3]])
def test_encoding_in_blocks_equals_the_whole(codec, small, lengths):
    pieces = list(codec.encode_stream(small.split(lengths, dim=2)))
    assert torch.equal(torch.cat(pieces, dim=2), codec.encode(small, None))


@pytest.mark.parametrize("block", [1, 2, 16])
def test_decoding_in_blocks_equals_the_whole(codec, golden, block):
    latents = golden["t9.latent_normalised"][..., :2, :2]
    pieces = list(codec.decode_stream(latents.split(block, dim=2), None))
    assert torch.equal(torch.cat(pieces, dim=2), codec.decode(latents, None))


def test_two_clips_at_once_equal_each_alone(codec, small):
    video = torch.cat([small, -small])
    each = torch.cat([codec.encode(one, None) for one in video.split(1)])
    assert_close(codec.encode(video, None), each, **CLOSE)


def test_encoding_is_float32_within_autocast_and_decoding_is_not(codec, small):
    with torch.autocast("cpu", torch.bfloat16):
        latents = codec.encode(small[:, :, :1], None)
        frames = codec.decode(latents, None)
    assert latents.dtype == frames.dtype == torch.float32
    assert torch.equal(latents, codec.encode(small[:, :, :1], None))
    error = (frames - codec.decode(latents, None)).abs()
    assert 0 < error.mean() < 0.01


@pytest.mark.parametrize("num_frames", [0, 2, 8])
def test_other_lengths_are_refused(codec, small, num_frames):
    with pytest.raises(ValueError, match=r"codec: got .* frames.*1 \+ 4 n"):
        codec.encode(small[:, :, :num_frames], None)


def test_odd_sides_are_refused(codec):
    with pytest.raises(ValueError, match="36 x 32 px; sides must be multiples of 8"):
        codec.encode(torch.zeros(1, 3, 1, 36, 32), None)


def test_statistics_of_every_channel():
    with pytest.raises(ValueError, match="give one for each of the 6 channels"):
        WanConfig(channels=6)


def test_names_and_shapes_of_the_published_file():
    with torch.device("meta"):
        codec = WanCodec(WanConfig())
    shapes = {name: list(value.shape) for name, value in codec.state_dict().items()}
    assert shapes == {name: shape for name, shape in MANIFEST["tensors"].values()}
    assert sum(p.numel() for p in codec.parameters()) == MANIFEST["params"] == 126_892_531
    assert list(WanConfig().latent_mean) == MANIFEST["config"]["latent_mean"]
    assert list(WanConfig().latent_std) == MANIFEST["config"]["latent_std"]
