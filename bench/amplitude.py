"""How far lips open, by every instrument that is used: which of them to believe.

    python -m bench.amplitude tiny --world DIR --landmarker face_landmarker.task [--limit 16]

Rendered clips know where their lips are. Their openings are compared with what MediaPipe sees in
the same frames, with what the codec's latents keep of them, and with generated clips: by the
landmarks that their latents stand for, and as MediaPipe sees their frames. Spreads are over the
labels' spread of the same clip.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from bench.landmarks import FaceLandmarker, lip_opening
from bench.material import AS_TRAINED, FramedClip, Framing, world_clips
from flowportrait.generate import Pipeline, load
from flowportrait.train.prompts import to_pixels


def openings(
    pipeline: Pipeline, landmarker: FaceLandmarker, clip: FramedClip
) -> dict[str, np.ndarray]:
    """Lip opening [f] by instrument, in eye distances."""
    codec, count = pipeline.codec, 1 + 4 * ((len(clip.frames) - 1) // 4)
    frames, labels = clip.frames[:count], clip.landmarks68[:count]
    points = torch.from_numpy(labels / AS_TRAINED["size"] * 2 - 1).float()
    pixels = rearrange(torch.from_numpy(frames.copy()).float() / 127.5 - 1, "f h w c -> 1 c f h w")
    with torch.inference_mode():
        context = codec.prepare(pixels[:, :, 0])
        latents = codec.encode_landmarks(points[None], points[:1])
        decoded = to_pixels(codec.decode(latents, context))
    made = pipeline.generate(frames[0], clip.sound, **AS_TRAINED)
    found = {
        "labels": lip_opening(labels),
        "kept by latents": lip_opening(_points(pipeline, latents, points[:1])),
        "on the portrait's found points": lip_opening(
            _points(pipeline, latents, context.landmarks)
        ),
        "MediaPipe, true frames": lip_opening(landmarker.track(frames).landmarks68),
        "MediaPipe, decoded truth": lip_opening(landmarker.track(decoded).landmarks68),
        "generated, landmarks": lip_opening(
            _points(pipeline, made.latents, made.shot.clip.context.landmarks)
        ),
        "generated, MediaPipe": lip_opening(landmarker.track(made.frames).landmarks68),
    }
    shortest = min(map(len, found.values()))
    return {name: value[:shortest] for name, value in found.items()}


def _points(pipeline: Pipeline, latents: Tensor, portrait: Tensor) -> np.ndarray:
    points = pipeline.codec.landmarks_of(latents, portrait)
    return rearrange(points, "1 l g k d -> (l g) k d")[3:].numpy()


def summary(rows: list[dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Median spread over the labels', and mean opening, by instrument."""
    spread = lambda name: np.median([np.nanstd(r[name]) / r["labels"].std() for r in rows])  # noqa: E731
    level = lambda name: np.mean([np.nanmean(row[name]) for row in rows])  # noqa: E731
    return {
        name: {"spread": round(float(spread(name)), 3), "mean": round(float(level(name)), 3)}
        for name in rows[0]
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--landmarker", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=16)
    options = parser.parse_args()
    model, eyes = load(options.model), FaceLandmarker(options.landmarker)
    clips = world_clips(options.world, "held-out", Framing(AS_TRAINED["size"]), options.limit)
    print(json.dumps(summary([openings(model, eyes, clip) for clip in clips]), indent=1))
