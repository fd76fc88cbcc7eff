"""Which weights learn, how the rest is kept, and how a large model comes onto its devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from flowportrait import precision
from flowportrait.errors import CheckpointError
from flowportrait.model.blocks import GEN, MoTConfig
from flowportrait.model.lora import AdaptedLinear, LoraConfig, adapt, is_adapter
from flowportrait.model.mot import MoT
from flowportrait.modeldir import CONFIG, ModelSpec, check_files
from flowportrait.train.parallel import ParallelConfig, Ranks, fill, load_shares, shard
from flowportrait.weights import read_header

TrainedSet = Literal["full", "generation", "lora"]

ENDS = ("time_embedder.", "vae2llm.", "llm2vae.", "audio_connector.")
"""What BAGEL had for other latents, or not at all: it learns in every set."""


def check_weights(directory: Path, spec: ModelSpec, ranks: Ranks) -> None:
    """Raises CheckpointError where a file of the model directory is not what its config.json says;
    the ranks look at a part of the files each.
    """
    names = sorted(name for name in spec.sha256 if name != CONFIG)[ranks.rank :: ranks.world]
    problem = ""
    try:
        if names:
            check_files(directory, spec, names)
    except CheckpointError as error:
        problem = str(error)
    told = next(filter(None, ranks.gather(problem)), "")
    if told:
        raise CheckpointError(told)


def build(
    config: MoTConfig,
    choose: Callable[[MoT], None],
    directory: Path,
    ranks: Ranks,
    parallel: ParallelConfig,
) -> MoT:
    """The generator with the weights of a model directory, spread over the ranks; no process ever
    holds all of it. `choose` marks what learns, and puts adapters on it where they do.

    Raises CheckpointError for weights that are not there or of another shape.
    """
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{directory}: no model.safetensors; download the whole model directory again"
        )
    with torch.device("meta"):
        model = MoT(config)
    choose(model)
    halve_frozen(model, ranks.device)
    for layer in model.layers:
        layer.recomputes = parallel.recompute
    shard(model, ranks, parallel)
    model.to_empty(device="cpu" if parallel.cpu_offload else ranks.device)
    load_shares(model, files, own=is_adapter)
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            for own, fresh in zip((module.lora_a, module.lora_b), module.fresh(rng), strict=True):
                fill(own, fresh)
    return model.train()


def choose_trained(model: MoT, trained: TrainedSet, lora: LoraConfig) -> None:
    """Marks what learns: "full" all that a gradient reaches; "generation" the generation expert;
    "lora" adapters on it; with the last two the ends of the model, too.
    """
    if trained == "lora":
        adapt(model, lora)
    unreached = _unreached(model)
    for name, p in model.named_parameters():
        learns = {
            "full": not name.startswith(unreached),
            "generation": GEN in name,
            "lora": is_adapter(name),
        }[trained]
        p.requires_grad_(learns or name.startswith(ENDS))


def halve_frozen(model: MoT, device: str) -> None:
    """Keeps frozen matrices in bf16 where products run in it anyway; times are float32
    everywhere.
    """
    if precision.fast_bf16(device.split(":")[0]):
        for name, module in model.named_modules():
            matrix = isinstance(module, nn.Linear | nn.Embedding)
            if matrix and not name.startswith("time_embedder."):
                for p in module.parameters(recurse=False):
                    p.data = p.data if p.requires_grad else p.data.bfloat16()


def as_stored(weights: Mapping[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Whole weights after training; those that `halve_frozen` rounded to bf16 are read from the
    model directory that training started from.
    """
    found = dict(weights)
    for path in sorted(directory.glob("model*.safetensors")):
        for name, stored in read_header(path).weights.items():
            if name in found and found[name].dtype == torch.bfloat16 and stored.dtype != "BF16":
                found[name] = stored.tensor()
    return found


def _unreached(model: MoT) -> tuple[str, ...]:
    """Beginnings of the names of weights that no gradient reaches: text, and what the understanding
    expert does after the last layer's keys and values.
    """
    last = f"language_model.model.layers.{len(model.layers) - 1}"
    after = (
        "self_attn.q_proj.",
        "self_attn.q_norm.",
        "self_attn.o_proj.",
        "mlp.",
        "post_attention_layernorm.",
    )
    text = (
        "language_model.lm_head.",
        "language_model.model.embed_tokens.",
        "language_model.model.norm.",
    )
    return (*text, *(f"{last}.{part}" for part in after))
