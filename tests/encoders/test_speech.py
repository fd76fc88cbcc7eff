"""Whisper and wav2vec2 as features of speech: what transformers computes, at the moments of video
frames.
"""

import pytest
import torch
from torch.testing import assert_close

transformers = pytest.importorskip("transformers", reason="the extra 'bagel' is not installed")

from flowportrait.encoders.speech import Wav2Vec2Encoder, WhisperEncoder  # noqa: E402
from flowportrait.errors import ConfigError  # noqa: E402
from flowportrait.model.embed import Connector  # noqa: E402

RATE = 16_000
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "num_mel_bins": 80, "max_source_positions": 100,
}  # fmt: skip
WAV2VEC2 = {
    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def whisper(layers="last"):
    torch.manual_seed(0)
    return (
        WhisperEncoder(WhisperEncoder.Config(network=WHISPER, layers=layers))
        .eval()
        .requires_grad_(False)
    )


def wav2vec2(layers="last", **changes):
    torch.manual_seed(0)
    config = Wav2Vec2Encoder.Config(network={**WAV2VEC2, **changes}, layers=layers)
    return Wav2Vec2Encoder(config).eval().requires_grad_(False)


def sound(seconds, batch=1):
    return (
        torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(1)) * 0.1
    )


def test_whisper_is_transformers_own():
    """Two seconds fill the tiny network's window: its 100 vectors are those of the library, and
    vector i of the video is at 50 i / 24 of them.
    """
    encoder, audio = whisper(), sound(2.0)
    mels = transformers.WhisperFeatureExtractor(chunk_length=2)(
        audio[0].numpy(), sampling_rate=RATE, return_tensors="pt"
    )
    theirs = encoder.network(mels.input_features).last_hidden_state
    assert_close(encoder.listen(audio), theirs, atol=1e-5, rtol=0)
    ours = encoder(audio, 48)
    assert ours.shape == (1, 48, 16)
    assert_close(ours[:, ::12], theirs[:, ::25], atol=1e-5, rtol=0)
    assert_close(ours[:, 1], theirs[:, 2] * (11 / 12) + theirs[:, 3] * (1 / 12), atol=1e-5, rtol=0)


def test_wav2vec2_is_transformers_own():
    """Levels are taken away first; the vectors stand 320 samples apart, the first in the middle of
    400.
    """
    encoder, audio = wav2vec2(), sound(1.0) * 3 + 0.2
    assert (encoder.stride, encoder.centre) == (320, 199.5)
    levelled = (audio - audio.mean()) / audio.std(unbiased=False)
    theirs = encoder.network(levelled).last_hidden_state
    assert_close(encoder.listen(audio), theirs, atol=1e-4, rtol=0)
    place = (12 / 24 * RATE - 199.5) / 320
    before, share = int(place), place % 1
    expected = theirs[:, before] * (1 - share) + theirs[:, before + 1] * share
    assert_close(encoder(audio, 24)[:, 12], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [whisper, wav2vec2])
def test_layers_stand_side_by_side(make):
    audio, few, every = sound(1.0), make((0, 2)), make("all")
    assert (make().dim, few.dim, every.dim) == (16, 32, 48)
    first, second, third = every(audio, 24).split(16, dim=-1)
    assert_close(few(audio, 24), torch.cat([first, third], -1))
    assert_close(make()(audio, 24), third, atol=1e-5, rtol=0)
    assert not torch.allclose(first, second)
    with pytest.raises(
        ConfigError, match=r"layers: got \[3\]; give numbers from 0 \(the input\) to 2"
    ):
        make((3,))


@pytest.mark.parametrize("make", [whisper, wav2vec2])
def test_any_length_gives_a_vector_for_every_frame(make):
    """Sound that ends early counts as silence; a batch is each alone."""
    encoder, audio = make(), sound(0.7, batch=2)
    for frames in (1, 5, 17, 60):
        heard = encoder(audio, frames)
        assert heard.shape == (2, frames, 16) and heard.isfinite().all()
        assert_close(heard[1:], encoder(audio[1:], frames), atol=1e-5, rtol=0)
    quiet = torch.cat([audio, torch.zeros(2, RATE)], dim=1)
    assert_close(
        encoder(quiet[:, : round(60 / 24 * RATE)], 60), encoder(audio, 60), atol=1e-5, rtol=0
    )


def test_a_long_recording_is_heard_in_windows(monkeypatch):
    """In the middle of every window it is heard as it is alone; nothing is missing at the seams."""
    encoder, heard = whisper(), []
    monkeypatch.setattr(encoder, "hear", lambda audio: heard.append(audio) or audio[:, ::320, None])
    ramp = torch.arange(7 * RATE, dtype=torch.float32)[None]
    assert torch.equal(encoder.listen(ramp)[0, :, 0], ramp[0, ::320])
    assert len(heard) == 5 and all(audio.shape[1] <= 2 * RATE for audio in heard)


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_relatives_of_wav2vec2(kind):
    assert wav2vec2(model_type=kind)(sound(0.5), 12).shape == (1, 12, 16)


def test_another_kind_of_network_is_refused():
    with pytest.raises(
        ConfigError, match="network.model_type: got 'bert'; allowed: wav2vec2, hubert, wavlm"
    ):
        wav2vec2(model_type="bert")


def test_the_connector_learns_which_layers_matter():
    """Even shares at first; their gradient is that of the softmax, and one layer alone can be
    singled out.
    """
    features = torch.randn(1, 3, 48)
    mixing, plain = Connector(48, 8, layers=3), Connector(16, 8)
    plain.load_state_dict(
        {name: value for name, value in mixing.state_dict().items() if name != "mixture"}
    )
    assert_close(mixing(features), plain(features.unflatten(-1, (3, 16)).mean(2)))
    mixing(features).sum().backward()
    assert mixing.mixture.grad.abs().sum() > 0 and abs(float(mixing.mixture.grad.sum())) < 1e-6
    with torch.no_grad():
        mixing.mixture.copy_(torch.tensor([0.0, 100.0, 0.0]))
    assert_close(mixing(features), plain(features[..., 16:32]))
