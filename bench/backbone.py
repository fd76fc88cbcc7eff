"""Our Mixture of Transformers against a plain one: the same weights and mathematics, one dense
mask, index scatter.

    python -m bench.backbone [--device cpu|cuda] [--seconds 1 2 4] [--size small|bagel-layer] \\
        [-o bench_backbone.json]

The plain one is how such a model is usually written: all tokens in one sequence, an additive mask
[n, n], every projection of both experts scattered into full-length buffers by index lists, keys and
values repeated to all query heads. Measured: one layer forward; the whole network forward and
backward; a row of several clips against the row as one sequence; and evaluations of the sampler.
Every pair runs in alternation, outputs and gradients must agree to 1e-4, and times are the least of
several rounds: CPU seconds of the process, so that other work on the machine counts less, or
synchronised seconds on CUDA. Of our forward and backward, tokens a second, operations a second, and
on a GPU that `flowportrait plan` knows their share of its bf16 peak (`mfu`). Peak memory counts the
tensors of a forward and backward, gradients included, beyond weights and inputs, and the plain
way's mask.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowportrait.model.attention import Spans
from flowportrait.model.blocks import GEN, UND, Layer, MoTConfig
from flowportrait.model.cost import clip_flops
from flowportrait.model.embed import rope_table, rotate
from flowportrait.model.layout import RowLayout, TokenGrid, latent_frames_for
from flowportrait.model.mask import allowed, portrait_splits
from flowportrait.model.mot import MoT, PackedRow
from flowportrait.plan_memory import GPUS
from flowportrait.precision import matmul_precision

SIZES = {
    # BAGEL's proportions at a seventh of its width; 8 x 8 tokens a latent frame, as at 128 px.
    "small": (
        MoTConfig(
            hidden_size=512,
            num_layers=4,
            num_heads=8,
            num_kv_heads=2,
            mlp_size=2688,
            vocab_size=0,
            latent_side=64,
            audio_dim=192,
            image_dim=184,
            image_side=70,
        ),
        8,
    ),
    # One layer of the real widths; 24 x 24 tokens a latent frame, as at 384 px.
    "bagel-layer": (MoTConfig(num_layers=1, vocab_size=0), 24),
}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sequence:
    """What the plain network knows of a row: who owns each token, when it is, and the additive mask
    [1, 1, n, n].
    """

    understood: Tensor
    generated: Tensor
    positions: Tensor
    mask: Tensor

    @classmethod
    def of(cls, layout: RowLayout, per_second: float, device: str, dtype: torch.dtype) -> Sequence:
        lengths = list(
            zip(layout.audio_lengths, layout.image_lengths, layout.video_lengths, strict=True)
        )
        owned = torch.cat([torch.arange(sum(clip)) >= sum(clip[:2]) for clip in lengths])
        positions = [
            (g.audio_positions(per_second), g.image_positions(), g.video_positions(per_second))
            for g in layout.grids
        ]
        seen = allowed([portrait_splits(*clip) for clip in lengths]).to(device)
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(
            ~seen, float("-inf")
        )
        return cls(
            torch.where(~owned)[0].to(device),
            torch.where(owned)[0].to(device),
            torch.cat([p for clip in positions for p in clip]).to(device),
            mask[None, None],
        )


def plain_layer(layer: Layer, x: Tensor, sequence: Sequence, rope: tuple[Tensor, Tensor]) -> Tensor:
    """A layer over all tokens of a row [1, n, d] by index scatter and a dense mask."""
    attention, und, gen = layer.self_attn, sequence.understood, sequence.generated

    def scattered(source: Tensor, name: str, holder: torch.nn.Module) -> Tensor:
        parts = [
            holder._modules[f"{name}{expert}"](source[:, own])
            for own, expert in ((und, UND), (gen, GEN))
        ]
        result = parts[0].new_zeros(*source.shape[:2], *parts[0].shape[2:])
        result[:, und], result[:, gen] = parts
        return result

    normed = scattered(x, "input_layernorm", layer)
    q, k, v = (
        scattered(normed, f"{name}_proj", attention).unflatten(-1, (-1, attention.head_size))
        for name in "qkv"
    )
    q, k = (
        rotate(scattered(y, f"{name}_norm", attention), rope).to(v.dtype)
        for y, name in ((q, "q"), (k, "k"))
    )
    groups = q.shape[2] // k.shape[2]
    k, v = (y.repeat_interleave(groups, dim=2) for y in (k, v))
    heads = F.scaled_dot_product_attention(
        *(y.transpose(1, 2) for y in (q, k, v)), attn_mask=sequence.mask
    )
    x = x + scattered(heads.transpose(1, 2).flatten(2), "o_proj", attention)
    return x + scattered(scattered(x, "post_attention_layernorm", layer), "mlp", layer)


def plain_network(model: MoT, row: PackedRow, sequence: Sequence) -> Tensor:
    """The velocity of all video tokens of a row."""
    condition, _ = model._condition_tokens(row.audio, row.image, row.layout)
    video, _ = model._video_tokens(row.video, row.t, row.layout)
    x = video.new_zeros(1, condition.shape[1] + video.shape[1], video.shape[2])
    x[:, sequence.understood], x[:, sequence.generated] = _by_clip(condition, row.layout), video
    rope = rope_table(sequence.positions, model.config.head_size, model.config.rope_theta)
    for layer in model.layers:
        x = plain_layer(layer, x, sequence, rope)
    return model._velocity_tokens(x[:, sequence.generated])


def _by_clip(condition: Tensor, layout: RowLayout) -> Tensor:
    pieces = condition.split(layout.audio_lengths + layout.image_lengths, dim=1)
    count = len(layout.grids)
    return torch.cat([piece for clip in range(count) for piece in pieces[clip::count]], dim=1)


@dataclass(frozen=True)
class Case:
    """A network and a row for it; both ways of computing its velocity."""

    model: MoT
    row: PackedRow
    sequence: Sequence

    @classmethod
    def of(cls, size: str, seconds: tuple[float, ...], device: str) -> Case:
        config, side = SIZES[size]
        torch.manual_seed(0)
        with torch.device(device):
            model = MoT(config)
            torch.nn.init.normal_(model.llm2vae.weight, std=0.02)
            grids = tuple(
                TokenGrid(latent_frames_for(round(24 * s)), side, side, 27, 27) for s in seconds
            )
            layout = RowLayout(grids)
            row = PackedRow(
                layout,
                torch.randn(1, sum(layout.audio_lengths), config.audio_dim),
                torch.randn(1, sum(layout.image_lengths), config.image_dim),
                torch.randn(1, sum(layout.video_lengths), config.token_size),
                torch.rand(1, sum(grid.latent_frames for grid in grids)),
            )
        dtype = torch.bfloat16 if torch.is_autocast_enabled(device) else torch.float32
        return cls(model, row, Sequence.of(layout, config.positions_per_second, device, dtype))

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        """Ours and the plain one."""
        return {
            "ours": lambda: self.model(self.row),
            "plain": lambda: plain_network(self.model, self.row, self.sequence),
        }

    def gradients(self, velocity: Tensor) -> Tensor:
        """Of all weights, in one line."""
        self.model.zero_grad(set_to_none=True)
        velocity.square().mean().backward()
        grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.parameters())
        return torch.cat([grad.flatten() for grad in grads])


def trained(case: Case, way: Callable[[], Tensor]) -> None:
    """A forward and a backward."""
    case.model.zero_grad(set_to_none=True)
    way().square().mean().backward()


def layer_ways(case: Case) -> dict[str, Callable[[], Tensor]]:
    """One layer, forward: its condition and video tokens our way, all tokens the plain way."""
    model, row, sequence = case.model, case.row, case.sequence
    with torch.no_grad():
        condition, condition_rope = model._condition_tokens(row.audio, row.image, row.layout)
        video, video_rope = model._video_tokens(row.video, row.t, row.layout)
        x = torch.cat([condition, video], dim=1)
        rope = rope_table(sequence.positions, model.config.head_size, model.config.rope_theta)
    spans = Spans(row.layout.audio_lengths, row.layout.image_lengths, row.layout.video_lengths)
    layer = model.layers[0]
    return {
        "ours": lambda: layer(condition, video, (condition_rope, video_rope), spans, last=False),
        "plain": lambda: plain_layer(layer, x, sequence, rope),
    }


def sampling_ways(case: Case, evaluations: int) -> dict[str, Callable[[], object]]:
    """A sampler's evaluations of one clip: keys and values of the condition kept, or everything
    each time.
    """
    model, row = case.model, case.row
    grid = row.layout.grids[0]
    zt = grid.unpatchify(row.video)

    def ours() -> None:
        condition = model.condition(row.audio, row.image, grid)
        for _ in range(evaluations):
            model.velocity(zt, row.t, condition, grid)

    def plain() -> None:
        for _ in range(evaluations):
            plain_network(model, row, case.sequence)

    return {"ours": ours, "plain": plain}


def times(ways: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The least seconds of each way, run in alternation."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            found[name].append(_seconds(way, device))
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def _seconds(way: Callable[[], object], device: str) -> float:
    if device == "cpu":
        started = time.process_time()
        way()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(case: Case, way: Callable[[], Tensor], device: str) -> int:
    """The most bytes that tensors of a forward and backward hold at once, beyond weights and
    inputs.
    """
    case.model.zero_grad(set_to_none=True)
    if device == "cpu":
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            trained(case, way)
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trained(case, way)
    return torch.cuda.max_memory_allocated() - before


def compare(size: str, seconds: tuple[float, ...], device: str, rounds: int) -> dict:
    """One row of clips both ways: agreement, seconds, memory, and their ratios."""
    case = Case.of(size, seconds, device)
    ways = case.ways()
    with torch.no_grad():
        velocities = {name: way() for name, way in ways.items()}
    gap = float((velocities["ours"] - velocities["plain"]).norm() / velocities["plain"].norm())
    grads = {name: case.gradients(way()) for name, way in ways.items()}
    gradient_gap = float((grads["ours"] - grads["plain"]).norm() / grads["plain"].norm())
    del velocities, grads
    if not torch.is_autocast_enabled(device):
        assert max(gap, gradient_gap) < TOLERANCE, (gap, gradient_gap)
    with torch.no_grad():
        measured = {"layer_forward": times(layer_ways(case), rounds, device)}
        if len(seconds) == 1:
            measured["sampling_8_evaluations"] = times(
                sampling_ways(case, 8), max(1, rounds // 3), device
            )
    update = {name: lambda way=way: trained(case, way) for name, way in ways.items()}
    measured["forward_backward"] = times(update, rounds, device)
    measured["peak_bytes"] = {name: peak_bytes(case, way, device) for name, way in ways.items()}
    measured["peak_bytes"]["plain"] += case.sequence.mask.nbytes
    ratios = {name: pair["plain"] / pair["ours"] for name, pair in measured.items()}
    found = {
        "seconds": seconds,
        "tokens": case.row.layout.num_tokens,
        **measured,
        "plain_over_ours": ratios,
    }
    found |= {"velocity_gap": gap, "gradient_gap": gradient_gap}
    found |= achieved(case, measured["forward_backward"]["ours"], device)
    print(json.dumps(found), flush=True)
    return found


def achieved(case: Case, seconds: float, device: str) -> dict[str, float | None]:
    """What a forward and backward in so many seconds come to; a backward is two forwards."""
    layout, config = case.row.layout, case.model.config
    flops = 3 * sum(clip_flops(config, grid) for grid in layout.grids) / seconds
    known = torch.cuda.get_device_name().lower().replace(" ", "") if device != "cpu" else ""
    peak = next((gpu.bf16_tflops * 1e12 for name, gpu in GPUS.items() if name in known), None)
    return {
        "tokens_per_second": layout.num_tokens / seconds,
        "tflops_per_second": flops / 1e12,
        "mfu": flops / peak if peak else None,
    }


def main(options: argparse.Namespace) -> dict:
    """Clips of growing length, then the two shortest, twice, as one row."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    cases = [(s,) for s in options.seconds] + [tuple(options.seconds[:2]) * 2]
    if options.device == "cpu":
        rows = [compare(options.size, case, "cpu", options.rounds) for case in cases]
    else:
        with matmul_precision(options.device):
            rows = [compare(options.size, case, options.device, options.rounds) for case in cases]
    return {
        "size": options.size,
        "device": options.device,
        "load": os.getloadavg()[0],
        "rows": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    chosen = parser.parse_args()
    result = json.dumps(main(chosen), indent=2)
    print(result)
    if chosen.out:
        chosen.out.write_text(result + "\n")
