"""Whether anybody's picture works: every portrait of a folder speaks, and is compared with
itself.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

from bench.landmarks import FaceLandmarker, lip_opening
from bench.material import AS_TRAINED
from bench.measures import (
    lag_curve,
    loudness,
    shape_distance,
    sharpness,
    summary,
    upper_face_colour,
)
from bench.sheets import write_sheet
from flowportrait.errors import FlowPortraitError
from flowportrait.faces.framing import FaceDetector, frame_portrait
from flowportrait.generate import Pipeline
from flowportrait.media import FPS, Sound, read_audio, read_portrait
from flowportrait.registry import FACE_DETECTORS

SHEET_CLIPS = 20
WANTED_FACE_SHARE = 0.95


@dataclass(frozen=True)
class RealClip:
    """A portrait as the model got it and what came out, with its figures."""

    portrait: np.ndarray
    frames: np.ndarray
    row: dict


def measure_real(
    portraits: list[Path],
    audios: list[Path],
    pipeline: Pipeline,
    landmarker: FaceLandmarker,
    evaluations: int | None,
    max_s: float,
    out: Path,
) -> dict:
    """Figures over all portraits, a row each (worst first), and OUT/real.png: the ten worst, ten
    others.
    """
    detector = FACE_DETECTORS.load("centerface")()
    clips, refused = [], []
    for i, path in enumerate(portraits):
        sound = read_audio(audios[i % len(audios)])
        sound = Sound(sound.samples[: round(max_s * sound.sample_rate)], sound.sample_rate)
        try:
            portrait, _ = frame_portrait(
                read_portrait(path), pipeline.spec.size_px, "auto", detector
            )
        except FlowPortraitError as error:
            refused.append({"portrait": path.name, "error": str(error)})
            continue
        frames = pipeline.generate(portrait, sound, evaluations=evaluations, **AS_TRAINED).frames
        row = {"portrait": path.name, "audio": audios[i % len(audios)].name}
        clips.append(
            RealClip(
                portrait, frames, row | _figures(portrait, frames, sound, landmarker, detector)
            )
        )
        print(clips[-1].row, flush=True)
    clips.sort(key=_badness, reverse=True)
    rest = clips[SHEET_CLIPS // 2 :]
    picked = (
        np.unique(np.linspace(0, len(rest) - 1, SHEET_CLIPS // 2).round().astype(int))
        if rest
        else []
    )
    shown = clips[: SHEET_CLIPS // 2] + [rest[i] for i in picked]
    write_sheet(out / "real.png", [(_label(clip), _pictures(clip, landmarker)) for clip in shown])
    rows = [clip.row for clip in clips]
    return {
        "share_with_face_in_95_percent": fmean(
            row["detected_share"] >= WANTED_FACE_SHARE for row in rows
        ),
        "share_with_landmarks_in_95_percent": fmean(
            row["face_share"] >= WANTED_FACE_SHARE for row in rows
        ),
        **{
            key: summary([row[key] for row in rows])
            for key in rows[0]
            if key not in ("portrait", "audio")
        },
        "refused": refused,
        "clips": rows,
    }


def _figures(
    portrait: np.ndarray,
    frames: np.ndarray,
    sound: Sound,
    landmarker: FaceLandmarker,
    detector: FaceDetector,
) -> dict[str, float]:
    """`face_in_portrait` tells a failing landmarker from a failing model; `detected_share` is
    CenterFace's, which unlike the landmarker knows profiles, too.
    """
    still, track = landmarker.track(portrait[None]), landmarker.track(frames)
    opening = lip_opening(track.landmarks68)
    level = loudness(sound.samples, sound.sample_rate, len(frames), FPS)
    curve = lag_curve(level, opening)
    return {
        "face_in_portrait": float(still.valid[0]),
        "face_share": float(track.valid.mean()),
        "detected_share": fmean(bool(detector.detect(frame)) for frame in frames),
        "colour_distance": _colour_distance(portrait, still.landmarks68, frames, track.landmarks68),
        "shape_distance": float(
            np.nanmedian(shape_distance(track.landmarks68, still.landmarks68[0]))
        ),
        "sharpness": sharpness(frames) / sharpness(portrait[None]),
        "mouth_loudness_r": curve.at_zero,
        "mouth_loudness_best_r": curve.best,
        "mouth_loudness_best_lag": curve.best_lag,
        "opening_std": float(np.nanstd(opening)),
    }


def _colour_distance(
    portrait: np.ndarray, portrait68: np.ndarray, frames: np.ndarray, landmarks68: np.ndarray
) -> float:
    """Median CIEDE2000 of the upper face's mean colour from the portrait's; about 2 is just
    noticeable.
    """
    wanted = rgb2lab(upper_face_colour(portrait[None], portrait68) / 255)
    got = rgb2lab(upper_face_colour(frames, landmarks68) / 255)
    return float(np.nanmedian(deltaE_ciede2000(wanted, got)))


def _badness(clip: RealClip) -> float:
    """Missing faces first, then strangers, then still mouths; nan counts as bad."""
    row = clip.row
    parts = (
        4 * (1 - row["face_share"]),
        10 * row["shape_distance"],
        row["colour_distance"] / 10,
        -row["mouth_loudness_best_r"],
    )
    return float(sum(np.nan_to_num(part, nan=1.0) for part in parts))


def _label(clip: RealClip) -> str:
    row = clip.row
    return (
        f"{row['portrait'][:44]} + {row['audio'][:40]}: face {row['face_share']:.0%}, colour "
        f"{row['colour_distance']:.1f}, shape {row['shape_distance']:.3f}, "
        f"mouth r {row['mouth_loudness_best_r']:.2f}"
    )


def _pictures(clip: RealClip, landmarker: FaceLandmarker) -> list[np.ndarray]:
    """Portrait, six frames evenly spaced, and the frames with the mouth most closed and most
    open.
    """
    opening = np.nan_to_num(lip_opening(landmarker.track(clip.frames).landmarks68))
    spaced = np.linspace(0, len(clip.frames) - 1, 6).round().astype(int)
    return [clip.portrait, *(clip.frames[i] for i in (*spaced, opening.argmin(), opening.argmax()))]
