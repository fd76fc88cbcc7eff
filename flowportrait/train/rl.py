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
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowportrait.config import load_recipe
from flowportrait.errors import ConfigError
from flowportrait.generate import Pipeline
from flowportrait.model.blocks import GEN
from flowportrait.model.lora import LoraConfig, adapt, is_adapter
from flowportrait.model.mot import MoT
from flowportrait.modeldir import PARTS, find_device, load_parts
from flowportrait.registry import MEASURES, SCORERS, find_model
from flowportrait.scoring.desk import ScoringDesk
from flowportrait.scoring.reward import composite, scorer_of
from flowportrait.scoring.rewards import (
    build_measures,
    require_budget,
    require_gradients,
    require_rewards,
)
from flowportrait.scoring.run import ScoringConfig
from flowportrait.train.grpo import Advantages, advantages, shuffled
from flowportrait.train.matching import matching_passes
from flowportrait.train.parallel import Ranks
from flowportrait.train.pass_figures import Halves, PassFigures
from flowportrait.train.prompts import Prompts, velocity_of
from flowportrait.train.reward_gradient import (
    clip_worth,
    reward_gradient_passes,
    signs_of_control,
)
from flowportrait.train.rlbatch import Batch, Group, batch_figures, sample_batch
from flowportrait.train.rlstate import RlRecipe, RlSession, RlState
from flowportrait.train.rollout import Pass, RolloutPlan, passes, rng_for
from flowportrait.train.run import Figures, Run
from flowportrait.train.step import Stepper
from flowportrait.train.trainable import build, check_weights
from flowportrait.train.watch import look

Predictions = dict[int, dict[int, Tensor]]


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


def make_updates(session: RlSession) -> None:
    """Rollouts and their updates, to the end of the run or until SIGTERM asks it to stop."""
    config = session.config
    state = session.state
    run = session.run
    if state.baseline is None:
        look(session)
    while state.update < config.run.num_updates:
        before = state.update
        started = time.monotonic()
        batch = sample_batch(session, state.update)
        sampled_s = time.monotonic() - started
        rewards = composite(
            session.as_rewards(batch.scores), batch.group, config.reward, state.running
        )
        advantage = advantages(
            rewards.final, batch.group, config.objective.ddof, config.objective.std_floor
        )
        if config.objective.shuffled:
            rng = np.random.default_rng([config.run.seed, before, 6])
            advantage = shuffled(advantage, batch.group, rng)
        figures = learn(session, batch, advantage, rewards.scales)
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


def check(config: RlRecipe, num_processes: int) -> None:
    """Raises ConfigError for what such a run would refuse, before anything is loaded."""
    require_rewards(config.reward.scorers, MEASURES)
    require_budget(config.asked, MEASURES, config.scoring)
    if config.objective.kind == "gradient":
        require_gradients(config.reward.scorers, MEASURES)
    config.rollout.window.starts(config.rollout.evaluations)
    if num_processes % config.parallel.sequence:
        raise ConfigError(
            f"parallel.sequence {config.parallel.sequence}: got {num_processes} processes; their "
            "number must be a multiple"
        )


def open_session(config: RlRecipe, resume: str | None) -> RlSession:
    """Everything loaded, continued from the checkpoint if there is one. Raises ConfigError,
    CheckpointError.
    """
    check(config, config.parallel.sequence)
    ranks = Ranks.join(config.device, config.parallel.sequence)
    scoring = where_clips_are(config, ranks.device)
    answers = Path(config.run.directory) / "answers.jsonl"
    measures = build_measures(config.asked, MEASURES, scoring, answers)
    run = Run(config.run, config, resume, ranks)
    pipeline = open_pipeline(config, ranks)
    base = None
    if compares_with_base(config) or pipeline.codec.moves_portrait:
        base = open_pipeline(config, ranks, learns=False)
    spec = pipeline.spec
    window = spec.sampling.window_latent_frames
    prompts = Prompts(config.prompts, spec.size_px, window, pipeline.codec.temporal_stride)
    state = RlState.fresh(pipeline.model, config.optimizer, config.reward.statistics == "running")
    stepper = Stepper(
        pipeline.model,
        state.optimizer,
        config.optimizer,
        config.run.num_updates,
        run.directory,
    )
    desk = ScoringDesk(measures, config.reward.workers, config.reward.judge_workers)
    session = RlSession(config, ranks, run, pipeline, base, prompts, desk, state, stepper)
    if run.resumes:
        state.load(run.resume_from, ranks)
        session.turn_baseline()
        session.log(event="resumed", update=state.update)
    return session


