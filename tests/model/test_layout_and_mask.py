"""Tokens, positions and who sees whom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowportrait.model.layout import TokenGrid, latent_frames_for
from flowportrait.model.mask import Attend, allowed, portrait_splits

counts = st.integers(1, 4)


def test_paper_token_rate():
    """§3.1's sizes: 384 px, stride 8, patch 2, 24 fps, temporal stride 4 give 3,456 tokens a
    second.
    """
    assert TokenGrid(latent_frames=151, rows=24, cols=24).tokens_per_second == 3456


@settings(deadline=None)
@given(counts, counts, counts)
def test_patchify_round_trip(latent_frames, rows, cols):
    grid = TokenGrid(latent_frames, rows, cols)
    latents = torch.randn(2, 3, latent_frames, 2 * rows, 2 * cols)
    tokens = grid.patchify(latents)
    assert tokens.shape == (2, grid.num_video_tokens, 12)
    assert torch.equal(grid.unpatchify(tokens), latents)


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 2), (5, 2), (6, 3), (97, 25)])
def test_latent_frames_for(frames, expected):
    assert latent_frames_for(frames) == expected
    assert TokenGrid(expected, 1, 1).num_frames >= frames
    assert expected == 1 or TokenGrid(expected - 1, 1, 1).num_frames < frames


def test_positions_are_centres_in_time():
    """In an opening window latent frame 0 is frame 0 and latent frame k covers frames 4k-3 ..
    4k.
    """
    grid = TokenGrid(3, 2, 2)
    assert grid.audio_positions(24).tolist() == list(range(9))
    assert grid.latent_positions(24).tolist() == [0, 2.5, 6.5]
    assert TokenGrid(3, 2, 2, opening=False).latent_positions(24).tolist() == [1.5, 5.5, 9.5]
    assert grid.video_positions(24).tolist() == [0] * 4 + [2.5] * 4 + [6.5] * 4


def test_bagel_unit_is_one_position_per_latent_frame():
    steps = TokenGrid(5, 1, 1).latent_positions(6).diff()
    assert steps[1:].tolist() == [1, 1, 1]


def test_image_stands_before_the_window():
    assert TokenGrid(2, 1, 1, image_rows=2, image_cols=3).image_positions().tolist() == [-1.0] * 6


@settings(deadline=None)
@given(counts, counts, counts)
def test_mask_is_the_table_of_the_paper(num_audio, num_image, num_video):
    sees = {("a", "a"), ("i", "a"), ("i", "i"), ("v", "a"), ("v", "i"), ("v", "v")}
    kinds = "a" * num_audio + "i" * num_image + "v" * num_video
    mask = allowed([portrait_splits(num_audio, num_image, num_video)])
    for row, query in enumerate(kinds):
        for col, key in enumerate(kinds):
            assert bool(mask[row, col]) == ((query, key) in sees)


def test_packed_samples_do_not_see_each_other():
    one, two = portrait_splits(2, 1, 3), [(2, Attend.CAUSAL), (3, Attend.NOISE), (2, Attend.FULL)]
    mask = allowed([one, two])
    assert torch.equal(mask[:6, :6], allowed([one])) and torch.equal(mask[6:, 6:], allowed([two]))
    assert not mask[:6, 6:].any() and not mask[6:, :6].any()


def test_noise_is_hidden_from_later_splits():
    mask = allowed([[(2, Attend.CAUSAL), (2, Attend.NOISE), (1, Attend.FULL)]])
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
