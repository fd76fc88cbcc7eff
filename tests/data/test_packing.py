"""Rows under a token budget: balanced by cost, every clip once an epoch, the same from any place
on.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowportrait.data.packing import Piece, Stream, pack
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.cost import clip_flops, linear_flops
from flowportrait.model.layout import RowLayout, TokenGrid

BAGEL = MoTConfig()


def portrait_clip(seconds):
    """At 384 px, with the 27 x 27 tokens of a 378 px portrait."""
    return TokenGrid(1 + round(6 * seconds), 24, 24, 27, 27)


def pieces(lengths):
    return lambda position: Piece(
        position, lengths[position % len(lengths)], lengths[position % len(lengths)] ** 2
    )


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 1000)
)
def test_rows_hold_the_next_pieces_once_and_keep_the_budget(lengths, num_rows, position):
    rows, following = pack(pieces(lengths), position, num_rows, 100)
    assert sorted(piece for row in rows for piece in row) == list(range(position, following))
    assert all(row and sum(lengths[piece % len(lengths)] for piece in row) <= 100 for row in rows)


def test_clips_of_all_lengths_fill_the_rows_and_cost_the_same():
    rng = np.random.default_rng(0)
    grids = [portrait_clip(seconds) for seconds in rng.uniform(2, 12, 400)]
    cost = lambda position: clip_flops(BAGEL, grids[position % 400])  # noqa: E731
    size = lambda position: RowLayout((grids[position % 400],)).num_tokens  # noqa: E731
    position, filled, spread = 0, [], []
    for _ in range(10):
        rows, position = pack(lambda n: Piece(n, size(n), cost(n)), position, 8, 89_600)
        costs = [sum(map(cost, row)) for row in rows]
        filled.append(sum(size(n) for row in rows for n in row) / (8 * 89_600))
        spread.append(max(costs) / np.mean(costs))
    assert np.mean(filled) > 0.9
    assert max(spread) < 1.1


def test_every_clip_once_an_epoch_in_another_order():
    stream = Stream(7, seed=1)
    epochs = [[stream[epoch * 7 + place] for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [Stream(7, seed=1)[n] for n in range(21)] == [stream[n] for n in range(21)]


def test_what_bagel_costs():
    assert linear_flops(BAGEL) == pytest.approx(13.05e9, rel=1e-3)
    clip = TokenGrid(150, 24, 24, 27, 27)
    assert clip.num_video_tokens == 86_400
    assert clip_flops(BAGEL, clip) == pytest.approx(4.28e15, rel=0.03)
    assert (
        RowLayout((portrait_clip(25),)).num_tokens <= 89_600
    )  # the paper's longest clip, with portrait and sound
