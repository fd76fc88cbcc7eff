"""Looking at a model that is being tuned: held-out clips, monitors outside the reward, named
alarms, models kept.

Held-out clips are sampled as `generate` samples them, always the same ones from the same noise, so
figures of two looks differ by the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.errors import TrainingError
from flowportrait.files import json_text
from flowportrait.model.lora import merged
from flowportrait.registry import find_model
from flowportrait.scoring.reward import Candidate, RewardConfig, columns
from flowportrait.study.intervals import mean_figure
from flowportrait.train.parallel import whole_weights
from flowportrait.train.prompts import as_candidate, true_points
from flowportrait.train.rlbatch import dealt
from flowportrait.train.rlstate import RlSession
from flowportrait.train.run import Figures
from flowportrait.train.trainable import as_stored
from flowportrait.train.tuned import Story, data_names, keep_as, write_tuned

Measured = Mapping[str, np.ndarray]

DRAWS = 2000
LEAST_DRIFT = 2.0
"""Levels of colour drift below which nothing is wrong, whatever the start was."""


def look(session: RlSession) -> None:
    """Samples the held-out clips with the averaged weights, logs their figures and what they have
    gained, keeps the last and the best model.
    """
    state = session.state
    config = session.config
    with state.average.within(session.pipeline.model):
        rows = held_out_rows(session)
        scores = columns([row for _, row in rows])
        if state.baseline is None:
            state.baseline = {name: value.tolist() for name, value in scores.items()}
        figures = {name: _mean(value) for name, value in scores.items()}
        now = session.as_rewards(scores)
        then = session.as_rewards(state.baseline)
        reward = held_out_reward(now, then, config.reward)
        session.log(
            event="look",
            update=state.update,
            held_out_reward=reward,
            **figures,
            gains=gains(scores, state.baseline, _rewards(now, then, config.reward)),
        )
        better = reward is not None and (state.best is None or reward > state.best)
        if better:
            state.best = reward
        _keep(session, better, {"held_out_reward": reward, **figures})
    if session.ranks.first:
        lines = [
            json_text({"number": number, "key": key, **row})
            for number, (key, row) in enumerate(rows)
        ]
        (_folder(session) / "scores.jsonl").write_text("\n".join(lines) + "\n")
    _raise_alarms(session, figures)


def held_out_rows(session: RlSession) -> list[tuple[str | None, Figures]]:
    """Key and scores of every held-out clip, of all ranks; the first clips are written as videos
    by the rank that has them.
    """
    config = session.config
    ranks = session.ranks
    mine: list[tuple[int, str | None]] = []
    for index, own in dealt(list(range(config.watch.num_clips)), *ranks.data):
        clip = held_out_clip(session, index)
        if not own or ranks.rank % ranks.sequence:
            continue
        session.desk.submit(clip)
        mine.append((index, clip.key if clip else None))
        if clip is not None and index < config.watch.num_videos:
            _write_video(_folder(session) / f"{index:02d}.mp4", clip, session)
    found = {
        index: (key, row) for (index, key), row in zip(mine, session.desk.collect(), strict=True)
    }
    everywhere = {index: row for rank in ranks.gather(found) for index, row in rank.items()}
    return [everywhere[index] for index in sorted(everywhere)]


@torch.no_grad()
def held_out_clip(session: RlSession, index: int) -> Candidate | None:
    """A held-out clip as `generate` makes it from the seed of its number, blinks and looks
    included; None when its latents are not finite.
    """
    watch = session.config.watch
    pipeline = session.pipeline
    prompt = session.prompts.held_out_prompt(index, watch.num_clips)
    prompt = replace(prompt, points=true_points(pipeline, prompt))
    return _shown_as_generated(pipeline, prompt, watch, index)


def _shown_as_generated(pipeline, prompt, watch, index: int) -> Candidate | None:
    """The video of a prompt as users would get it; None where a number is not finite."""
    shot = pipeline.shot(
        prompt.portrait,
        prompt.sound,
        size=pipeline.spec.size_px,
        frame="face",
        crop="none",
        evaluations=watch.evaluations,
        seed=index,
    )
    shown = torch.cat(list(shot.latents()), dim=2)
    if not torch.isfinite(shown).all():
        return None
    frames = np.stack(list(shot.frames([shown])))
    return as_candidate(pipeline, prompt, shot.clip, shown, frames)


def held_out_reward(now: Measured, then: Measured, config: RewardConfig) -> float | None:
    """Eq. 17 of a look, in stds of the untuned model's clips and 0 for that model; None without a
    score. Of all scores more is better.

    A clip counts where it has a score now and had one then.
    """
    means = [_mean(change) for change in _changes(now, then, config)]
    known = [mean for mean in means if mean is not None]
    return sum(known) if known else None


def _changes(now: Measured, then: Measured, config: RewardConfig) -> list[Array]:
    """Changes of each term of Eq. 17 for each clip [n]; nan where it is not known, and everywhere
    for a term that did not vary.
    """
    changes = []
    for term in config.terms:
        after, before = (
            np.mean([scores[name] for name in term.scorers], axis=0) for scores in (now, then)
        )
        both = np.isfinite(after) & np.isfinite(before)
        spread = 0.0
        if both.any():
            spread = before[both].std()
        changes.append(term.weight * (after - before) / (spread or np.nan))
    return changes


def gains(now: Measured, then: Mapping[str, list[float]], reward: Array) -> dict[str, list[float]]:
    """Changes of each figure and the `reward` of the clips [n] since the start: mean, and the ends
    of the 95 % interval from resampling clips in pairs.
    """
    changes = {name: value - np.array(then[name]) for name, value in now.items() if name in then}
    found = {}
    for name, change in {"held_out_reward": reward, **changes}.items():
        figure = mean_figure(change[np.isfinite(change)], DRAWS)
        numbers = (figure.value, figure.low, figure.high)
        found[name] = [float(f"{number:.6g}") for number in numbers]
    return found


def _rewards(now: Measured, then: Measured, config: RewardConfig) -> Array:
    """Eq. 17's change of each clip [n]; nan for clips that lack a term."""
    return np.sum(_changes(now, then, config), axis=0)


