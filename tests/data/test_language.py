"""The language finder `whisper`, with a small Whisper of random weights as one is published."""

import json

import numpy as np
import pytest
import torch

from flowportrait.errors import CheckpointError
from flowportrait.prepare.speech import SpeechConfig, SpeechFilters

transformers = pytest.importorskip("transformers", reason="the extra 'bagel' is not installed")
LANGUAGES = {"<|en|>": 3, "<|de|>": 4, "<|zh|>": 5}
TONE = (3000 * np.sin(np.arange(16_000 * 40) * 0.2)).astype(np.int16)


def whisper(folder, **more):
    config = transformers.WhisperConfig(
        vocab_size=12, num_mel_bins=80, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, decoder_start_token_id=1, pad_token_id=0, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    model.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return model


def finder(folder, **settings):
    config = SpeechConfig(
        language="whisper", language_settings={"weights": str(folder), **settings}
    )
    return SpeechFilters(config).language_finder


def test_the_likeliest_language_is_that_of_the_network_itself(tmp_path):
    model = whisper(tmp_path, lang_to_id=LANGUAGES, is_multilingual=True)
    spoken = finder(tmp_path).identify(TONE)
    extractor = transformers.WhisperFeatureExtractor(80)
    windows = [TONE[:480_000], TONE[-480_000:]]
    features = extractor(
        [each / np.float32(32768) for each in windows], sampling_rate=16_000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        logits = model.eval()(input_features=features, decoder_input_ids=torch.ones(2, 1).long())
    shares = logits.logits[:, 0, 3:6].softmax(-1).mean(0)
    assert spoken.language == ["en", "de", "zh"][int(shares.argmax())]
    assert spoken.certainty == pytest.approx(float(shares.max()), abs=1e-5)


def test_silence_is_not_heard_where_there_is_speech(tmp_path):
    whisper(tmp_path, lang_to_id=LANGUAGES)
    found = finder(tmp_path, windows=3)
    quiet = np.concatenate([np.zeros(480_000, np.int16), TONE[:480_000]])
    assert found.identify(quiet).certainty == pytest.approx(
        found.identify(TONE[:480_000]).certainty, abs=1e-5
    )
    assert 0 < found.identify(np.zeros(16_000, np.int16)).certainty <= 1


def test_what_is_no_multilingual_whisper_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="config.json: not there; give the folder of a"):
        finder(tmp_path)
    whisper(tmp_path)
    with pytest.raises(CheckpointError, match="hears English alone; give a Whisper without '.en'"):
        finder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        finder(tmp_path)
