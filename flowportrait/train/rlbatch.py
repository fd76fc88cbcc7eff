"""The batch of an update: groups of clips, sampled by all ranks and scored while the next ones are
sampled.

Groups are dealt out in turns, one to each set of ranks that share a clip, longest first: sharded
weights are gathered by all ranks together, so those of a turn wait for one another. Where a turn
has fewer groups than there are sets, the rest sample along and throw it away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flowportrait.arrays import Array
from flowportrait.sampling import Velocity
from flowportrait.scoring.reward import Rewards, columns
from flowportrait.shot import Encoded
from flowportrait.train.grpo import Advantages
from flowportrait.train.prompts import candidate, latent_shape, true_points, velocity_of
from flowportrait.train.rlstate import RlRecipe, RlSession
from flowportrait.train.rollout import RolloutPlan, Trajectories, first_noise, rng_for, roll_out


@dataclass(frozen=True)
class Group:
    """A sampled group on its rank: its number in the batch, and what the update needs of it. `rest`
    and `true_points` [f, 68, 2] are what its siblings' landmarks are made and judged with.
    """

    number: int
    clip: Encoded
    rest: Tensor | None
    true_points: Array | None
    sampled: Velocity
    trajectories: Trajectories


@dataclass(frozen=True)
class Batch:
    """An update's groups of this rank, and the scores [n] of all ranks' clips with their group
    [n]. `spare` is a group to make passes with that nobody learns from.
    """

    plan: RolloutPlan
    groups: list[Group]
    spare: Group
    scores: dict[str, Array]
    group: Array
    waited_s: float


def plan_for(config: RlRecipe, update: int) -> RolloutPlan:
    """How an update samples; a function of the recipe and the update alone."""
    rollout = config.rollout
    window = rollout.window.at(config.run.seed, update, rollout.evaluations)
    starts = rollout.window.starts(rollout.evaluations)
    trainable = range(starts[0], starts[-1] + rollout.window.width)
    return RolloutPlan(rollout.schedule, window, rollout.eta, trainable, rollout.noise)


def dealt(order: list[int], place: int, num_places: int) -> Iterator[tuple[int, bool]]:
    """Which of the numbered things the set of ranks at `place` takes in every turn, and whether
    they are its own; others take along what another has.
    """
    for start in range(0, len(order), num_places):
        at = start + place
        yield order[at % len(order)], at < len(order)


def sample_batch(session: RlSession, update: int) -> Batch:
    """Samples this rank's groups; each is scored while the next is sampled."""
    config = session.config
    ranks = session.ranks
    plan = plan_for(config, update)
    place = ranks.data
    order = by_length(session, update) if place[1] > 1 else list(range(config.rollout.num_groups))
    groups = []
    spare = None
    clips = []
    for number, own in dealt(order, *place):
        group, submitted = sample_group(session, plan, update, number, own)
        groups += [group] if own else []
        clips += submitted
        spare = group
    started = time.monotonic()
    rows = dict(zip(clips, session.desk.collect(), strict=True))
    waited_s = time.monotonic() - started
    everywhere = {clip: row for rank in ranks.gather(rows) for clip, row in rank.items()}
    scores = columns([everywhere[clip] for clip in sorted(everywhere)])
    numbers = np.array([number for number, _ in sorted(everywhere)])
    return Batch(plan, groups, spare, scores, numbers, waited_s)


def by_length(session: RlSession, update: int) -> list[int]:
    """The numbers of an update's groups, those with the longest clips first."""
    lengths = {
        number: session.prompts.num_frames(session.config.run.seed, draw)
        for number, draw in draws_of(session.config, update).items()
    }
    return sorted(lengths, key=lambda number: (-lengths[number], number))


def draws_of(config: RlRecipe, update: int) -> dict[int, int]:
    """Which draw of the prompts each group of an update is."""
    turn = update // config.objective.updates_per_rollout
    count = config.rollout.num_groups
    return {number: turn * count + number for number in range(count)}


def sample_group(
    session: RlSession, plan: RolloutPlan, update: int, number: int, own: bool
) -> tuple[Group, list[tuple[int, int]]]:
    """One prompt's siblings, of which this rank sends its part to the scorers if the group is its
    `own`; and which (group, sibling) these are.
    """
    config = session.config
    pipeline = session.pipeline
    rollout = config.rollout
    seed = config.run.seed
    prompt = session.prompts.draw(seed, draws_of(config, update)[number])
    prompt = replace(prompt, points=true_points(pipeline, prompt))
    clip = pipeline.encode(
        prompt.portrait, prompt.sound, prompt.latent_frames, pipeline.composed(prompt.portrait)
    )
    # By the untuned weights: no reward holds how far apart lips are in silence, by which `settle`
    # closes every frame, and a model that is tuned would open its mouth ever further.
    rest = (session.base or pipeline).rest(clip, rollout.schedule)
    with torch.no_grad():
        velocity = velocity_of(pipeline, clip, rollout.sharing.condition, session.ranks.share)
    shape = latent_shape(pipeline, clip)
    z1 = first_noise(shape, seed, update, number, rollout.group_size, rollout.shared_noise)
    rngs = [rng_for(seed, update, number, sibling) for sibling in range(rollout.group_size)]

    def counted(zt: Tensor, t: float) -> Tensor:
        session.evaluations += own
        return velocity(zt, t)

    trajectories = roll_out(
        counted, z1.to(pipeline.device), rngs, plan, config.objective, rollout.sharing
    )
    ranks = session.ranks
    submitted = []
    for sibling, z0 in enumerate(trajectories.z0):
        if own and sibling % ranks.sequence == ranks.rank % ranks.sequence:
            made = candidate(
                pipeline, prompt, clip, z0[None], rest, decoded=session.looks_at_frames
            )
            session.desk.submit(made, session.rollout_measures)
            submitted.append((number, sibling))
    # They are scored; Eq. 7 needs the window's latents alone.
    kept = trajectories
    if not config.objective.matches:
        kept = replace(trajectories, z0=trajectories.z0[:0])
    return Group(number, clip, rest, prompt.points, velocity, kept), submitted


def batch_figures(
    session: RlSession, batch: Batch, rewards: Rewards, advantage: Advantages
) -> dict[str, float | int | None]:
    """Figures of a batch for a log line: scores, how far siblings differ, ties, who explains the
    advantages, evaluations.
    """
    shared_by = session.ranks.sequence
    evaluations = sum(session.ranks.gather(session.evaluations)) // shared_by
    session.evaluations = 0
    means = {f"mean_{name}": _known_mean(value) for name, value in batch.scores.items()}
    spreads = {
        f"spread_{name}": _spread(batch.scores[name], batch.group)
        for name in session.config.reward.scorers
    }
    explained = {
        f"explained_{name}": float(share) for name, share in rewards.explained(batch.group).items()
    }
    return {
        **means,
        **spreads,
        **{name: share for name, share in explained.items() if np.isfinite(share)},
        "window_start": batch.plan.window.start,
        "tied_share": advantage.tied / advantage.num_groups,
        "dropped_groups": advantage.dropped,
        "unscored": rewards.num_unscored,
        "largest_advantage": float(np.abs(advantage.values).max()),
        "evaluations": evaluations,
    }


def _known_mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    if len(known):
        return float(known.mean())
    return None


def _spread(values: Array, group: Array) -> float | None:
    """Mean over groups of the std of their scores."""
    known = np.isfinite(values)
    groups = (values[known & (group == name)] for name in np.unique(group))
    return _known_mean(np.array([one.std() for one in groups if len(one) > 1]))