def where_clips_are(config: RlRecipe, device: str) -> ScoringConfig:
    """The settings of scorers, those with a network on this rank's device unless the recipe says
    where.
    """
    own = dict(config.scoring.scorers)
    for scorer in map(scorer_of, config.asked):
        kind = None
        if scorer in SCORERS.names():
            kind = SCORERS.load(scorer)
        if "device" in getattr(getattr(kind, "Config", None), "model_fields", ()):
            own[scorer] = {"device": device, **own.get(scorer, {})}
    return config.scoring.model_copy(update={"scorers": own})


def open_pipeline(config: RlRecipe, ranks: Ranks, learns: bool = True) -> Pipeline:
    """The model of the recipe, spread over the ranks; no process ever holds all of it. What is to
    learn is marked, unless nothing `learns`.
    """
    if ranks.world == 1:
        ranks = replace(ranks, device=str(find_device(config.device)))
    directory = find_model(config.model)
    others = tuple(part for part in PARTS if part != "model")
    spec, parts = load_parts(config.model, others, ranks.device)
    check_weights(directory, spec, ranks)
    choose = partial(choose_trained, trained=config.trained, lora=config.lora)
    if not learns:
        choose = partial(nn.Module.requires_grad_, requires_grad=False)
    recompute = config.recompute and config.parallel.recompute
    parallel = config.parallel.model_copy(update={"recompute": recompute})
    model = build(spec.model, choose, directory, ranks, parallel).eval()
    return Pipeline(spec, model, **parts, device=torch.device(ranks.device))


def compares_with_base(config: RlRecipe) -> bool:
    """Whether the objective has a KL to the untuned weights."""
    return config.objective.kl_weight > 0 and config.objective.kl_to == "base"


def choose_trained(
    model: MoT,
    trained: Literal["generation", "all", "lora"],
    lora: LoraConfig = LoraConfig(),  # noqa: B008 (frozen)
) -> None:
    """Marks the weights that learn: of the generation expert, adapters on it, or all (position
    tables never); and in any case the ends of the model, without those that hear.
    """
    if trained == "lora":
        adapt(model, lora)
    ends = ("time_embedder.", "vae2llm.", "llm2vae.")
    for name, p in model.named_parameters():
        learns = {
            "all": True,
            "generation": GEN in name,
            "lora": is_adapter(name),
        }[trained]
        p.requires_grad_((learns or name.startswith(ends)) and not name.endswith("pos_embed"))


def learn(session: RlSession, batch: Batch, advantage: Advantages, scales: Figures) -> Figures:
    """Optimizer steps on a batch: Eq. 7 averaged over siblings, window and the groups that have a
    score. `scales` are those of `Rewards`.
    """
    state = session.state
    stepper = session.stepper
    figures: Figures = {}
    old: Predictions = {}
    for turn in range(session.config.objective.updates_per_rollout):
        figures = send_backward(session, batch, advantage, scales, turn == 0, old)
        teaches = bool(figures["num_passes"])
        reason = "gradient is not finite" if teaches else "every group is tied or without scores"
        norm = stepper.clip()
        report = partial(session.log, event="skipped", update=state.update, reason=reason)
        stepper.take(state.update, norm, report, teaches)
        state.update += 1
        state.average.follow(session.pipeline.model, state.update)
        figures["gradient_norm"] = norm
    return figures


