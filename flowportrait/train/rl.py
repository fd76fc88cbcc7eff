"""`flowportrait train rl`: Flow-GRPO post-training (§3.2, §3.3, §4.1) of a finished model.

An update: groups of clips are sampled with noise in one window of evaluations, scored while the
next group is sampled, their rewards normalised over the batch of all ranks, and the model moves
toward what was better than its siblings. All that is random is a function of (seed, update), so a
killed run makes the update it would have made. Started by `torchrun`, every rank samples its own
groups, and the update is the one that a single process makes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import ConfigError
from flowportrait.generate import Encoded, Pipeline, load
from flowportrait.model.mot import GEN, MoT
from flowportrait.registry import MEASURES
from flowportrait.sampling import Schedule, Velocity, WindowRule
from flowportrait.scoring.reward import RewardConfig, Rewards, ScoringDesk, columns, composite
from flowportrait.scoring.rewards import build_measures
from flowportrait.scoring.run import ScoringConfig
from flowportrait.train.grpo import Advantages, ObjectiveConfig, advantages
from flowportrait.train.parallel import Ranks, as_float, shard
from flowportrait.train.prompts import Prompts, PromptsConfig, candidate, latent_shape, velocity_of
from flowportrait.train.rlstate import RlState
from flowportrait.train.rollout import (
    Pass,
    Plan,
    Sharing,
    Trajectories,
    first_noise,
    passes,
    rng_for,
    roll_out,
)
from flowportrait.train.run import OptimizerConfig, Run, RunConfig
from flowportrait.train.watch import WatchConfig, look


class RlRunConfig(RunConfig):
    """§4.1's 400 updates. `sample_every` is how often held-out clips are looked at."""

    num_updates: int = 400
    log_every: int = 1
    checkpoint_every: int = 10
    sample_every: int = 20


class RolloutConfig(Frozen):
    """§4.1's sampling: 15 evaluations, eta 0.5 in a window of 1, 128 videos an update in groups of
    4, no guidance.
    """

    evaluations: int = Field(
        15, ge=2, description="the paper's 15 steps, counted as calls of the network"
    )
    shift: float = Field(
        3.0, gt=0, description="Unstated in the paper; take the one the model is sampled with"
    )
    eta: float = Field(0.5, gt=0, le=1)
    window: WindowRule = WindowRule()
    group_size: int = Field(4, ge=2)
    num_groups: int = Field(32, ge=1)
    shared_noise: bool = Field(
        True,
        description="Unstated: siblings start from the same noise, so that their rewards compare the window's "
        "noise alone; and then most of their work is the same",
    )
    sharing: Sharing = Sharing()


class RlRecipe(Frozen):
    """Everything of a run of reinforcement learning. Defaults are §4.1's."""

    run: RlRunConfig
    model: str = Field(description="what to start from: a shipped model or a model directory")
    name: str | None = Field(
        None, description="of the tuned model; none: the model's name and '-rl'"
    )
    device: str = "auto"
    trained: Literal["generation", "all"] = Field(
        "generation",
        description="Unstated: the generation expert alone (as Flow-GRPO does with BAGEL), so that "
        "keys and values of audio and portrait stay the same for the whole run; or both experts",
    )
    recompute: bool = Field(
        True,
        description=(
            "layers keep their inputs alone and are computed again for the gradient: 12 GB for 5 s "
            "instead of 143; off where memory is plenty"
        ),
    )
    prompts: PromptsConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(learning_rate=1e-5, ema_decay=0.9),
        description=(
            "§4.1. Unstated: the average (0.9, Flow-GRPO's; 0 for none) and the largest gradient"
            " norm"
        ),
    )
    watch: WatchConfig = WatchConfig()
    scoring: ScoringConfig = Field(
        ScoringConfig(), description="the judge, and settings of scorers by name"
    )

    @model_validator(mode="after")
    def _fits(self) -> RlRecipe:
        if self.run.num_updates % self.objective.updates_per_rollout:
            raise ValueError(
                f"num_updates {self.run.num_updates}: must be a multiple of updates_per_rollout "
                f"{self.objective.updates_per_rollout}"
            )
        seen = sorted(set(self.watch.held_out_scorers) & set(self.reward.scorers))
        if seen:
            raise ValueError(
                f"watch.held_out_scorers: {seen[0]} is in the reward; name scorers that are not"
            )
        if not self.rollout.shared_noise and (
            self.rollout.sharing.prefix or self.rollout.sharing.window
        ):
            raise ValueError(
                "shared_noise is off, so sharing.prefix and sharing.window must be off, too"
            )
        if self.rollout.sharing.window and not self.rollout.sharing.prefix:
            raise ValueError(
                "sharing.window needs sharing.prefix: siblings must still be one at the window"
            )
        return self


