"""Festival, another synthesizer of the system: its diphone voices are cut from a person's recorded
speech, unlike those of flite (statistics) and espeak-ng (formants).
"""

import subprocess
import tempfile
from pathlib import Path

from flowportrait import media
from flowportrait.errors import MediaError
from flowportrait.world.phones import Phone, TimedSpeech

_ALIKE = {
    "#": "pau",
    "brth": "pau",
    "h#": "pau",
    "el": "l",
    "em": "m",
    "en": "n",
    "dx": "d",
    "nx": "n",
    "axr": "er",
}
_VOICES = Path("/usr/share/festival/voices")


def festival_voice_is_installed(name: str) -> bool:
    """Whether Festival finds the voice `name`, such as ked_diphone."""
    return any(_VOICES.glob(f"*/{name}"))


def say_with_festival(text: str, voice: str, stretch: float, pitch_hz: float) -> TimedSpeech:
    """Samples, their rate and the phones; `stretch` above 1 is slower. Raises MediaError when
    Festival fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        labels = Path(folder) / "speech.lab"
        program = f"""(voice_{voice})
            (Parameter.set 'Duration_Stretch {stretch:.4f})
            (set! int_lr_params '((target_f0_mean {pitch_hz:.2f}) (target_f0_std 14)
                                  (model_f0_mean 170) (model_f0_std 34)))
            (set! said (utt.synth (Utterance Text "{text.replace('"', "")}")))
            (utt.save.wave said "{sound}" 'riff)
            (utt.save.segs said "{labels}")"""
        done = subprocess.run(["festival", "--pipe"], input=program, capture_output=True, text=True)
        if done.returncode != 0 or not labels.is_file():
            raise MediaError(
                f"festival: cannot say '{text}' with {voice}"
                f" ({done.stderr.strip() or 'no phones told'})"
            )
        samples, rate = media.read_audio(sound)
        ends = [line.split() for line in labels.read_text().splitlines()[1:]]
    starts = [0.0, *(float(end_s) for end_s, _, _ in ends[:-1])]
    return (
        samples,
        rate,
        [Phone(at, _ALIKE.get(name, name)) for at, (_, _, name) in zip(starts, ends, strict=True)],
    )
