"""Generators beside each other over one portrait and one sound: a video of panels, and our own.

    python -m bench.panels VIDEO --names portrait SadTalker EchoMimic Hallo Sonic
        --landmarker face_landmarker.task --out DIR [--model tiny]

The first panel shows the portrait; our model makes it say the video's sound. Prints a row for each
generator, writes DIR/panels.json, our own video and DIR/ours.png. The other panels' pictures stay
where they are: a document may give their figures alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from bench.landmarks import LEFT_EYE, RIGHT_EYE, FaceLandmarker, lip_opening, mouth_width
from bench.measures import correlation, loudness
from bench.sheets import strip
from flowportrait import media
from flowportrait.errors import FlowPortraitError
from flowportrait.generate import load

BROWS, NOSE = slice(17, 27), slice(27, 36)
BLINK, OPEN = 0.5, 0.35
"""ARKit's eyeBlink from which eyes count as shut, and below which as open again."""
BLINK_COLUMNS = (8, 9)


def main() -> None:
    arguments = _parser().parse_args()
    clip = media.Clip(arguments.video)
    width = clip.frames.shape[2] // len(arguments.names)
    panels = {
        name: clip.frames[:, :, i * width : (i + 1) * width]
        for i, name in enumerate(arguments.names)
    }
    portrait = panels.pop(arguments.names[0])[0]
    arguments.out.mkdir(parents=True, exist_ok=True)
    sound = (clip.sound.samples, clip.sound.sample_rate)
    # The whole panel at its own size, as the others show it.
    made = load(arguments.model).generate(portrait, sound, size="auto", frame="whole")
    made.save(arguments.out / "ours.mp4")
    panels["ours"] = made.frames
    Image.fromarray(np.hstack(strip(made.frames, 8))).save(arguments.out / "ours.png")
    landmarker = FaceLandmarker(arguments.landmarker)
    own_sharpness = laplacian(portrait[None])
    rows = {}
    for name, frames in panels.items():
        fps = made.fps if name == "ours" else clip.fps
        rows[name] = figures(frames, fps, sound, landmarker)
        rows[name]["sharpness_of_portrait"] = laplacian(frames) / own_sharpness
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    (arguments.out / "panels.json").write_text(json.dumps(rows, indent=2))


def figures(
    frames: np.ndarray, fps: float, sound: tuple[np.ndarray, int], landmarker: FaceLandmarker
) -> dict[str, float]:
    """Spreads are standard deviations in distances between the eyes; `shake` is the change of the
    nose's step over its step, 0 for even motion; nan frames, without a face, are left out.
    """
    track = landmarker.track(frames)
    points = track.landmarks68
    opening, wide = lip_opening(points), mouth_width(points)
    samples = sound[0].mean(axis=1) if sound[0].ndim == 2 else sound[0]
    centre = [points[:, eye].mean(1) for eye in (RIGHT_EYE, LEFT_EYE)]
    between = np.linalg.norm(centre[1] - centre[0], axis=-1)
    nose = points[:, NOSE].mean(1) / np.nanmedian(between)
    brows = ((centre[0] + centre[1]) / 2 - points[:, BROWS].mean(1))[:, 1] / between
    step = np.diff(nose, axis=0)
    shake = np.nanmean(np.linalg.norm(np.diff(step, axis=0), axis=-1))
    return {
        "opening_spread": float(np.nanstd(opening)),
        "opening_at_rest": float(np.nanpercentile(opening, 5)),
        "width_spread": float(np.nanstd(wide)),
        "loudness_r": correlation(loudness(samples, sound[1], len(opening), fps), opening),
        "brow_spread": float(np.nanstd(brows)),
        "head_spread": float(np.linalg.norm(np.nanstd(nose, axis=0))),
        "shake": float(shake / np.nanmean(np.linalg.norm(step, axis=-1))),
        "blinks_a_minute": blinks(track.arkit[:, BLINK_COLUMNS].mean(1)) / len(frames) * fps * 60,
    }


def blinks(closed: np.ndarray) -> int:
    """How often eyes shut, of how shut they are [n] in [0, 1]."""
    count, shut = 0, False
    for value in closed[np.isfinite(closed)]:
        if not shut and value > BLINK:
            count, shut = count + 1, True
        shut = shut and value >= OPEN
    return count


def laplacian(frames: np.ndarray) -> float:
    """Median over uint8 frames [n, h, w, 3] of the variance of their Laplacian."""
    light = frames.mean(-1, dtype=np.float32)
    around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    return float(np.median((around - 4 * light[:, 1:-1, 1:-1]).var(axis=(1, 2))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--names", nargs="+", required=True, help="of the panels, portrait first")
    parser.add_argument("--landmarker", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    return parser


if __name__ == "__main__":
    try:
        main()
    except FlowPortraitError as error:
        raise SystemExit(f"error: {error}") from None
