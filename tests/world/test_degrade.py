"""Degradations: nothing at strength 0, worse with every level, the same from the same seed."""

import numpy as np
import pytest

from flowportrait.errors import ConfigError
from flowportrait.media import Sound
from flowportrait.world.degrade import DEGRADATIONS, ClipInMemory, degrade

FRAMES, SIZE, RATE, FPS = 32, 64, 16000, 24


@pytest.fixture(scope="module")
def footage() -> ClipInMemory:
    """A textured square whose mouth opens and closes and whose brows move, with sound as loud as
    the mouth is open.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    ground = 90 + 60 * np.sin(x / 3) * np.cos(y / 4)
    opening = 0.5 + 0.5 * np.sin(np.arange(FRAMES) / 2)
    frames = np.repeat(ground[None, ..., None], FRAMES, 0).repeat(3, -1)
    for frame, opened in zip(frames, opening, strict=True):
        frame[np.hypot((x - 32) / 7, (y - 45) / (1 + 5 * opened)) < 1] = 10
        frame[(abs(y - 22 + 3 * opened) < 1.5) & (abs(x - 32) < 12)] = 230
    samples = np.repeat(opening, RATE // FPS) * rng.normal(size=FRAMES * (RATE // FPS)) * 0.2
    other = rng.normal(size=RATE // 2) * 0.2
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    return ClipInMemory(
        frames,
        Sound(samples.astype(np.float32), RATE),
        FPS,
        None,
        Sound(other.astype(np.float32), RATE),
    )


def motion(footage: ClipInMemory, rows=slice(None)) -> float:
    """Mean change from frame to frame within some rows."""
    return float(np.abs(np.diff(footage.frames[:, rows].astype(float), axis=0)).mean())


def harm(name: str, whole: ClipInMemory, worse: ClipInMemory) -> float:
    """How bad it is by a measure that knows what is broken."""
    changed = np.abs(worse.frames.astype(float) - whole.frames).mean()
    if name == "shifted_sound":
        return lag(whole.sound.samples, worse.sound.samples)
    if name == "foreign_speech":
        return float(np.mean(worse.sound.samples != whole.sound.samples))
    if name == "frozen_mouth":
        return -motion(worse, slice(38, 52))
    if name == "muted_expression":
        return -motion(worse, slice(16, 30))
    if name in ("frozen_face", "dropped_frames"):
        return float(
            np.mean([(a == b).all() for a, b in zip(worse.frames, worse.frames[1:], strict=False)])
        )
    if name == "blur":
        return -float(np.abs(np.diff(worse.frames.astype(float), axis=2)).mean())
    return float(changed)


def lag(samples: np.ndarray, moved: np.ndarray) -> float:
    """Samples by which one sound is later than the other."""
    product = np.fft.irfft(
        np.fft.rfft(moved, 2 * len(samples)) * np.fft.rfft(samples, 2 * len(samples)).conj()
    )
    return float(product.argmax())


@pytest.mark.parametrize("name", sorted(DEGRADATIONS))
def test_every_level_is_worse(footage, name):
    if name == "blur":  # its smallest level does not show in 64 px
        footage = footage._replace(frames=footage.frames.repeat(2, 1).repeat(2, 2))
    whole = degrade(footage, name, 0)
    assert (whole.frames == footage.frames).all() and (
        whole.sound.samples == footage.sound.samples
    ).all()
    steps = [degrade(footage, name, level, seed=3) for level in DEGRADATIONS[name].levels]
    harms = [harm(name, footage, worse) for worse in (footage, *steps)]
    assert all(a < b for a, b in zip(harms, harms[1:], strict=False)), harms
    for worse in steps:
        assert worse.frames.shape == footage.frames.shape and worse.frames.dtype == np.uint8
        assert worse.sound.samples.shape == footage.sound.samples.shape
    sound_kept = name not in ("shifted_sound", "foreign_speech")
    assert (steps[-1].sound.samples == footage.sound.samples).all() == sound_kept
    assert (steps[-1].frames == footage.frames).all() != sound_kept


def test_the_same_seed_gives_the_same_clip(footage):
    a, b, c = (degrade(footage, "jitter", 2, seed) for seed in (1, 1, 2))
    assert (a.frames == b.frames).all() and (a.frames != c.frames).any()


def test_a_held_mouth_leaves_the_brows_alone(footage):
    worse = degrade(footage, "frozen_mouth", 1.0)
    assert motion(worse, slice(38, 52)) < 0.05 * motion(footage, slice(38, 52))
    assert motion(worse, slice(16, 26)) == motion(footage, slice(16, 26))


def test_muted_brows_leave_the_mouth_alone(footage):
    """The lips begin just under the nose, as in the faces of the world."""
    points = np.zeros((68, 2))
    points[17:27] = [[x, 16] for x in np.linspace(18, 46, 10)]
    points[27:31] = [[32, y] for y in range(24, 32, 2)]
    points[31:36] = [[x, 34] for x in range(28, 38, 2)]
    points[36:48] = [[x, 27] for x in np.linspace(20, 44, 12)]
    points[48:68] = [[x, y] for y in (38, 53) for x in np.linspace(23, 41, 10)]
    worse = degrade(
        footage._replace(landmarks=np.tile(points, (FRAMES, 1, 1))), "muted_expression", 1.0
    )
    lips = (slice(None), slice(38, 54), slice(22, 43))
    assert (worse.frames[lips] == footage.frames[lips]).all()
    assert motion(worse, slice(16, 27)) < 0.1 * motion(footage, slice(16, 27))


def test_a_held_mouth_follows_the_head(footage):
    """Frames that shift by two pixels each second frame, with landmarks that say so."""
    shifts = np.arange(FRAMES) % 2 * 2
    frames = np.stack(
        [np.roll(frame, shift, axis=1) for frame, shift in zip(footage.frames, shifts, strict=True)]
    )
    points = np.tile(np.random.default_rng(0).uniform(20, 44, (68, 2)), (FRAMES, 1, 1))
    points[:, 48:68] = points[:, 48:68] * 0.5 + [16, 28.5]
    points[..., 0] += shifts[:, None]
    worse = degrade(footage._replace(frames=frames, landmarks=points), "frozen_mouth", 1.0)
    back = np.stack(
        [np.roll(frame, -shift, axis=1) for frame, shift in zip(worse.frames, shifts, strict=True)]
    )
    assert np.abs(back[:, 42:48, 29:35].astype(float) - back[0, 42:48, 29:35]).max() <= 1


def test_sound_can_come_early(footage):
    early = degrade(footage, "shifted_sound", -2).sound.samples
    late = degrade(footage, "shifted_sound", 2).sound.samples
    shift = round(2 / FPS * RATE)
    assert (early[:-shift] == footage.sound.samples[shift:]).all() and (early[-shift:] == 0).all()
    assert (late[shift:] == footage.sound.samples[:-shift]).all() and (late[:shift] == 0).all()


def test_what_cannot_be_meant_is_told(footage):
    with pytest.raises(ConfigError, match="degradation: no 'blurr'; did you mean 'blur'"):
        degrade(footage, "blurr", 1)
    with pytest.raises(ConfigError, match="give other_sound"):
        degrade(footage._replace(other_sound=None), "foreign_speech", 1)
