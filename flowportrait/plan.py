"""`flowportrait plan RECIPE`: what a run costs, before anything is loaded: parameters, memory of a
GPU, tokens, operations, hours.

Parameters are counted on the model itself, on the meta device, with what the recipe trains.
Operations follow `model/cost.py`, memory follows `train/parallel.py` and the layers' own saved
tensors. Hours are arithmetic at a share of the GPU's bf16 peak that is assumed, not measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from flowportrait import registry
from flowportrait.catalogue import kind_of
from flowportrait.config import load_recipe
from flowportrait.errors import ConfigError
from flowportrait.files import JsonObject
from flowportrait.media import Facts
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.cost import clip_flops, condition_flops
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.model.offload import generation_weights, understanding_weights
from flowportrait.modeldir import ModelSpec, SamplingConfig, load_spec
from flowportrait.plan_memory import (
    CARDS_GIB,
    CONTEXT_GIB,
    DECODE_FLOPS_PER_PIXEL,
    GIB,
    GPUS,
    _keys,
    expert_bytes,
    longest_grid,
    part_gib,
    row_bytes,
    state_bytes,
    training_flops,
    working_bytes,
)
from flowportrait.scoring.judges.cost import cost_of_clip
from flowportrait.scoring.reward import scorer_of
from flowportrait.scoring.rewards import judge_of
from flowportrait.train import rl
from flowportrait.train.sft import SftRecipe
from flowportrait.train.trainable import choose_trained, halve_frozen

SCORER_TFLOP_PER_FRAME = {"lpips": 0.0050, "raft-jitter": 0.0157}
"""At 384 px, counted by torch on the networks themselves: both pictures of a pair; twelve
iterations for a pair of frames.
"""


@dataclass(frozen=True)
class Way:
    """Options of generation with their peak GPU memory, in GiB by purpose."""

    options: str
    memory_gib: dict[str, float]

    @property
    def total_gib(self) -> float:
        """Total memory."""
        return sum(self.memory_gib.values())

    def fits(self) -> list[int]:
        """The cards with enough memory, including a margin for fragmentation."""
        return [card for card in CARDS_GIB if self.total_gib < 0.95 * card]

    def line(self) -> str:
        """A line for the terminal."""
        memory = ", ".join(f"{name} {size:.1f}" for name, size in self.memory_gib.items())
        cards = self.fits()
        least = f"a card of {cards[0]} GB" if cards else "none of these cards"
        return f"{self.options or 'as it is':<28} {self.total_gib:5.1f} GiB, {least}: {memory}"


@dataclass(frozen=True)
class Cost:
    """The cost of a run. Memory is per GPU, in GiB by purpose."""

    recipe: str
    model: str
    parameters: int
    trained_parameters: int
    tokens_per_second_of_video: float
    clip_s: float
    clip_tokens: int
    clip_forward_pflop: float
    tokens_per_update: int
    update_pflop: float
    update_s: float
    num_updates: int
    hours: float
    gpu_hours: float
    gpu: str
    num_gpus: int
    utilisation: float
    memory_gib: dict[str, float]
    gpu_memory_gib: float
    notes: list[str] = field(default_factory=list)

    @property
    def total_gib(self) -> float:
        """Total memory of a GPU."""
        return sum(self.memory_gib.values())

    def as_dict(self) -> JsonObject:
        """A JSON-compatible dict."""
        return {
            **asdict(self),
            "total_gib": self.total_gib,
            "fits": self.total_gib < 0.92 * self.gpu_memory_gib,
        }

    def lines(self) -> list[str]:
        """A line for the terminal."""
        memory = ", ".join(f"{name} {size:.1f}" for name, size in self.memory_gib.items())
        fits = "fits" if self.as_dict()["fits"] else "does NOT fit"
        return [
            (
                f"model      {self.model}: {self.parameters / 1e9:.2f} billion parameters, "
                f"{self.trained_parameters / 1e9:.2f} trained"
            ),
            (
                f"clip       {self.clip_s:g} s: {self.clip_tokens} tokens"
                f" ({self.tokens_per_second_of_video:g} a second of video),"
                f" {self.clip_forward_pflop:.3g} PFLOP forward"
            ),
            (
                f"update     {self.tokens_per_update} tokens, {self.update_pflop:.4g} PFLOP,"
                f" {self.update_s:.3g} s on {self.num_gpus} x {self.gpu} at {self.utilisation:.0%}"
                " of its bf16 peak"
            ),
            (
                f"run        {self.num_updates} updates: {self.hours:.4g} hours,"
                f" {self.gpu_hours:.4g} GPU hours"
            ),
            f"memory     {self.total_gib:.1f} GiB of {self.gpu_memory_gib:g}, {fits}: {memory}",
            *(f"note       {note}" for note in self.notes),
        ]


def plan_generation(name: str, clip_s: float | None = None) -> tuple[str, list[Way]]:
    """Memory that a card needs to generate with a model: its name, and each way to do so. Weights
    are counted on the meta device; a model that is not there is taken to be BAGEL-7B-MoT.

    What a window's evaluation works with is an estimate, and what the codec needs to decode is not
    counted: it decodes a few frames at a time, after a window is sampled. Raises ConfigError.
    """
    spec, notes = _spec(name)
    window = spec.sampling.window_latent_frames
    grid = longest_grid(spec, clip_s or window * 4 / spec.fps, window)
    with torch.device("meta"):
        model = MoT(spec.model.model_copy(update={"vocab_size": 0}))
    experts = {
        "generation": generation_weights(model),
        "understanding": understanding_weights(model),
    }
    state = grid.num_frames + grid.num_image_tokens
    shared = {
        "codec": part_gib(registry.CODECS, spec.codec),
        "keys and values": 2 * 2 * state * _keys(spec.model) * spec.model.num_layers / GIB,
        "working": working_bytes(spec.model, grid.num_video_tokens + state) / GIB,
        "CUDA": CONTEXT_GIB,
    }
    encoders = part_gib(registry.AUDIO_ENCODERS, spec.audio_encoder)
    encoders += part_gib(registry.IMAGE_ENCODERS, spec.image_encoder)
    ways = []
    for quantization in (None, "int8"):
        size = {kind: expert_bytes(own, quantization) / GIB for kind, own in experts.items()}
        flag = f"--quantize {quantization} " if quantization else ""
        ways.append(Way(flag.strip(), {**size, "encoders": encoders, **shared}))
        ways.append(Way(f"{flag}--offload", {"one expert": max(size.values()), **shared}))
    return "; ".join([spec.name, *notes]), ways


def plan(
    recipe: Path,
    overrides: list[str] | None = None,
    num_gpus: int = 8,
    gpu: str = "h100",
    utilisation: float = 0.4,
    clip_s: float | None = None,
) -> Cost:
    """The cost of a run of an SFT or RL recipe on `num_gpus` of a kind.

    Clips are taken as `clip_s` long: 25 s for SFT (the longest of §4.1), 5 s for RL. A model that
    is not there is taken to be BAGEL-7B-MoT. Raises ConfigError for a recipe or a GPU that is
    neither.
    """
    if gpu not in GPUS:
        raise ConfigError(f"--gpu: got '{gpu}'; {registry.name_hint(gpu, GPUS)}")
    kind = kind_of(recipe)
    if kind not in ("sft", "rl"):
        raise ConfigError(
            f"{recipe}: plan knows recipes of `train sft` and `train rl`, not of kind '{kind}'"
        )
    work, clip_s = (_rl, clip_s or 5.0) if kind == "rl" else (_sft, clip_s or 25.0)
    return _laid_on(
        work(recipe, overrides or [], num_gpus, clip_s), recipe, clip_s, num_gpus, gpu, utilisation
    )


@dataclass(frozen=True)
class _Training:
    """The training of a recipe, before it is laid on GPUs of a kind. `state` is what one GPU holds,
    in bytes.
    """

    spec: ModelSpec
    model: MoT
    grid: TokenGrid
    notes: list[str]
    num_updates: int
    tokens: int
    flops: float
    state: dict[str, float]


def _sft(recipe: Path, overrides: list[str], num_gpus: int, clip_s: float) -> _Training:
    config = load_recipe(recipe, SftRecipe, overrides)
    spec, notes = _spec(config.start_from)
    grid = longest_grid(spec, clip_s, config.data.max_latent_frames)
    clip_tokens = RowLayout((grid,)).num_tokens
    share = config.parallel.sequence
    num_clips = config.data.row_tokens // clip_tokens
    if not num_clips:
        raise ConfigError(
            f"data.row_tokens {config.data.row_tokens}: a clip of {clip_s:g} s has {clip_tokens}"
            " tokens; give more"
        )
    if num_gpus % share:
        raise ConfigError(f"parallel.sequence {share}: must divide the {num_gpus} GPUs")
    if config.data.num_rows % (num_gpus // share):
        notes.append(
            f"data.num_rows {config.data.num_rows} is no multiple of {num_gpus // share} groups of"
            " GPUs"
        )
    with torch.device("meta"):
        model = MoT(spec.model)
    choose_trained(model, config.trained, config.lora)
    halve_frozen(model, "cuda")
    recompute, num_rows = config.parallel.recompute, config.data.num_rows
    state = state_bytes(model, num_gpus, config.parallel.shard or num_gpus)
    row_tokens = num_clips * (
        grid.num_frames + grid.num_image_tokens + grid.num_video_tokens // share
    )
    state |= row_bytes(spec.model, row_tokens, recompute)
    flops = training_flops(spec.model, grid, config.trained, recompute)
    return _Training(
        spec,
        model,
        grid,
        notes,
        config.run.num_updates,
        num_rows * num_clips * clip_tokens,
        num_rows * num_clips * flops,
        state,
    )


def _rl(recipe: Path, overrides: list[str], num_gpus: int, clip_s: float) -> _Training:
    config = load_recipe(recipe, rl.RlRecipe, overrides)
    rl.check(config, num_gpus)
    spec, notes = _spec(config.model)
    grid = longest_grid(
        spec, clip_s, config.prompts.max_latent_frames or spec.sampling.window_latent_frames
    )
    rollout = config.rollout
    per_rollout = config.objective.updates_per_rollout
    sampled, passes = rollout_evaluations(config)
    clip_tokens = RowLayout((grid,)).num_tokens
    whole = clip_flops(spec.model, grid)
    sampling = sampled * (whole - condition_flops(spec.model, grid))
    decoding = rollout.group_size * DECODE_FLOPS_PER_PIXEL * spec.size_px**2 * grid.latent_frames
    share = config.parallel.sequence
    recompute = config.recompute and config.parallel.recompute
    sets = num_gpus // share
    turns = -(-rollout.num_groups // sets)
    if turns * sets > rollout.num_groups:
        idle = turns * sets - rollout.num_groups
        notes.append(
            f"rollout.num_groups {rollout.num_groups} in {turns} turns on {sets} sets of GPUs: "
            f"{idle} of them sample along for nothing in the last turn"
        )
    # Sets without a group of their own work all the same.
    flops = turns * sets * ((sampling + decoding) / per_rollout + (3 + recompute) * passes * whole)
    with torch.device("meta"):
        model = MoT(spec.model)
    rl.choose_trained(model, config.trained, config.lora)
    halve_frozen(model, "cuda")
    state = state_bytes(model, num_gpus, config.parallel.shard or num_gpus)
    condition = grid.num_frames + grid.num_image_tokens
    row_tokens = condition + grid.num_video_tokens // share
    state |= row_bytes(spec.model, row_tokens, recompute)
    notes += reward_notes(config, grid)
    videos = rollout.num_groups * rollout.group_size
    return _Training(
        spec, model, grid, notes, config.run.num_updates, videos * clip_tokens, flops, state
    )


def reward_notes(config: rl.RlRecipe, grid: TokenGrid) -> list[str]:
    """Costs of rewards and judges beside the GPUs of the run, a line each."""
    rollout, run = config.rollout, config.run
    rollouts = run.num_updates / config.objective.updates_per_rollout
    looks = (run.num_updates // run.sample_every + 1) * config.watch.num_clips
    clips = round(rollouts * rollout.num_groups * rollout.group_size) + looks
    facts = Facts(grid.fps, grid.num_frames, grid.num_frames / grid.fps, True)
    notes = []
    for name in config.reward.scorers:
        scorer = scorer_of(name)
        known = scorer in registry.SCORERS.names()
        judge = judge_of(scorer, config.scoring) if known else None
        if judge is not None:
            calls, tokens = cost_of_clip(registry.SCORERS.load(scorer), judge, facts)
            notes.append(
                f"{name}: {clips * calls:,} calls of the judge, about {clips * tokens:.3g} tokens; "
                "they are made while the next clips are sampled"
            )
        elif scorer in SCORER_TFLOP_PER_FRAME:
            work = SCORER_TFLOP_PER_FRAME[scorer] * facts.num_frames * clips / run.num_updates
            notes.append(
                f"{name}: about {work:.3g} TFLOP an update, in threads where the clips are"
            )
    return notes


def rollout_evaluations(config: rl.RlRecipe) -> tuple[float, float]:
    """Evaluations that a group's sampling takes, and passes with a gradient, with what siblings
    share (docs/rl.md); a window is as likely to start at one place as at another.
    """
    rollout = config.rollout
    size = config.rollout.group_size
    width = rollout.window.width
    if rollout.window.last is None:
        last = rollout.evaluations - 1 - width
    else:
        last = rollout.window.last - width + 1
    start = (rollout.window.first + last) / 2
    shared = 0
    if rollout.shared_noise and rollout.sharing.prefix:
        shared = start + rollout.sharing.window
    sampled = shared + size * (rollout.evaluations - shared)
    once = rollout.shared_noise and rollout.sharing.window
    return sampled, (1 + (width - 1) * size if once else width * size)


def _spec(name: str) -> tuple[ModelSpec, list[str]]:
    """The model that a recipe starts from, by its config.json alone."""
    try:
        return load_spec(registry.find_model(name)), []
    except ConfigError:
        if (Path(name) / "config.json").is_file():
            raise
    spec = ModelSpec(
        name="BAGEL-7B-MoT",
        model=MoTConfig(),
        codec={"type": "wan"},
        audio_encoder={"type": "whisper"},
        image_encoder={"type": "siglip"},
        size_px=384,
        sampling=SamplingConfig(window_latent_frames=151),
    )
    return spec, [
        f"{name} is not there: taken to be BAGEL-7B-MoT at 384 px with Wan-VAE and Whisper"
    ]


def _laid_on(
    work: _Training, recipe: Path, clip_s: float, num_gpus: int, gpu: str, utilisation: float
) -> Cost:
    kind, parameters = GPUS[gpu], list(work.model.parameters())
    update_s = work.flops / (num_gpus * kind.bf16_tflops * 1e12 * utilisation)
    hours = update_s * work.num_updates / 3600
    return Cost(
        recipe=str(recipe),
        model=work.spec.name,
        parameters=sum(p.numel() for p in parameters),
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        tokens_per_second_of_video=work.grid.tokens_per_second,
        clip_s=clip_s,
        clip_tokens=RowLayout((work.grid,)).num_tokens,
        clip_forward_pflop=clip_flops(work.spec.model, work.grid) / 1e15,
        tokens_per_update=work.tokens,
        update_pflop=work.flops / 1e15,
        update_s=update_s,
        num_updates=work.num_updates,
        hours=hours,
        gpu_hours=hours * num_gpus,
        gpu=gpu,
        num_gpus=num_gpus,
        utilisation=utilisation,
        memory_gib={name: size / GIB for name, size in work.state.items()},
        gpu_memory_gib=kind.memory_gib,
        notes=work.notes,
    )
