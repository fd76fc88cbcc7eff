"""What sharing inside a group saves: evaluations counted and seconds measured against the plain
path, on the same work.

    python -m bench.rl [--model tiny] [--seconds 1.5] [--width 1] [-o bench_rl.json]

One update's sampling and learning at the paper's setting (15 evaluations, groups of 4, noise in one
window) is done group by group in every way, one right after the other, with the same noise and
made-up advantages; where the window starts is spread evenly over all places it can have. Encoding
the prompt and decoding the clips cost the same in every way and are timed apart. Siblings must come
out equal to the last bit, gradients to float precision.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flowportrait import media
from flowportrait.faces.framing import frame_portrait
from flowportrait.generate import Pipeline, load
from flowportrait.model.layout import latent_frames_for
from flowportrait.registry import FACE_DETECTORS
from flowportrait.sampling import Schedule, WindowRule
from flowportrait.shot import Encoded
from flowportrait.sound import SPEECH_HZ
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.prompts import latent_shape, velocity_of
from flowportrait.train.rl import choose_trained
from flowportrait.train.rollout import (
    RolloutPlan,
    Sharing,
    Trajectories,
    first_noise,
    passes,
    rng_for,
    roll_out,
)

SAMPLES = Path(__file__).parent.parent / "flowportrait" / "samples"
WAYS = {
    "plain": Sharing(prefix=False, window=False, condition=False),
    "condition": Sharing(
        prefix=False, window=False
    ),  # keys and values once a prompt, and nothing else
    "shared": Sharing(),
}
GROUP_SIZE, EVALUATIONS, ETA = 4, 15, 0.5
OBJECTIVE = ObjectiveConfig()


class Counter:
    """A velocity that counts its evaluations."""

    def __init__(self, velocity: Callable):
        self.velocity, self.calls = velocity, 0

    def __call__(self, zt: torch.Tensor, t: float) -> torch.Tensor:
        self.calls += 1
        return self.velocity(zt, t)


def measure(model: str, seconds: float, width: int, num_groups: int) -> dict:
    """Means over groups for every way, and their ratios to the shared one."""
    pipeline = load(model, "cpu")
    choose_trained(pipeline.model, "generation")
    portrait, sound = inputs(pipeline, seconds)
    length = latent_frames_for(media.frames_in(seconds))
    clip, encode_s = timed(lambda: pipeline.encode(portrait, sound, length))
    rows, worst = [], 0.0
    for number in range(num_groups):
        plan = plan_of(number, width, num_groups)
        runs = {}
        for name in list(WAYS)[:: 1 if number % 2 else -1]:
            runs[name] = one_group(pipeline, clip, plan, number, WAYS[name])
            assert torch.equal(runs[name]["z0"], next(iter(runs.values()))["z0"])
        worst = max(worst, gradient_gap(runs["plain"]["gradient"], runs["shared"]["gradient"]))
        _, decode_s = timed(lambda: decode(pipeline, clip, runs["shared"]["z0"]))  # noqa: B023
        rows.append({"start": plan.window.start, "decode_s": decode_s, "runs": runs})
        print(_line(rows[-1]), flush=True)
    return summary(rows, encode_s, worst)


def plan_of(number: int, width: int, num_groups: int) -> RolloutPlan:
    """The window's start spread evenly over all places."""
    starts = WindowRule(width=width).starts(EVALUATIONS)
    start = starts[int((number + 0.5) / num_groups * len(starts))]
    return RolloutPlan(
        Schedule(EVALUATIONS, 3.0), range(start, start + width), ETA, range(EVALUATIONS - 1)
    )


def inputs(pipeline: Pipeline, seconds: float) -> tuple[np.ndarray, media.Sound]:
    """The bundled portrait, framed, and the first seconds of the bundled speech."""
    portrait = media.read_portrait(SAMPLES / "portrait.png")
    framed, _ = frame_portrait(
        portrait, pipeline.spec.size_px, "auto", FACE_DETECTORS.load("centerface")()
    )
    speech = media.read_audio(SAMPLES / "speech.wav", SPEECH_HZ)
    return framed, media.Sound(speech.samples[: round(seconds * SPEECH_HZ)], SPEECH_HZ)