@dataclass
class Session:
    """All that a run holds while it runs."""

    config: RlRecipe
    ranks: Ranks
    run: Run
    pipeline: Pipeline
    base: Pipeline | None  # the model as it was, where a KL to it is asked for
    prompts: Prompts
    desk: ScoringDesk
    state: RlState
    evaluations: int = 0  # calls of the network in sampling, since the last log line

    def log(self, **fields: object) -> None:
        """One line for all ranks."""
        if self.ranks.first:
            self.run.log(**fields)


@dataclass(frozen=True)
class Group:
    """A sampled group on its rank: its number in the batch, and what the update needs of it."""

    number: int
    clip: Encoded
    sampled: Velocity
    trajectories: Trajectories


@dataclass(frozen=True)
class Batch:
    """An update's groups of this rank, and the scores [n] of all ranks' clips with their group
    [n].
    """

    plan: Plan
    groups: list[Group]
    scores: dict[str, np.ndarray]
    group: np.ndarray
    waited_s: float


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Tune a model by a TOML recipe; `<run>/model` is the last and `<run>/best` the best model
    directory.
    """
    session = open_session(load_recipe(recipe, RlRecipe, overrides or []), resume)
    session.run.checkpoints.require_room(session.state.stored())
    with session.run.stop.listening():
        make_updates(session)
    session.run.checkpoints.wait()
    session.desk.close()
    return session.run.directory


def make_updates(session: Session) -> None:
    """Rollouts and their updates, to the end of the run or until SIGTERM asks it to stop."""
    config, state, run = session.config, session.state, session.run
    if state.baseline is None:
        look(session)
    while state.update < config.run.num_updates:
        before, started = state.update, time.monotonic()
        batch = sample_batch(session, state.update)
        sampled_s = time.monotonic() - started
        rewards = composite(batch.scores, batch.group, config.reward, state.running)
        advantage = advantages(
            rewards.final, batch.group, config.objective.ddof, config.objective.std_floor
        )
        figures = learn(session, batch, advantage)
        if due(config, before, state.update, config.run.log_every):
            took = {
                "sampling_s": sampled_s,
                "wait_for_scores_s": batch.waited_s,
                "s": time.monotonic() - started,
            }
            session.log(
                update=state.update,
                **figures,
                **batch_figures(session, batch, rewards, advantage),
                **took,
            )
        if due(config, before, state.update, config.run.sample_every):
            look(session)
        turn = run.turn(before, state.update)
        if turn.saves:
            run.save(state)
        if turn.stops:
            run.stopped(state.update)
            return


def due(config: RlRecipe, before: int, now: int, every: int) -> bool:
    """Whether something that happens `every` so many updates, and after the last one, happens after
    these.
    """
    return now >= config.run.num_updates or now // every > before // every


def open_session(config: RlRecipe, resume: str | None) -> Session:
    """Everything loaded, continued from the checkpoint if there is one. Raises ConfigError,
    CheckpointError.
    """
    names = dict.fromkeys(
        [*config.reward.scorers, *config.watch.monitors, *config.watch.held_out_scorers]
    )
    scorers = build_measures(
        names, MEASURES, config.scoring, Path(config.run.directory) / "answers.jsonl"
    )
    config.rollout.window.starts(config.rollout.evaluations)
    ranks = Ranks.join(config.device)
    if config.rollout.num_groups % ranks.world or config.watch.num_clips % ranks.world:
        raise ConfigError(
            f"rollout.num_groups {config.rollout.num_groups}, watch.num_clips"
            f" {config.watch.num_clips}: got {ranks.world} processes; both must be multiples of"
            " their number"
        )
    run = Run(config.run, config, resume, ranks)
    device = ranks.device if ranks.world > 1 else config.device
    pipeline = load(config.model, device, wide=True)
    choose_trained(pipeline.model, config.trained)
    for layer in pipeline.model.layers:
        layer.recomputes = config.recompute
    shard(pipeline.model, ranks)
    base = None
    if needs_base(
        config
    ):  # loaded when the first is sharded: no device ever holds two whole models
        base = load(config.model, device, wide=True)
        shard(base.model, ranks)
    prompts = Prompts(
        config.prompts, pipeline.spec.size_px, pipeline.spec.sampling.window_latent_frames
    )
    state = RlState.fresh(pipeline.model, config.optimizer, config.reward.statistics == "running")
    session = Session(
        config,
        ranks,
        run,
        pipeline,
        base,
        prompts,
        ScoringDesk(scorers, config.reward.workers),
        state,
    )
    if run.resumes:
        state.load(run.resume_from, ranks)
        session.log(event="resumed", update=state.update)
    return session


def needs_base(config: RlRecipe) -> bool:
    """Whether the untuned weights must be kept beside."""
    return config.objective.kl_weight > 0 and config.objective.kl_to == "base"


def choose_trained(model: MoT, trained: Literal["generation", "all"]) -> None:
    """Marks the weights that learn: of the generation expert with its ends, or all (position tables
    never).
    """
    ends = ("time_embedder.", "vae2llm.", "llm2vae.")
    for name, p in model.named_parameters():
        fixed = name.endswith("pos_embed")
        p.requires_grad_(not fixed and (trained == "all" or GEN in name or name.startswith(ends)))


def plan_for(config: RlRecipe, update: int) -> Plan:
    """How an update samples; a function of the recipe and the update alone."""
    rollout = config.rollout
    window = rollout.window.at(config.run.seed, update, rollout.evaluations)
    starts = rollout.window.starts(rollout.evaluations)
    trainable = range(starts[0], starts[-1] + rollout.window.width)
    return Plan(Schedule(rollout.evaluations, rollout.shift), window, rollout.eta, trainable)


def sample_batch(session: Session, update: int) -> Batch:
    """Samples this rank's groups; each is scored while the next is sampled."""
    config, ranks = session.config, session.ranks
    plan = plan_for(config, update)
    mine = range(ranks.rank, config.rollout.num_groups, ranks.world)
    groups = [sample_group(session, plan, update, number) for number in mine]
    started = time.monotonic()
    rows = session.desk.collect()
    waited_s = time.monotonic() - started
    size = config.rollout.group_size
    by_group = {number: rows[i * size : (i + 1) * size] for i, number in enumerate(mine)}
    everywhere = {number: part for rank in ranks.gather(by_group) for number, part in rank.items()}
    numbers = sorted(everywhere)
    scores = columns([row for number in numbers for row in everywhere[number]])
    return Batch(plan, groups, scores, np.repeat(numbers, size), waited_s)