def _raise_alarms(session: RlSession, figures: Mapping[str, float | None]) -> None:
    """Names what has gone wrong since the start, as far as it is monitored."""
    watch = session.config.watch
    update = session.state.update
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
        now = figures.get(name)
        then = start.get(name)
        if now is None or then is None or not wrong(now, then):
            continue
        session.log(event="alarm", alarm=alarm, update=update, now=now, at_start=then)
        if watch.stop_on_alarm:
            raise TrainingError(
                f"watch: alarm {alarm} at update {update}: {name} is {now:.4g}, was {then:.4g} at"
                f" the start; see the videos in {session.run.directory / 'samples'}; change the"
                " reward, or"
                " set watch.stop_on_alarm = false"
            )


def _keep(session: RlSession, better: bool, figures: Mapping[str, float | None]) -> None:
    """Writes the model as it is now as `<run>/model`, and where it is the best one so far as
    `<run>/best`, too.
    """
    weights = whole_weights(session.pipeline.model)
    if session.ranks.first:
        weights = as_stored(weights, find_model(session.config.model))
        if session.config.trained == "lora":
            weights = merged(weights, session.config.lora)
        spec = session.pipeline.spec
        config = session.config
        run = session.run.directory
        how = f"Reinforcement learning (`flowportrait train rl`, trained: {config.trained})"
        prompts = config.prompts
        data = data_names([prompts.manifest, prompts.world, prompts.grid])
        story = Story(how, session.state.update, config.run.num_updates, data, figures)
        name = {"name": config.name or f"{spec.name}-rl"}
        write_tuned(run / "model", find_model(config.model), spec, name, weights, story)
        if better:
            keep_as(run / "model", "best")
    session.ranks.wait()


def _folder(session: RlSession) -> Path:
    """Where a look leaves what it saw."""
    folder = session.run.directory / "samples" / f"{session.state.update:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_video(path: Path, clip: Candidate, session: RlSession) -> None:
    """Writes a sample of the run, marked as synthetic."""
    from flowportrait import __version__

    mark = media.synthetic_mark(
        f"{session.pipeline.spec.name} at update {session.state.update}", 0, __version__
    )
    media.write_video(
        path,
        clip.frames,
        clip.fps,
        clip.sound.samples,
        clip.sound.sample_rate,
        mark,
    )


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    if len(known):
        return float(known.mean())
    return None