def send_backward(
    session: RlSession,
    batch: Batch,
    advantage: Advantages,
    scales: Figures,
    on_policy: bool,
    old: Predictions,
) -> Figures:
    """Accumulates the gradient of this rank's groups. Tied groups have none at a KL weight of 0 and
    are left out; every rank makes as many passes as the busiest, because sharded weights are
    gathered by all together.
    """
    config = session.config
    ranks = session.ranks
    values = advantage.values.reshape(config.rollout.num_groups, config.rollout.group_size)
    scored = advantage.scored.reshape(config.rollout.num_groups, config.rollout.group_size)
    live = (values != 0).any(1) if config.objective.kl_weight == 0 else scored.any(1)
    mine = [group for group in batch.groups if live[group.number]]
    idle = [batch.spare] * (max(ranks.gather(len(mine))) - len(mine))
    limit = config.objective.advantage_limit
    seen = PassFigures()
    halves = None
    if config.watch.gradient_noise:
        halves = Halves(session.pipeline.model)
    for place, group in enumerate(mine + idle):
        if halves and place == (len(mine) + len(idle)) // 2:
            halves.turn()
        learns = place < len(mine)
        # Gradients of shards are means over the ranks, of which some share a clip.
        weight = 0.0
        if learns:
            weight = ranks.data[1] / scored[group.number].sum() / scored.any(1).sum()
        known = torch.from_numpy(scored[group.number])
        row = torch.from_numpy(values[group.number]).float().to(session.pipeline.device)
        learning = Learning(group, row.clamp(-limit, limit), known, scales, batch.plan, on_policy)
        for part in group_passes(session, learning, old):
            (part.loss * weight).backward()
            if learns:
                seen.add(part, weight)
    figures = PassFigures.figures(ranks.gather(seen)[:: ranks.sequence], ranks.data[1])
    return figures | (halves.figures() if halves else {})


@dataclass(frozen=True)
class Learning:
    """A group with what it is learnt from by: `advantage` [g] of its siblings, and which of them
    have a score.
    """

    group: Group
    advantage: Tensor
    scored: Tensor
    scales: Figures
    plan: RolloutPlan
    on_policy: bool


def group_passes(session: RlSession, learning: Learning, old: Predictions) -> Iterator[Pass]:
    """The forwards of a group. Keys and values from sampling serve again while the weights that
    make them are fixed. `old` keeps what the objectives of the forward process need of the policy
    that sampled.
    """
    config = session.config
    group = learning.group
    share = session.ranks.share
    reusable = config.trained != "all" and config.rollout.sharing.condition
    if reusable:
        velocity = group.sampled
    else:
        velocity = velocity_of(session.pipeline, group.clip, shared=False, share=share)
    what = learning.advantage, learning.scored
    if config.objective.matches:
        rngs = [
            rng_for(config.run.seed, session.state.update, group.number, sibling, 2)
            for sibling in range(len(learning.scored))
        ]
        before = old.setdefault(group.number, {})
        z0 = group.trajectories.z0
        schedule = learning.plan.schedule
        return matching_passes(velocity, z0, rngs, *what, schedule, config.objective, before)
    base = None
    if compares_with_base(config):
        base = velocity_of(session.base, group.clip, shared=False, share=share)
    if config.objective.kind == "gradient":
        last = group.trajectories.last
        t = learning.plan.schedule.times[-2]
        worth = partial(clip_worth, session, group, learning.scales)
        place = config.run.seed, session.state.update, group.number, len(learning.scored)
        return reward_gradient_passes(
            velocity,
            last,
            t,
            worth,
            learning.scored,
            base,
            config.objective.kl_weight,
            signs_of_control(*place) if config.objective.shuffled else None,
        )
    return passes(
        velocity,
        group.trajectories,
        *what,
        learning.plan,
        config.objective,
        base,
        learning.on_policy,
    )