def sample_group(session: Session, plan: Plan, update: int, number: int) -> Group:
    """One prompt's siblings, sent to the scorers."""
    config, pipeline = session.config, session.pipeline
    rollout, seed = config.rollout, config.run.seed
    turn = update // config.objective.updates_per_rollout
    prompt = session.prompts.draw(seed, turn * rollout.num_groups + number)
    clip = pipeline.encode(prompt.portrait, prompt.sound, prompt.latent_frames)
    with torch.no_grad():
        velocity = velocity_of(pipeline, clip, rollout.sharing.condition)
    shape = latent_shape(pipeline, clip)
    z1 = first_noise(shape, seed, update, number, rollout.group_size, rollout.shared_noise).to(
        pipeline.device
    )
    rngs = [rng_for(seed, update, number, sibling) for sibling in range(rollout.group_size)]

    def counted(zt: Tensor, t: float) -> Tensor:
        session.evaluations += 1
        return velocity(zt, t)

    trajectories = roll_out(counted, z1, rngs, plan, config.objective, rollout.sharing)
    for z0 in trajectories.z0:
        session.desk.submit(candidate(pipeline, prompt, clip, z0[None]))
    kept = replace(
        trajectories, z0=trajectories.z0[:0]
    )  # it is decoded; the update needs the window's latents alone
    return Group(number, clip, velocity, kept)


def learn(session: Session, batch: Batch, advantage: Advantages) -> dict[str, float]:
    """Optimizer steps on a batch: Eq. 7 averaged over siblings, window and the groups that have a
    score.
    """
    config, state, model = session.config, session.state, session.pipeline.model
    figures: dict[str, float] = {}
    for turn in range(config.objective.updates_per_rollout):
        for group in state.optimizer.param_groups:
            group["lr"] = config.optimizer.rate_at(state.update, config.run.num_updates)
        figures = send_backward(session, batch, advantage, on_policy=turn == 0)
        trained = [p for p in model.parameters() if p.requires_grad]
        norm = as_float(nn.utils.clip_grad_norm_(trained, config.optimizer.max_gradient_norm))
        if figures["num_passes"] and np.isfinite(
            norm
        ):  # the same on all ranks: the norm is that of all shards
            state.optimizer.step()
        else:
            reason = (
                "gradient is not finite"
                if figures["num_passes"]
                else "every group is tied or without scores"
            )
            session.log(event="skipped", update=state.update, reason=reason)
        state.optimizer.zero_grad(set_to_none=True)
        state.update += 1
        state.average.follow(model, state.update)
        figures["gradient_norm"] = norm
    return figures


