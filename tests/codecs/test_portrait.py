"""The portrait codec's contract: causality, chunks, and a subspace outside of which nothing is said."""

import pytest
import torch
from einops import rearrange

from flowportrait.codecs.portrait import GROUP, PortraitCodec, Subspace

SIZES = dict(width=32, num_heads=2, portrait_depth=1, encoder_depth=1, decoder_depth=1, size_px=64)


@pytest.fixture(scope="module", params=[0, 12], ids=["free", "confined"])
def codec(request):
    """Random weights; the confined one with a subspace of random latents."""
    torch.manual_seed(0)
    codec = PortraitCodec(PortraitCodec.Config(num_patterns=request.param, **SIZES)).eval()
    torch.nn.init.normal_(codec.painter.flow.weight, std=0.1)
    if request.param:
        codec.subspace.fit(torch.randn(200, 16, 8, 8) + torch.randn(16, 8, 8))
    return codec


@pytest.fixture(scope="module")
def frames():
    return torch.rand(2, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.inference_mode()
def test_the_first_frame_stands_alone_and_later_frames_change_no_earlier_latent(codec, frames):
    context = codec.prepare(frames[:, :, 0])
    latents = codec.encode(frames, context)
    torch.testing.assert_close(codec.encode(frames[:, :, :1], context), latents[:, :, :1])
    later = frames.clone()
    later[:, :, 5:] = 0
    torch.testing.assert_close(codec.encode(later, context)[:, :, :2], latents[:, :, :2])
    assert not torch.allclose(codec.encode(later, context)[:, :, 2], latents[:, :, 2])


@torch.inference_mode()
def test_a_clip_decoded_in_chunks_is_the_clip_decoded_at_once(codec, frames):
    context = codec.prepare(frames[:, :, 0])
    latents = codec.encode(frames, context)
    whole = codec.decode(latents, context)
    assert whole.shape == frames.shape
    first = codec.decode(latents[:, :, :2], context)
    rest = codec.decode(latents[:, :, 2:], context, previous=latents[:, :, 1:2])
    torch.testing.assert_close(torch.cat([first, rest], 2), whole, atol=1e-5, rtol=1e-4)


def test_another_number_of_frames_is_refused(codec, frames):
    with pytest.raises(ValueError, match=r"got 8 frames; allowed are 1 \+ 4 n"):
        codec.encode(frames[:, :, :8], codec.prepare(frames[:, :, 0]))


@pytest.fixture(scope="module")
def subspace():
    """Eight patterns found in latents that are made of six, plus a little of everything."""
    rng = torch.Generator().manual_seed(2)
    made_of = torch.randn(6, 4 * 8 * 8, generator=rng)
    rows = torch.randn(300, 6, generator=rng) @ made_of + 0.01 * torch.randn(300, 256, generator=rng) + 3
    subspace = Subspace(8, 256)
    share = subspace.fit(rows.view(300, 4, 8, 8))
    return subspace, rows.view(300, 4, 8, 8), share


def test_a_subspace_finds_what_latents_are_made_of(subspace):
    subspace, rows, share = subspace
    assert share > 0.999
    torch.testing.assert_close(subspace.leave(subspace.enter(rows)), rows, atol=0.1, rtol=0)
    latents = subspace.enter(rows)
    assert latents.mean().abs() < 1e-3
    assert latents.square().mean() == pytest.approx(1, abs=1e-3)


def test_what_lies_outside_the_subspace_says_nothing(subspace):
    subspace, rows, _ = subspace
    latents = subspace.enter(rows)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    inside = (subspace.coefficients(noise) @ subspace.patterns).view(noise.shape)
    torch.testing.assert_close(subspace.leave(latents + (noise - inside)), subspace.leave(latents))
    assert inside.square().sum() / noise.square().sum() == pytest.approx(8 / 256, rel=0.1)


def test_openings_are_read_of_every_frame(frames):
    codec = PortraitCodec(PortraitCodec.Config(num_patterns=12, **SIZES)).eval()
    latents = rearrange(codec.encode(frames, codec.prepare(frames[:, :, 0])), "b c l h w -> b l c h w")
    read = codec.read_openings(latents)
    assert read.shape == (2, 3, GROUP, 2)
    torch.testing.assert_close(codec.read_openings(latents[:, 1:]), read[:, 1:])
