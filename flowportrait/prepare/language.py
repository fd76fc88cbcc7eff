"""The language finder `whisper`: what a multilingual Whisper of any size takes speech to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16
from safetensors import SafetensorError

from flowportrait.errors import CheckpointError, require
from flowportrait.prepare.speech import Spoken

SAMPLE_RATE = 16_000
WINDOW = 30 * SAMPLE_RATE
_SILENT_LEVEL = 100.0  # root mean square, of 32768


class WhisperLanguage:
    """Hears up to `windows` times 30 s, spread evenly over the sound, silence left out, and takes
    the language that is the likeliest on average, as Whisper's first token names it
    (arXiv:2212.04356, section 2.3).

    `weights` is a folder as published for transformers, such as openai/whisper-tiny or
    whisper-large-v3 (Apache-2.0). Raises CheckpointError where it is none, or hears English alone,
    and MissingDependency without transformers.
    """

    def __init__(self, weights: str | Path, windows: int = 4, device: str = "cpu"):
        transformers = require("transformers", extra="bagel")
        folder = Path(weights)
        for name in ("config.json", "generation_config.json"):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder / name}: not there; give the folder of a Whisper model as published"
                )
        try:
            told = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
            model = transformers.WhisperForConditionalGeneration.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder}: cannot be loaded ({str(error).splitlines()[0]}); get it again"
            ) from error
        languages = told.get("lang_to_id")
        if not languages:
            raise CheckpointError(
                f"{folder}: hears English alone; give a Whisper without '.en' in its name"
            )
        self.windows, self.device = windows, torch.device(device)
        self._codes = [name.strip("<|>") for name in languages]
        self._ids = torch.tensor(list(languages.values()))
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._features = transformers.WhisperFeatureExtractor(model.config.num_mel_bins)

    @torch.inference_mode()
    def identify(self, pcm: Int16[np.ndarray, " s"]) -> Spoken:
        """Of mono sound at 16 kHz."""
        heard = [window.astype(np.float32) / 32768 for window in self._chosen(pcm)]
        features = self._features(heard, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        begin = torch.full((len(heard), 1), self._model.config.decoder_start_token_id)
        logits = self._model(
            input_features=features.input_features.to(self.device),
            decoder_input_ids=begin.to(self.device),
        ).logits
        shares = logits[:, 0].float().cpu()[:, self._ids].softmax(-1).mean(0)
        best = int(shares.argmax())
        return Spoken(self._codes[best], float(shares[best]))

    def _chosen(self, pcm: Int16[np.ndarray, " s"]) -> list[np.ndarray]:
        last = max(0, len(pcm) - WINDOW)
        count = min(self.windows, -(-max(1, len(pcm)) // WINDOW))
        starts = np.linspace(0, last, count).round().astype(int)
        found = [pcm[start : start + WINDOW] for start in starts]
        loud = [each for each in found if np.square(each.astype(np.float32)).mean() > _SILENT_LEVEL]
        return loud or found
