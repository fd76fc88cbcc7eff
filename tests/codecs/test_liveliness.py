"""Blinks and looks at people's rates, and movements as strong as they are wanted."""

import pytest
import torch

from flowportrait.codecs.liveliness import (
    AS_SAMPLED,
    FPS,
    LOWER,
    MOUTH,
    STABLE,
    UPPER,
    LipFactors,
    Strengths,
    at_strengths,
    draw_eye_events,
    lip_gap,
    with_larger_lips,
)
from flowportrait.codecs.motion import MotionBasis
from flowportrait.codecs.portrait import PortraitCodec, PortraitContext
from flowportrait.modeldir import load_parts


@pytest.fixture(scope="module")
def codec() -> PortraitCodec:
    return load_parts("tiny", ("codec",), "cpu")[1]["codec"]


@pytest.fixture(scope="module")
def portrait(codec):
    """The mean face that the landmarker starts from."""
    return codec.landmarker.points.bias.detach().view(1, 68, 2)


def test_people_blink_nineteen_times_a_minute():
    minutes = 20
    close = torch.stack([draw_eye_events(minutes * 60 * FPS // 4, seed).close for seed in range(4)])
    blinks = ((close[:, 1:] >= 1) & (close[:, :-1] < 1)).sum()
    assert float(blinks) / minutes == pytest.approx(19, rel=0.3)


def test_a_longer_clip_begins_like_a_shorter_one():
    short, long = draw_eye_events(200, 3), draw_eye_events(900, 3)
    torch.testing.assert_close(long.close[:200], short.close)
    torch.testing.assert_close(long.look[:200], short.look)


def test_no_strength_is_no_event_and_seeds_differ():
    still = draw_eye_events(500, 1, strength=0.0)
    assert not still.close.any() and not still.look.any()
    assert not torch.equal(draw_eye_events(500, 1).look, draw_eye_events(500, 2).look)


def test_groups_of_a_clip_are_its_frames_in_order():
    events = draw_eye_events(41, 0)
    groups = events.groups(0, 11)
    assert torch.equal(groups.look[0], events.look[:1].expand(4, 2)), (
        "the first latent frame is one frame"
    )
    torch.testing.assert_close(groups.look[1:].flatten(0, 1)[:40], events.look[1:])
    torch.testing.assert_close(events.groups(4, 3).close, groups.close[4:7])


def test_a_blink_survives_the_latents_and_shuts_both_eyes(codec, portrait):
    context = PortraitContext(torch.zeros(1, 3, 128, 128), torch.zeros(1, 16, 16, 160), portrait)
    latents = torch.zeros(1, codec.channels, 30, codec.grid, codec.grid)
    events = draw_eye_events(117, 5)
    assert (events.close >= 1).any()
    settled = codec.settle(latents, context, events.groups(0, 30))
    points = codec.landmarks_of(settled, portrait)[0].flatten(0, 1)[3:]
    gap = (points[:, LOWER] - points[:, UPPER])[..., 1].mean(-1)
    own = (portrait[0, LOWER, 1] - portrait[0, UPPER, 1]).mean()
    assert (gap[events.close[:117] >= 1] < 0.3 * own).all()
    assert (gap[events.close[:117] == 0] > 0.85 * own).float().mean() > 0.9


def test_full_strength_changes_nothing_and_none_stills(codec, portrait):
    moves = (
        torch.randn(1, 5, 4, 12, generator=torch.Generator().manual_seed(0))
        * 0.02
        @ codec.motion.basis[:12]
    )
    moves = moves.unflatten(-1, (68, 2))
    torch.testing.assert_close(at_strengths(moves, portrait, Strengths()), moves, atol=1e-5, rtol=0)
    quiet = at_strengths(moves, portrait, Strengths(head=0))
    assert quiet[..., STABLE, :].square().mean() < 0.4 * moves[..., STABLE, :].square().mean()
    silent = at_strengths(moves, portrait, Strengths(lips=0)) - at_strengths(
        moves, portrait, Strengths(lips=0, head=0)
    )
    torch.testing.assert_close(
        at_strengths(moves, portrait, Strengths(lips=0))[..., MOUTH, :], silent[..., MOUTH, :]
    )


def speaking(portrait, seed=0):
    """Movements [1, 6, 4, 68, 2] of a mouth that opens, spreads and shuts again under a head that
    moves along.
    """
    rng = torch.Generator().manual_seed(seed)
    moves = 0.02 * torch.randn(1, 6, 4, 1, 2, generator=rng).expand(1, 6, 4, 68, 2).clone()
    moves[..., 48:68, :] += 0.1 * torch.rand(1, 6, 4, 1, 1, generator=rng) * portrait[:, 48:68]
    moves[..., [55, 56, 57, 58, 59, 65, 66, 67], 1] += 0.1 * torch.rand(1, 6, 4, 1, generator=rng)
    gap = lip_gap(portrait[:, None, None] + moves)
    moves[:, 2, :, [65, 66, 67], 1] -= gap[:, 2, :, None]  # in the third latent frame they touch
    return moves


def test_larger_lips_open_and_spread_further_and_go_on_touching(codec, portrait):
    moves = speaking(portrait)
    larger = with_larger_lips(moves, portrait, LipFactors(1.5, 1.5))
    others = [*range(17, 48)]
    torch.testing.assert_close(larger[..., others, :], moves[..., others, :])
    before, after = (lip_gap(portrait[:, None, None] + x)[0] for x in (moves, larger))
    touching = before < 1e-4
    assert touching.any() and (after[touching] < 1e-3).all()
    torch.testing.assert_close(
        after[~touching] / before[~touching],
        torch.full_like(before[~touching], 1.8),
        atol=0.1,
        rtol=0,
    )
    width = lambda x: (portrait + x[0].flatten(0, 1)).diff(dim=-2)  # noqa: E731
    assert width(larger).abs().sum() > width(moves).abs().sum()
    torch.testing.assert_close(with_larger_lips(moves, portrait, AS_SAMPLED), moves)
    wider = with_larger_lips(moves, portrait, LipFactors(width=2.0))
    gap = lip_gap(portrait[:, None, None] + wider)[0]
    torch.testing.assert_close(gap, before, atol=0.02, rtol=0.1)
    corners = lambda x: (x[..., 54, 0] - x[..., 48, 0]).std()  # noqa: E731
    assert corners(wider) > 1.5 * corners(moves)


def test_gaze_is_motion_and_no_component():
    motion = MotionBasis(64, gaze=True)
    rng = torch.Generator().manual_seed(2)
    motion.fit(torch.randn(300, 4, 68, 2, generator=rng) * 0.1)
    moves, gaze = (
        torch.randn(1, 3, 4, 68, 2, generator=rng) * 0.1,
        torch.randn(1, 3, 4, 2, generator=rng) * 0.1,
    )
    parts = motion.parts_of(moves, gaze)
    torch.testing.assert_close(motion.gaze_of(parts), gaze, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        motion.moves_of(parts), motion.moves_of(motion.parts_of(moves)), atol=1e-5, rtol=0
    )