def one_group(
    pipeline: Pipeline, clip: Encoded, plan: RolloutPlan, number: int, sharing: Sharing
) -> dict:
    """A group sampled and learnt from: its data, its gradient, evaluations and seconds."""
    pipeline.model.zero_grad()
    with torch.no_grad():
        velocity = Counter(velocity_of(pipeline, clip, sharing.condition))
    z1 = first_noise(latent_shape(pipeline, clip), 0, 0, number, GROUP_SIZE, shared=True)
    rngs = [rng_for(0, 0, number, sibling) for sibling in range(GROUP_SIZE)]
    group, sampling_s = timed(lambda: roll_out(velocity, z1, rngs, plan, OBJECTIVE, sharing))
    sampled = velocity.calls
    _, learning_s = timed(lambda: learn(velocity, group, plan))
    gradient = torch.cat(
        [p.grad.flatten() for p in pipeline.model.parameters() if p.grad is not None]
    )
    return {
        "z0": group.z0,
        "gradient": gradient,
        "sampling_evaluations": sampled,
        "learning_evaluations": velocity.calls - sampled,
        "sampling_s": sampling_s,
        "learning_s": learning_s,
    }


def learn(velocity: Counter, group: Trajectories, plan: RolloutPlan) -> None:
    """Forward and backward with made-up advantages."""
    advantage, scored = (
        torch.tensor([1.2, 0.4, -0.3, -1.3]),
        torch.ones(GROUP_SIZE, dtype=torch.bool),
    )
    for part in passes(velocity, group, advantage, scored, plan, OBJECTIVE):
        part.loss.backward()


@torch.no_grad()
def decode(pipeline: Pipeline, clip: Encoded, z0: torch.Tensor) -> None:
    """All siblings as frames, as the scorers get them."""
    for z in z0:
        pipeline.codec.decode(z[None], context=clip.context)


def gradient_gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative distance of two gradients."""
    return float((one - other).norm() / one.norm())


def timed(work: Callable) -> tuple:
    """What `work` gives and the CPU seconds of this process that it took: other work on the machine
    counts less.
    """
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def summary(rows: list[dict], encode_s: float, worst: float) -> dict:
    """Means per group, and how many times cheaper sharing is."""
    keys = ("sampling_evaluations", "learning_evaluations", "sampling_s", "learning_s")
    mean = lambda way, key: float(np.mean([row["runs"][way][key] for row in rows]))  # noqa: E731
    means = {way: {key: mean(way, key) for key in keys} for way in WAYS}
    decode_s = float(np.mean([row["decode_s"] for row in rows]))
    plain, shared, apart = means["plain"], means["shared"], encode_s + decode_s
    network = {way: m["sampling_s"] + m["learning_s"] for way, m in means.items()}
    return {
        **means,
        "cost_ratio_counted": (
            (plain["sampling_evaluations"] + 3 * plain["learning_evaluations"])
            / (shared["sampling_evaluations"] + 3 * shared["learning_evaluations"])
        ),
        "time_ratio_network": {
            way: seconds / network["shared"] for way, seconds in network.items()
        },
        "time_ratio_update": {
            way: (s + apart) / (network["shared"] + apart) for way, s in network.items()
        },
        "encode_s": encode_s,
        "decode_s": decode_s,
        "largest_gradient_gap": worst,
        "num_groups": len(rows),
        "cpu_count": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _line(row: dict) -> str:
    parts = [
        f"{way} {run['sampling_s']:.2f}+{run['learning_s']:.2f} s"
        for way, run in sorted(row["runs"].items())
    ]
    return f"window at {row['start']}: {', '.join(parts)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--groups", type=int, default=7)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    found = measure(options.model, options.seconds, options.width, options.groups)
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
