"""The language finder `whisper`: what a multilingual Whisper of any size takes speech to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError

from flowportrait.arrays import Array, Pcm
from flowportrait.errors import CheckpointError, require
from flowportrait.prepare.speech import Spoken
from flowportrait.sound import SPEECH_HZ

WINDOW = 30 * SPEECH_HZ
_SILENT_LEVEL = 100.0  # root mean square, of 32768
_MONOLINGUAL = "hears English alone; give a Whisper without '.en' in its name"


class WhisperLanguage:
    """Detects the spoken language with a Whisper model.

    Up to `windows` windows of 30 s are spread evenly over the sound without its silence; the
    language with the highest mean probability of Whisper's language token is taken
    (arXiv:2212.04356, section 2.3).

    `weights` is a folder as published for transformers, such as openai/whisper-tiny or
    whisper-large-v3 (Apache-2.0), or one in CTranslate2's format, such as those of faster-whisper
    (MIT), which runs in that library, on the CPU with one thread. Raises CheckpointError where it
    is none, or hears English alone, and MissingDependency without the library.
    """

    def __init__(self, weights: str | Path, windows: int = 4, device: str = "cpu"):
        folder = Path(weights)
        translated = (folder / "model.bin").is_file()
        self.windows = windows
        self._ear: _Ear = _Translated(folder) if translated else _Published(folder, device)

    def identify(self, pcm: Pcm) -> Spoken:
        """Detects the language of mono sound at 16 kHz."""
        heard = [window.astype(np.float32) / 32768 for window in self._chosen(pcm)]
        shares = self._ear.shares(heard).mean(0)
        best = int(shares.argmax())
        return Spoken(self._ear.codes[best], float(shares[best]))

    def _chosen(self, pcm: Pcm) -> list[Array]:
        """Windows spread over the sound, those with silence left out where others remain."""
        last = max(0, len(pcm) - WINDOW)
        count = min(self.windows, -(-max(1, len(pcm)) // WINDOW))
        starts = np.linspace(0, last, count).round().astype(int)
        found = [pcm[start : start + WINDOW] for start in starts]
        loud = [each for each in found if np.square(each.astype(np.float32)).mean() > _SILENT_LEVEL]
        return loud or found


class _Ear(Protocol):
    """A Whisper, however it is stored."""

    codes: Sequence[str]  # of the languages it knows

    def shares(self, heard: list[Array]) -> Float[np.ndarray, "n languages"]:
        """Probability of each language, for sounds of up to 30 s in [-1, 1]."""


class _Published:
    """As it is published for transformers."""

    def __init__(self, folder: Path, device: str):
        transformers = require("transformers", extra="bagel")
        for name in ("config.json", "generation_config.json"):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder / name}: missing; give the folder of a published Whisper model, or"
                    " one in CTranslate2's format, with model.bin"
                )
        try:
            told = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
            model = transformers.WhisperForConditionalGeneration.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder}: cannot be loaded ({str(error).splitlines()[0]}); download it again"
            ) from error
        languages = told.get("lang_to_id")
        if not languages:
            raise CheckpointError(f"{folder}: {_MONOLINGUAL}")
        self.codes = [name.strip("<|>") for name in languages]
        self._device = torch.device(device)
        self._ids = torch.tensor(list(languages.values()))
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._features = transformers.WhisperFeatureExtractor(model.config.num_mel_bins)

    @torch.inference_mode()
    def shares(self, heard: list[Array]) -> Float[np.ndarray, "n languages"]:
        """[n, languages] how likely each window is in each language."""
        features = self._features(heard, sampling_rate=SPEECH_HZ, return_tensors="pt")
        begin = torch.full((len(heard), 1), self._model.config.decoder_start_token_id)
        logits = self._model(
            input_features=features.input_features.to(self._device),
            decoder_input_ids=begin.to(self._device),
        ).logits
        return logits[:, 0].float().cpu()[:, self._ids].softmax(-1).numpy()


class _Translated:
    """In CTranslate2's format."""

    def __init__(self, folder: Path):
        ctranslate2 = require("ctranslate2", extra="ctranslate2")
        transformers = require("transformers", extra="ctranslate2")
        try:
            self._model = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=1)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: cannot be loaded ({str(error).splitlines()[0]}); download it again"
            ) from error
        if not self._model.is_multilingual:
            raise CheckpointError(f"{folder}: {_MONOLINGUAL}")
        self._features = transformers.WhisperFeatureExtractor(self._model.n_mels)
        self._view = ctranslate2.StorageView.from_array
        self.codes: list[str] = []

    def shares(self, heard: list[Array]) -> Float[np.ndarray, "n languages"]:
        """[n, languages] how likely windows are in each language; the model names the languages."""
        features = self._features(heard, sampling_rate=SPEECH_HZ, return_tensors="np")
        mels = np.ascontiguousarray(features.input_features.astype(np.float32))
        told = [dict(each) for each in self._model.detect_language(self._view(mels))]
        names = sorted(told[0])
        self.codes = [name.strip("<|>") for name in names]
        return np.array([[each[name] for name in names] for each in told], np.float32)
