"""Looking at a model that is being tuned: held-out clips, monitors outside the reward, named
alarms, models kept.

Held-out clips are sampled as `generate` samples them, always the same ones from the same noise, so
figures of two looks differ by the weights alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from flowportrait import media
from flowportrait.config import Frozen
from flowportrait.errors import TrainingError
from flowportrait.registry import find_model
from flowportrait.sampling import Schedule, sample
from flowportrait.scoring.reward import Candidate, RewardConfig, columns
from flowportrait.train.parallel import whole_weights
from flowportrait.train.prompts import candidate, latent_shape, velocity_of
from flowportrait.train.rollout import first_noise
from flowportrait.train.tuned import Story, data_names, keep_as, write_tuned

if TYPE_CHECKING:
    from flowportrait.train.rl import Session


class WatchConfig(Frozen):
    """What is looked at beside the reward, and when to raise an alarm. All Unstated in the
    paper.
    """

    num_clips: int = Field(16, ge=1, description="held-out clips of a look")
    num_videos: int = Field(4, ge=0, description="of these, written as mp4 with their scores")
    evaluations: int | None = Field(
        None, ge=1, description="of a held-out clip; none: the model's own number"
    )
    monitors: tuple[str, ...] = (
        "motion_px",
        "jitter",
        "colour_drift",
        "difference_energy",
        "sharpness",
    )
    held_out_scorers: tuple[str, ...] = Field(
        (), description="scorers that must not be in the reward"
    )
    least_motion: float = Field(
        0.5, ge=0, description="alarm static_collapse: motion below this share of the start's"
    )
    most_jitter: float = Field(
        1.5, ge=1, description="alarm jitter: more than so many times the start's"
    )
    most_drift: float = Field(
        2.0, ge=1, description="alarm colour_drift: more than so many times the start's"
    )
    stop_on_alarm: bool = False


LEAST_DRIFT = 2.0
"""Levels of colour drift below which nothing is wrong, whatever the start was."""


def look(session: Session) -> None:
    """Samples the held-out clips with the averaged weights, logs their figures, keeps the last and
    the best model.
    """
    state = session.state
    with state.average.within(session.pipeline.model):
        clips = held_out_clips(session)
        for clip in clips:
            session.desk.submit(clip)
        rows = session.desk.collect()
        shares = session.ranks.gather(rows)
        scores = columns([share[i] for i in range(len(rows)) for share in shares])
        first = state.baseline is None
        if first:
            state.baseline = {name: value.tolist() for name, value in scores.items()}
        figures = {name: _mean(value) for name, value in scores.items()}
        reward = held_out_reward(scores, state.baseline, session.config.reward)
        session.log(event="look", update=state.update, held_out_reward=reward, **figures)
        better = reward is not None and (state.best is None or reward > state.best)
        if better:
            state.best = reward
        _keep(session, better, {"held_out_reward": reward, **figures})
    if session.ranks.first:
        _write_videos(session, clips, rows)
    _raise_alarms(session, figures)


def held_out_clips(session: Session) -> list[Candidate | None]:
    """This rank's held-out clips, decoded."""
    watch, pipeline, ranks = session.config.watch, session.pipeline, session.ranks
    sampling = pipeline.spec.sampling
    schedule = Schedule(watch.evaluations or sampling.evaluations, sampling.shift)
    clips = []
    for index in range(ranks.rank, watch.num_clips, ranks.world):
        prompt = session.prompts.held_out_prompt(index, watch.num_clips)
        clip = pipeline.encode(prompt.portrait, prompt.sound, prompt.latent_frames)
        z1 = first_noise(latent_shape(pipeline, clip), 0, 0, index, 1, shared=True).to(
            pipeline.device
        )
        with torch.no_grad():
            z0 = sample(velocity_of(pipeline, clip, shared=True), z1, schedule)
        clips.append(candidate(pipeline, prompt, clip, z0))
    return clips


def held_out_reward(
    scores: Mapping[str, np.ndarray], baseline: Mapping[str, list[float]], config: RewardConfig
) -> float | None:
    """Eq. 17 of a look, in stds of the untuned model's clips and 0 for that model; None without a
    score.

    A clip counts where it has a score now and had one then.
    """
    total, counted = 0.0, False
    for term in config.terms:
        now = np.mean([scores[name] for name in term.scorers], axis=0)
        then = np.mean([baseline[name] for name in term.scorers], axis=0)
        both = np.isfinite(now) & np.isfinite(then)
        spread = then[both].std() if both.any() else 0.0
        if spread > 0:
            total, counted = total + term.weight * float((now - then)[both].mean() / spread), True
    return total if counted else None


def _raise_alarms(session: Session, figures: Mapping[str, float | None]) -> None:
    """Names what has gone wrong since the start, as far as it is monitored."""
    watch, update = session.config.watch, session.state.update
    start = {name: _mean(np.array(value)) for name, value in session.state.baseline.items()}
    limits = {
        "static_collapse": ("motion_px", lambda now, then: now < watch.least_motion * then),
        "jitter": ("jitter", lambda now, then: now > watch.most_jitter * then),
        "colour_drift": (
            "colour_drift",
            lambda now, then: now > max(LEAST_DRIFT, watch.most_drift * then),
        ),
    }
    for alarm, (name, wrong) in limits.items():
        now, then = figures.get(name), start.get(name)
        if now is None or then is None or not wrong(now, then):
            continue
        session.log(event="alarm", alarm=alarm, update=update, now=now, at_start=then)
        if watch.stop_on_alarm:
            raise TrainingError(
                f"watch: alarm {alarm} at update {update}: {name} is {now:.4g}, was {then:.4g} at"
                f" the start; look at {session.run.directory / 'samples'}; change the reward, or"
                " set watch.stop_on_alarm = false"
            )


def _keep(session: Session, better: bool, figures: Mapping[str, float | None]) -> None:
    """Writes the model as it is now as `<run>/model`, and where it is the best one so far as
    `<run>/best`, too.
    """
    weights = whole_weights(session.pipeline.model)
    if session.ranks.first:
        spec, config, run = session.pipeline.spec, session.config, session.run.directory
        how = f"Reinforcement learning (`flowportrait train rl`, trained: {config.trained})"
        prompts = config.prompts
        data = data_names([prompts.manifest, prompts.world, prompts.grid])
        story = Story(how, session.state.update, config.run.num_updates, data, figures)
        name = {"name": config.name or f"{spec.name}-rl"}
        write_tuned(run / "model", find_model(config.model), spec, name, weights, story)
        if better:
            keep_as(run / "model", "best")
    session.ranks.wait()


def _write_videos(
    session: Session, clips: list[Candidate | None], rows: list[dict[str, float]]
) -> None:
    """`samples/<update>/`: the first clips as videos, and scores.jsonl."""
    folder = session.run.directory / "samples" / f"{session.state.update:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        known = {name: value if np.isfinite(value) else None for name, value in row.items()}
        lines.append(json.dumps({"number": number, "key": clip.key if clip else None, **known}))
        if clip is not None and number < session.config.watch.num_videos:
            _write_video(folder / f"{number:02d}.mp4", clip, session)
    (folder / "scores.jsonl").write_text("\n".join(lines) + "\n")


def _write_video(path: Path, clip: Candidate, session: Session) -> None:
    from flowportrait import __version__

    mark = media.synthetic_mark(
        f"{session.pipeline.spec.name} at update {session.state.update}", 0, __version__
    )
    media.write_video(path, clip.frames, clip.fps, clip.sound.samples, clip.sound.sample_rate, mark)


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
