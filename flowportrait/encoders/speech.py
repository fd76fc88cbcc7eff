"""Speech as large trained networks hear it: Whisper's encoder, and wav2vec2, HuBERT and WavLM,
through transformers.

Both give about 50 vectors a second; they are brought to the video's rate: vector i belongs to the
moment i / 24 s. Several layers stand side by side in a vector when asked for: the generator's
connector then learns how to mix them (`model/embed.py`), which works as well on features that were
computed once and stored.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.errors import ConfigError, require
from flowportrait.files import JsonObject
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Sound, Tokens

Frames = Float[Tensor, "b m d"]

FRAME_HZ = 24
MARGIN = 1 / 8  # of a window, heard on both sides of what is kept of it

WHISPER_LARGE_V3 = {
    "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "num_mel_bins": 128, "max_source_positions": 1500,
}  # fmt: skip

Layers = Literal["last", "all"] | tuple[int, ...]


class SpeechEncoder(nn.Module):
    """The common part of both kinds: windows for long recordings, the choice of layers, the video's
    rate.

    A kind says `window` (samples heard at once), `stride` (samples from vector to vector) and
    `centre` (the sample that vector 0 belongs to), and computes `hear`.
    """

    rate_hz = FRAME_HZ
    builds_empty = (
        True  # has nothing but weights, so that it need not be filled before these are loaded
    )
    window: int
    stride: int
    centre: float

    def __init__(self, network: nn.Module, width: int, num_layers: int, layers: Layers):
        super().__init__()
        self.network = network
        self.layers = tuple(range(num_layers + 1)) if layers == "all" else layers
        if layers != "last" and not all(0 <= layer <= num_layers for layer in self.layers):
            raise ConfigError(
                f"layers: got {list(self.layers)}; give numbers from 0 (the input) to {num_layers}"
            )
        self.dim = width * (1 if layers == "last" else len(self.layers))

    def forward(self, audio: Sound, num_frames: int) -> Tokens:
        """One vector per video frame; sound missing at the end counts as silence."""
        needed = math.ceil(num_frames / FRAME_HZ * SPEECH_HZ)
        audio = F.pad(audio, (0, max(0, needed - audio.shape[-1])))
        return self.at_video_rate(self.listen(audio), num_frames)

    def listen(self, audio: Sound) -> Frames:
        """Vectors of a recording of any length at the network's own rate. What is longer than a
        window is heard in several that overlap; of each the middle is kept.
        """
        margin = int(self.window * MARGIN) // self.stride
        hop = self.window // self.stride - 2 * margin
        pieces = []
        start = 0
        while True:
            heard = self.hear(audio[:, start * self.stride :][:, : self.window])
            ends = start * self.stride + self.window >= audio.shape[1]
            pieces.append(heard[:, margin if start else 0 : None if ends else margin + hop])
            if ends:
                return torch.cat(pieces, dim=1)
            start += hop

    def at_video_rate(self, heard: Frames, num_frames: int) -> Tokens:
        """Vectors at the moments i / 24 s, between the two nearest of the network's."""
        moments = (
            torch.arange(
                num_frames,
                device=heard.device,
                dtype=torch.float64,
            )
            / FRAME_HZ
        )
        place = ((moments * SPEECH_HZ - self.centre) / self.stride).clamp(0, heard.shape[1] - 1)
        before = place.floor().long()
        after = (before + 1).clamp(max=heard.shape[1] - 1)
        return torch.lerp(
            heard[:, before], heard[:, after], (place - before).to(heard.dtype)[:, None]
        )

    def hear(self, audio: Sound) -> Frames:
        """Vectors of at most one window."""
        raise NotImplementedError

    def chosen(self, output: Any) -> Frames:
        """The layers that were asked for, side by side."""
        if self.layers == "last":
            return output.last_hidden_state
        return torch.cat([output.hidden_states[layer] for layer in self.layers], dim=-1)


