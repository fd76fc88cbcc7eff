"""Rows of packed clips: equal to the dense mask, forward and backward; clips do not meet; nothing
quadratic.
"""

from itertools import accumulate, pairwise

import pytest
import torch
from test_mot import CONFIG, clip, packed_clip
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from flowportrait.model import attention
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.model.mask import allowed
from flowportrait.model.mot import MoT, PackedRow
from flowportrait.model.packed import Packed, packed_forward
from flowportrait.model.sequence import SequenceShare

GRIDS = (
    TokenGrid(3, 2, 3, image_rows=2, image_cols=2),
    TokenGrid(1, 1, 2, image_rows=3, image_cols=1, opening=False),
    TokenGrid(2, 4, 2, image_rows=1, image_cols=2),
)
SAME = (GRIDS[0],) * 2


@pytest.fixture(scope="module")
def mot():
    torch.manual_seed(0)
    model = MoT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def row_of(grids, **fields):
    """The clips of test_mot, one of each grid, as one row; and those clips."""
    clips = [clip(seed, grid) for seed, grid in enumerate(grids)]
    audio, image, zt, t = zip(*clips, strict=True)
    layout = RowLayout(tuple(grids))
    cat = lambda parts: torch.cat(parts, dim=1)  # noqa: E731
    return PackedRow(layout, cat(audio), cat(image), layout.patchify(zt), cat(t), **fields), clips


def dense(mot, grids, clips):
    """The velocity tokens of the same clips by one attention call under the dense mask."""
    parts = [packed_clip(mot, grid, *one) for grid, one in zip(grids, clips, strict=True)]
    tokens, positions, is_video = (
        torch.cat(column) for column in list(zip(*parts, strict=True))[:3]
    )
    hidden = packed_forward(
        mot, Packed(tokens, positions, is_video, allowed([part[3] for part in parts]))
    )[-1]
    return mot.llm2vae(hidden[is_video])[None]


def gradients(mot, velocity):
    """Of a loss that weighs every number differently."""
    weight = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(5))
    mot.zero_grad()
    (velocity * weight).sum().backward()
    return {
        name: p.grad.clone()
        for name, p in mot.named_parameters()
        if p.grad is not None and p.grad.any()
    }


def varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, enable_gqa):
    """What `torch.nn.attention.varlen.varlen_attn` is documented to compute, which itself runs on
    CUDA alone.
    """
    assert max_q == cu_q.diff().max() and max_k == cu_k.diff().max() and cu_q.dtype == torch.int32
    assert enable_gqa and k.shape[1] < q.shape[1]
    spans = zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True)
    heads_first = lambda x, span: x[slice(*span)].transpose(0, 1)[None]  # noqa: E731
    found = [
        attention.attend(heads_first(q, a), heads_first(k, b), heads_first(v, b)) for a, b in spans
    ]
    return torch.cat([x[0].transpose(0, 1) for x in found])


@pytest.mark.parametrize("kernel", ["loop", "varlen"])
@pytest.mark.parametrize("grids", [GRIDS, SAME, GRIDS[:1]], ids=["mixed", "same", "one"])
def test_a_row_equals_the_dense_mask_forward_and_backward(mot, grids, kernel, monkeypatch):
    if kernel == "varlen":
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
        monkeypatch.setattr(attention, "attend_spans", attention._attend_varlen)
    row, clips = row_of(grids)
    velocity, expected = mot(row), dense(mot, grids, clips)
    assert_close(velocity, expected, atol=1e-5, rtol=1e-5)
    got, wanted = gradients(mot, velocity), gradients(mot, expected)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_close(got[name], value, atol=2e-4, rtol=1e-4)


def test_recomputation_changes_nothing(mot):
    row, _ = row_of(GRIDS)
    kept = gradients(mot, mot(row))
    for layer in mot.layers:
        layer.recomputes = True
    recomputed = gradients(mot, mot(row))
    for layer in mot.layers:
        layer.recomputes = False
    assert_close(recomputed, kept, rtol=0, atol=0)


@torch.no_grad()
def test_clips_of_a_row_do_not_meet(mot):
    row, clips = row_of(GRIDS)
    together = row.layout.unpatchify(mot(row))
    for velocity, grid, (audio, image, zt, t) in zip(together, GRIDS, clips, strict=True):
        assert_close(
            velocity,
            mot.velocity(zt, t, mot.condition(audio, image, grid), grid),
            atol=1e-5,
            rtol=1e-5,
        )


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made within."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            self.size = max(self.size, value.numel() if isinstance(value, torch.Tensor) else 0)
        return result


def test_nothing_grows_faster_than_the_row(mot):
    sizes = []
    for latent_frames in (40, 80):
        row, _ = row_of([TokenGrid(n, 3, 4, 2, 2) for n in (latent_frames, latent_frames // 2)])
        with Largest() as largest:
            mot(row).sum().backward()
        sizes.append(largest.size)
        assert largest.size < row.layout.num_tokens**2 / 10
    assert sizes[1] < 2.1 * sizes[0]


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_of_a_row_are_the_row(mot, count, monkeypatch):
    """Each process's part, with keys and values of the others given rather than gathered."""
    row, _ = row_of(GRIDS)
    whole, total, seen = mot(row), sum(row.layout.video_lengths), []
    gather = attention.Spans.generate

    def remember(spans, q, k, v, known):
        seen.append((k, v))
        return gather(spans, q, k, v, known)

    with monkeypatch.context() as patch:
        patch.setattr(attention.Spans, "generate", remember)
        mot(row)
    parts = []
    for index in range(count):
        layers = iter(seen)
        monkeypatch.setattr(
            SequenceShare, "gather", lambda share, k, v, layers=layers: next(layers)
        )
        share = SequenceShare(index, count, total, group=None)
        assert sum(share.lengths(row.layout.video_lengths)) == share.span.stop - share.span.start
        parts.append(mot(row_of(GRIDS, share=share)[0]))
    assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert list(accumulate(part.shape[1] for part in parts))[-1] == total
