"""The language finder `whisper`, with a small Whisper of random weights as one is published."""

import json
import sys

import numpy as np
import pytest
import torch

from flowportrait.errors import CheckpointError, MissingDependency
from flowportrait.prepare.speech import SpeechConfig, SpeechFilters

transformers = pytest.importorskip("transformers", reason="the extra 'bagel' is not installed")
LANGUAGES = {"<|en|>": 3, "<|de|>": 4, "<|zh|>": 5}
MULTILINGUAL = 51_865  # words
TONE = (3000 * np.sin(np.arange(16_000 * 40) * 0.2)).astype(np.int16)


def whisper(folder, num_words=12, **more):
    config = transformers.WhisperConfig(
        vocab_size=num_words, num_mel_bins=80, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, decoder_start_token_id=1, pad_token_id=0, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    folder.mkdir(exist_ok=True)
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
    with pytest.raises(CheckpointError, match="config.json: missing; give the folder of a"):
        finder(tmp_path)
    whisper(tmp_path)
    with pytest.raises(CheckpointError, match="hears English alone; give a Whisper without '.en'"):
        finder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        finder(tmp_path)


# ------------------------------------------------------------------------------------------------
# CTranslate2


def translated(model, folder, languages=LANGUAGES):
    """The same network in CTranslate2's format, as its converter writes it, but for the words."""
    pytest.importorskip("ctranslate2", reason="the extra 'ctranslate2' is not installed")
    from ctranslate2.converters import transformers as converters

    spec = converters.WhisperLoader().get_model_spec(model)
    words = [f"w{number}" for number in range(model.config.vocab_size)]
    words[1], words[2] = "<|startoftranscript|>", "<|endoftext|>"
    for number, name in enumerate(("translate", "transcribe", "notimestamps", "nospeech"), 6):
        words[number] = f"<|{name}|>"
    for name, number in languages.items():
        words[number] = name
    if len(words) >= MULTILINGUAL:
        words[50_256] = ""  # as in the published ones, by which it knows them
    spec.register_vocabulary(words)
    spec.config.lang_ids = list(languages.values())
    spec.config.suppress_ids = spec.config.suppress_ids_begin = []
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))


def test_in_ctranslate2s_format_it_hears_what_the_published_one_hears(tmp_path):
    model = whisper(tmp_path, MULTILINGUAL, lang_to_id=LANGUAGES, is_multilingual=True)
    translated(model, tmp_path / "translated")
    translated(whisper(tmp_path / "small"), tmp_path / "english")
    with pytest.raises(CheckpointError, match="hears English alone"):
        finder(tmp_path / "english")
    expected = finder(tmp_path).identify(TONE)
    spoken = finder(tmp_path / "translated").identify(TONE)
    assert spoken.language == expected.language
    assert spoken.certainty == pytest.approx(expected.certainty, abs=1e-3)


def test_what_is_none_in_ctranslate2s_format_is_one_line(tmp_path):
    pytest.importorskip("ctranslate2", reason="the extra 'ctranslate2' is not installed")
    (tmp_path / "model.bin").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="cannot be loaded") as refused:
        finder(tmp_path)
    assert "\n" not in str(refused.value)


def test_without_ctranslate2_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    (tmp_path / "model.bin").touch()
    with pytest.raises(MissingDependency, match=r"pip install 'flowportrait\[ctranslate2\]'"):
        finder(tmp_path)
