"""How well a codec gives back what it is shown: PSNR at its own size, and lips."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file

from bench.landmarks import FaceLandmarker, lip_opening
from bench.material import FramedClip
from bench.measures import correlation, feature_masks, psnr, summary
from bench.sheets import strip, write_sheet
from flowportrait.codecs import LatentCodec
from flowportrait.errors import CheckpointError
from flowportrait.modeldir import build_part
from flowportrait.registry import CODECS, find_model

SHEET_CLIPS = 6


def load_codec(name_or_directory: Path) -> LatentCodec:
    """The codec of a model, by name or directory, or of a codec's training run."""
    directory = find_model(name_or_directory)
    weights = directory / "codec.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{weights}: not there; give a model, or a codec run that has saved")
    # A training run's recipe names no type: it trains the portrait codec.
    spec = {"type": "portrait"} | json.loads((directory / "config.json").read_text())["codec"]
    codec = build_part(CODECS, spec)
    codec.load_state_dict(load_file(weights))
    return codec.eval()


@torch.inference_mode()
def reconstruct(codec: LatentCodec, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [1 + 4 n, h, w, 3] encoded and decoded with the first one as portrait."""
    video = rearrange(torch.from_numpy(frames).float() / 127.5 - 1, "f h w c -> 1 c f h w")
    context = codec.prepare(video[:, :, 0])
    decoded = codec.decode(codec.encode(video, context), context)
    pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).byte()
    return rearrange(pixels, "1 c f h w -> f h w c").numpy()


def measure_set(
    name: str,
    clips: Iterable[FramedClip],
    codec: LatentCodec,
    landmarker: FaceLandmarker | None,
    out: Path,
) -> dict:
    """Figures of one set of clips, a row per clip, and OUT/codec_NAME.png (true, decoded; worst
    first).
    """
    rows, pictures = [], {}
    for clip in clips:
        frames = clip.frames[: 1 + (len(clip.frames) - 1) // 4 * 4]
        made = reconstruct(codec, frames)
        rows.append({"clip": clip.key, **_figures(clip, frames, made, landmarker)})
        pictures[clip.key] = (strip(frames, 6), strip(made, 6))
    if not rows:
        return {"clips": []}
    rows.sort(key=lambda row: row["psnr"])
    shown = [
        rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, SHEET_CLIPS).round().astype(int))
    ]
    sheet = []
    for row in shown:
        true, made = pictures[row["clip"]]
        sheet += [(f"{row['clip'][:60]}: true", true), (f"decoded, {row['psnr']:.1f} dB", made)]
    write_sheet(out / f"codec_{name}.png", sheet)
    keys = [key for key in rows[0] if key != "clip"]
    return {key: summary([row[key] for row in rows]) for key in keys} | {"clips": rows}


def _figures(
    clip: FramedClip, frames: np.ndarray, made: np.ndarray, landmarker: FaceLandmarker | None
) -> dict[str, float]:
    """PSNR of all, of mouth and eyes, of merely repeating the portrait; with a landmarker, lips
    too.
    """
    row = {
        "psnr": psnr(frames, made),
        "psnr_still_portrait": psnr(frames, np.repeat(frames[:1], len(frames), 0)),
    }
    seen = landmarker.track(frames).landmarks68 if landmarker else None
    landmarks = clip.landmarks68 if clip.landmarks68 is not None else seen
    if landmarks is not None:
        mouth, eyes = feature_masks(landmarks[: len(frames)], frames.shape[1])
        row["psnr_mouth_eyes"] = psnr(frames, made, mouth | eyes)
        row["psnr_mouth"] = psnr(frames, made, mouth)
        row["psnr_eyes"] = psnr(frames, made, eyes)
    if landmarker:
        row["lip_r"] = correlation(
            lip_opening(seen), lip_opening(landmarker.track(made).landmarks68)
        )
    return row
