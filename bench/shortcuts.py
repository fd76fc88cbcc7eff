"""What the shortcuts of `generate` save and what they change: step caching, compiled layers,
weights of eight bits, and, beside them, plainly fewer evaluations.

    python -m bench.shortcuts [--model tiny] [--device cpu|cuda] [--seconds 2] \\
        [--evaluations 2 15 25] [--kinds step-cache compile quantize] [-o bench_shortcuts.json]

The portrait and the speech are the shipped samples. Every way is compared with the plain one of the
same noise and evaluations: the relative difference of the latents before they are settled, the
signal-to-noise ratio of the frames, and the largest difference of a pixel. Eight bits are compared
with float32 and with bf16, for which weights of products are bf16 and products run in it, on
whatever machine. Seconds are those of sampling alone, the least of `--rounds`: of the processor,
with one thread, or synchronised ones on CUDA. What compiling takes is not among them: it comes
before, when the portrait's lips are sampled in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from flowportrait import media, modeldir, precision
from flowportrait.generate import Pipeline, Result, load
from flowportrait.model.compiled import compile_layers
from flowportrait.model.quantize import quantize
from flowportrait.model.step_cache import StepCache
from flowportrait.registry import SAMPLES_DIR

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)
KINDS = ("step-cache", "compile", "quantize")


@dataclass(frozen=True)
class Material:
    """What is made: the sound, and with how many evaluations."""

    sound: tuple[np.ndarray, int]
    evaluations: int
    rounds: int

    @classmethod
    def of(cls, seconds: float, evaluations: int, rounds: int) -> Material:
        speech = media.read_audio(SAMPLES_DIR / "speech.wav")
        samples = speech.samples[: round(seconds * speech.sample_rate)]
        return cls((samples, speech.sample_rate), evaluations, rounds)


@dataclass(frozen=True)
class Made:
    """What came of one way."""

    latents: Tensor
    frames: np.ndarray
    seconds: float
    cache: StepCache


def made(pipeline: Pipeline, material: Material, step_cache: float = 0.0) -> Made:
    """The material by a pipeline."""
    shot = pipeline.shot(
        SAMPLES_DIR / "portrait.png",
        material.sound,
        evaluations=material.evaluations,
        step_cache=step_cache,
    )
    times = []
    for _ in range(material.rounds):
        cache = StepCache(step_cache, material.evaluations)
        began = now(pipeline.device)
        windows = pipeline.sampled(shot.clip, shot.schedule, 1.0, 0, cache=cache)
        latents = torch.cat(list(windows), dim=2)
        times.append(now(pipeline.device) - began)
    frames = Result(shot._settled(latents, 0), shot, 8).frames
    return Made(latents.float().cpu(), frames, min(times), cache)


def now(device: torch.device) -> float:
    """Seconds of the processor, or of the clock when all that was asked of the GPU is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def against(one: Made, plain: Made) -> dict[str, float]:
    """How far one is from another, and its seconds."""
    gap = one.frames.astype(np.float64) - plain.frames
    noise = float(np.square(gap).mean())
    return {
        "latents": float((one.latents - plain.latents).norm() / plain.latents.norm()),
        "psnr_db": 10 * float(np.log10(255**2 / noise)) if noise else float("inf"),
        "largest_pixel": float(abs(gap).max()),
        "seconds": one.seconds,
        "of_plain": one.seconds / plain.seconds,
    }


@contextmanager
def in_bf16(wanted: bool):
    """Products run in bf16 within, whatever the machine is fast at."""
    with patch.object(precision, "fast_bf16", lambda device: wanted):
        yield


def eight_bits(options: argparse.Namespace, material: Material) -> dict[str, Any]:
    """bf16 against float32, and int8 and fp8 against both."""
    rows, references = {}, {}
    loaded = load(options.model, device=options.device)
    for name, half in (("float32", False), ("bf16", True)):
        with in_bf16(half):
            for kind in (None, "int8", "fp8"):
                pipeline = replace(loaded, model=deepcopy(loaded.model))
                if half:
                    shorten(pipeline)
                if kind:
                    quantize(pipeline.model, kind)
                found = made(pipeline, material)
                if kind is None:
                    references[name] = found
                    if half:
                        rows["bf16 against float32"] = against(found, references["float32"])
                    continue
                rows[f"{kind} of {name} against it"] = against(found, references[name])
                if half:
                    rows[f"{kind} of bf16 against float32"] = against(found, references["float32"])
    return rows


def shorten(pipeline: Pipeline) -> None:
    """Weights of products become bf16, as those of a model that is stored so."""
    short = modeldir._stay_short(pipeline.model)
    for name, weight in pipeline.model.named_parameters():
        if name in short:
            weight.data = weight.data.bfloat16()


def measure(options: argparse.Namespace, evaluations: int) -> dict[str, Any]:
    """All ways at one number of evaluations."""
    material = Material.of(options.seconds, evaluations, options.rounds)
    pipeline = load(options.model, device=options.device)
    plain = made(pipeline, material)
    rows: dict[str, Any] = {"plain": {"seconds": plain.seconds}}
    if "step-cache" in options.kinds:
        for threshold in THRESHOLDS:
            found = made(pipeline, material, threshold)
            counted = {"saved": found.cache.saved, "of": found.cache.evaluations}
            rows[f"step-cache {threshold}"] = counted | against(found, plain)
        for fewer in sorted({evaluations * share // 5 for share in (1, 2, 3, 4)} - {0}):
            found = made(pipeline, replace(material, evaluations=fewer))
            rows[f"{fewer} evaluations"] = against(found, plain)
    if "compile" in options.kinds:
        compile_layers(pipeline.model)
        rows["compile"] = against(made(pipeline, material), plain)
    if "quantize" in options.kinds:
        rows |= eight_bits(options, material)
    for name, row in rows.items():
        said = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"{evaluations} evaluations, {name}: {said}", flush=True)
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[2, 15, 25])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    found = {
        "model": options.model,
        "device": options.device,
        "seconds": options.seconds,
        "by_evaluations": {number: measure(options, number) for number in options.evaluations},
        "load": os.getloadavg()[0],
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