class WhisperEncoder(SpeechEncoder):
    """The encoder of a Whisper model (arXiv:2212.04356). It hears 30 s at once, filled up with
    silence.
    """

    weights_from = (
        "its weights come from a Whisper model such as openai/whisper-large-v3 (Apache-2.0, 1280"
        " wide): flowportrait convert whisper FOLDER -o MODEL_DIR"
    )

    class Config(Frozen):
        """`network` is the model's own config.json."""

        network: JsonObject = Field(WHISPER_LARGE_V3, description="Unstated in the paper")
        layers: Layers = Field(
            "last", description="layers whose output is used; 0 is the input of the first layer"
        )

    def __init__(self, config: Config):
        require("transformers", extra="bagel")
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Network

        network = Network(WhisperConfig(**config.network, attn_implementation="sdpa"))
        sizes = network.config
        super().__init__(network, sizes.d_model, sizes.encoder_layers, config.layers)
        self.stride, self.centre = (
            320,
            0.0,
        )  # mels every 10 ms, halved; both kinds of convolution are centred
        self.window = sizes.max_source_positions * self.stride
        self.mels = WhisperFeatureExtractor(
            feature_size=sizes.num_mel_bins,
            chunk_length=self.window // SPEECH_HZ,
            sampling_rate=SPEECH_HZ,
        )

    def hear(self, audio: Sound) -> Frames:
        """Vectors at 50 Hz of at most 30 s."""
        where = self.network.conv1.weight
        mels = self.mels(
            audio.cpu().numpy(),
            sampling_rate=SPEECH_HZ,
            return_tensors="pt",
            max_length=self.window,
            device=str(where.device),
        ).input_features
        output = self.network(mels.to(where), output_hidden_states=self.layers != "last")
        return self.chosen(output)[:, : max(1, math.ceil(audio.shape[1] / self.stride))]


class Wav2Vec2Encoder(SpeechEncoder):
    """wav2vec2 (arXiv:2006.11477), HuBERT (arXiv:2106.07447) or WavLM (arXiv:2110.13900), which
    read raw samples.
    """

    FAMILY = ("wav2vec2", "hubert", "wavlm")
    WINDOW_S = 30
    weights_from = (
        "its weights come from a wav2vec2, HuBERT or WavLM model such as"
        " facebook/wav2vec2-large-xlsr-53 (Apache-2.0, 1024 wide): flowportrait convert wav2vec2"
        " FOLDER -o MODEL_DIR"
    )

    class Config(Frozen):
        """`network` is the model's own config.json; its `model_type` says which it is."""

        network: JsonObject
        layers: Layers = Field(
            "all", description="layers whose output is used; 0 is the input of the first layer"
        )
        levels: bool = Field(
            True, description="normalize recordings to mean 0 and variance 1 (do_normalize)"
        )

    def __init__(self, config: Config):
        require("transformers", extra="bagel")
        from transformers import AutoConfig, AutoModel

        values = dict(config.network)
        kind = values.pop("model_type", None)
        if kind not in self.FAMILY:
            raise ConfigError(
                f"network.model_type: got {kind!r}; allowed: {', '.join(self.FAMILY)}"
            )
        # Spans of the sound are hidden in pre-training alone; without that its one weight is not
        # there.
        sizes = AutoConfig.for_model(
            kind, **{**values, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
        )
        network = AutoModel.from_config(sizes)
        super().__init__(network, sizes.hidden_size, sizes.num_hidden_layers, config.layers)
        self.levels = config.levels
        self._measure_windows(sizes)

    def _measure_windows(self, sizes) -> None:
        """Finds from the convolutions how many samples a vector is apart from the next, and where
        it looks.
        """
        self.stride = 1
        reach = 1
        for kernel, stride in zip(sizes.conv_kernel, sizes.conv_stride, strict=True):
            reach += (kernel - 1) * self.stride
            self.stride *= stride
        self.centre = (reach - 1) / 2
        self.window = self.WINDOW_S * SPEECH_HZ // self.stride * self.stride

    def listen(self, audio: Sound) -> Frames:
        """Vectors of a recording of any length, whose level is taken over the whole."""
        if self.levels:
            spread = audio.var(dim=1, keepdim=True, unbiased=False) + 1e-7
            audio = (audio - audio.mean(dim=1, keepdim=True)) / spread.sqrt()
        return super().listen(audio)

    def hear(self, audio: Sound) -> Frames:
        """Vectors at 50 Hz of at most 30 s."""
        return self.chosen(self.network(audio, output_hidden_states=self.layers != "last"))