def send_backward(
    session: Session, batch: Batch, advantage: Advantages, on_policy: bool
) -> dict[str, float]:
    """Accumulates the gradient of this rank's groups. Tied groups have none at a KL weight of 0 and
    are left out; every rank makes as many passes as the busiest, because sharded weights are
    gathered by all together.
    """
    config, ranks = session.config, session.ranks
    size, num_groups = config.rollout.group_size, config.rollout.num_groups
    values, scored = (
        advantage.values.reshape(num_groups, size),
        advantage.scored.reshape(num_groups, size),
    )
    live = (values != 0).any(1) if config.objective.kl_weight == 0 else scored.any(1)
    busiest = max(int(live[rank :: ranks.world].sum()) for rank in range(ranks.world))
    mine = [group for group in batch.groups if live[group.number]]
    idle = batch.groups[:1] * (busiest - len(mine))
    loss, ratios, outside, divergence = 0.0, [], [], []
    for place, group in enumerate(mine + idle):
        learns = place < len(mine)
        weight = ranks.world / scored[group.number].sum() / scored.any(1).sum() if learns else 0.0
        known = torch.from_numpy(scored[group.number])
        row = torch.from_numpy(values[group.number]).float().to(session.pipeline.device)
        row = row.clamp(-config.objective.advantage_limit, config.objective.advantage_limit)
        for part in group_passes(session, group, row, known, batch.plan, on_policy):
            (part.loss * weight).backward()
            if learns:
                loss += float(part.loss.detach()) * weight
                ratios.append(part.log_ratio.exp())
                outside.append(part.outside)
                divergence.append(part.kl)
    everywhere = ranks.gather(
        (loss / ranks.world, *(_floats(x) for x in (ratios, outside)), divergence)
    )
    return _pass_figures(everywhere)


def group_passes(
    session: Session, group: Group, row: Tensor, scored: Tensor, plan: Plan, on_policy: bool
) -> Iterator[Pass]:
    """The forwards of a group. Keys and values from sampling serve again while the weights that
    make them are fixed.
    """
    config = session.config
    reusable = config.trained == "generation" and config.rollout.sharing.condition
    velocity = (
        group.sampled if reusable else velocity_of(session.pipeline, group.clip, shared=False)
    )
    base = velocity_of(session.base, group.clip, shared=False) if session.base else None
    return passes(
        velocity, group.trajectories, row, scored, plan, config.objective, base, on_policy
    )


def _floats(tensors: list[Tensor]) -> list[float]:
    return torch.cat(tensors).double().tolist() if tensors else []


def _pass_figures(
    everywhere: list[tuple[float, list[float], list[float], list[float]]],
) -> dict[str, float]:
    """Over all ranks; without a pass there is no ratio to speak of."""
    losses, *lists = zip(*everywhere, strict=True)
    ratio, outside, divergence = (np.array([x for rank in ranks for x in rank]) for ranks in lists)
    figures = {"loss": sum(losses), "num_passes": len(divergence)}
    if not len(divergence):
        return figures
    spread = {"ratio_mean": ratio.mean(), "ratio_min": ratio.min(), "ratio_max": ratio.max()}
    return (
        figures
        | {k: float(v) for k, v in spread.items()}
        | {
            "outside_epsilon": float(outside.mean()),
            "kl": float(divergence.mean()),
        }
    )


def batch_figures(
    session: Session, batch: Batch, rewards: Rewards, advantage: Advantages
) -> dict[str, float | int | None]:
    """What a log line says of a batch: scores, ties, who explains the advantages, evaluations."""
    evaluations = sum(session.ranks.gather(session.evaluations))
    session.evaluations = 0
    means = {f"mean_{name}": _known_mean(value) for name, value in batch.scores.items()}
    explained = {
        f"explained_{name}": float(share) for name, share in rewards.explained(batch.group).items()
    }
    return {
        **means,
        **{name: share for name, share in explained.items() if np.isfinite(share)},
        "window_start": batch.plan.window.start,
        "tied_share": advantage.tied / advantage.num_groups,
        "dropped_groups": advantage.dropped,
        "unscored": rewards.num_unscored,
        "largest_advantage": float(np.abs(advantage.values).max()),
        "evaluations": evaluations,
    }


def _known_mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
