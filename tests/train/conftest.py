"""A rendered-world folder in miniature: eight clips of blobs that open with their own sound."""

import json

import numpy as np
import pytest

from flowportrait.media import write_video

FRAMES, SIZE, RATE = 44, 128, 16_000
VOICES = [
    {"engine": "flite 2.2", "name": "slt"},
    {"engine": "flite 2.2", "name": "kal16"},
    {"engine": "espeak-ng 1.51", "name": "en-us+f1"},
    {"engine": "Kokoro-82M int8", "name": "blend:jf_alpha=0.9,jf_nezumi=0.1"},
]


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """A folder as `load_sources(world=...)` reads it."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    with (root / "clips.jsonl").open("w") as index:
        for number in range(8):
            seed = (1000, 1001, 1008, 1009)[number // 2]
            key = f"blob_{seed}_{number % 2}"
            _render(root, key, rng)
            record = {
                "key": key,
                "identity": {"seed": seed},
                "voice": VOICES[number % 4],
                "text": f"sentence {number}",
            }
            index.write(json.dumps(record) + "\n")
    return root


def _render(root, key, rng):
    """A disc with a dark mouth whose height follows the loudness of a humming voice."""
    opening = 1 + 6 * np.abs(np.sin(np.arange(FRAMES) / 24 * rng.uniform(6, 12)))
    rows, cols = np.mgrid[:SIZE, :SIZE]
    skin = rng.integers(90, 255, 3)
    frames = np.full((FRAMES, SIZE, SIZE, 3), rng.integers(0, 255, 3), np.uint8)
    frames[:, (rows - 64) ** 2 + (cols - 64) ** 2 < 40**2] = skin
    for frame, height in zip(frames, opening, strict=True):
        frame[(np.abs(rows - 84) < height) & (np.abs(cols - 64) < 12)] = skin // 4
    seconds = np.arange(round(FRAMES / 24 * RATE)) / RATE
    loudness = np.interp(seconds, np.arange(FRAMES) / 24, opening / 7)
    audio = (0.4 * loudness * np.sin(2 * np.pi * 180 * seconds)).astype(np.float32)
    write_video(root / f"{key}.mp4", frames, 24.0, audio, RATE, {})
    np.savez(root / f"{key}.npz", landmarks68=_landmarks(opening), arkit=_shapes(opening))


def _landmarks(opening):
    """68 points; only the hull, the eyes and the inner lips carry meaning."""
    points = np.zeros((len(opening), 68, 2), np.float32)
    points[:, :17] = np.stack(
        [np.linspace(32, 96, 17), 64 + 36 * np.sin(np.linspace(0, np.pi, 17))], -1
    )
    points[:, 17:36] = (64, 50)
    points[:, 36:42], points[:, 42:48] = (48, 52), (80, 52)
    points[:, 48:68] = (64, 84)
    points[:, 48, 0], points[:, 54, 0] = 52, 76
    points[:, 61:64, 1] -= opening[:, None]
    points[:, 65:68, 1] += opening[:, None]
    return points


def _shapes(opening):
    shapes = np.zeros((len(opening), 52), np.float32)
    shapes[:, 24] = opening / 7  # jawOpen
    return shapes
