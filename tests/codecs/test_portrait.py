"""The portrait codec: layout, causality, chunks, and motion that is read back whatever is drawn
beside it.
"""

import pytest
import torch

from flowportrait.codecs.motion import (
    GROUP,
    LandmarkFlow,
    MotionBasis,
    cosine_transform,
    gather_from_grid,
    spread_over_grid,
)
from flowportrait.codecs.mouth import mouth_map, pixel_places
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.faces.landmarker import PointRefiner
from flowportrait.faces.landmarks import POINTS

CONFIG = PortraitCodec.Config(
    width=32,
    num_heads=2,
    portrait_depth=1,
    landmarker_widths=(8, 8, 16),
    decoder_depth=1,
    control=32,
    size_px=64,
)


@pytest.fixture(scope="module")
def codec():
    """Random weights, and components of motion that were fitted to random movements."""
    torch.manual_seed(0)
    codec = PortraitCodec(CONFIG).eval()
    codec.motion.fit(torch.randn(200, GROUP, POINTS, 2) * 0.1)
    torch.nn.init.normal_(codec.painter.flow.weight, std=0.1)
    return codec


@pytest.fixture(scope="module")
def frames():
    return torch.rand(2, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_cosine_transform_is_orthonormal_and_starts_with_the_mean():
    cosines = cosine_transform()
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(GROUP))
    torch.testing.assert_close(cosines[0], torch.full((GROUP,), 0.5))


def test_movements_of_few_components_come_back_and_have_unit_variance():
    rng = torch.Generator().manual_seed(2)
    made_of = torch.randn(12, POINTS * 2, generator=rng)
    moves = (0.1 * torch.randn(500, GROUP, 12, generator=rng) @ made_of).unflatten(-1, (POINTS, 2))
    motion = MotionBasis(64)
    assert motion.fit(moves) > 0.9999
    parts = motion.parts_of(moves[None])
    torch.testing.assert_close(motion.moves_of(parts)[0], moves, atol=1e-4, rtol=1e-4)
    assert parts[..., :12].square().mean() == pytest.approx(1, rel=0.01)


def test_what_is_spread_over_the_grid_is_gathered_and_noise_beside_it_averages_out():
    parts = torch.randn(2, 5, GROUP, 64, generator=torch.Generator().manual_seed(2))
    latents = spread_over_grid(parts, 16, 16)
    assert latents.shape == (2, 16, 5, 16, 16)
    torch.testing.assert_close(gather_from_grid(latents), parts)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    assert (gather_from_grid(latents + noise) - parts).std() == pytest.approx(
        1 / 4, rel=0.05
    )  # 16 copies


def test_a_token_holds_one_temporal_frequency():
    """Token (row, col) carries frequency 2 (row % 2) + col % 2, so a token is a whole vector of 64
    numbers.
    """
    parts = torch.arange(GROUP).float()[None, None, :, None].expand(1, 1, GROUP, 64)
    tokens = spread_over_grid(parts, 16, 16)[0, 0, 0, ::2, ::2]
    assert tokens[:2, :2].tolist() == [[0, 1], [2, 3]]


def test_the_first_flow_takes_a_shifted_face_back_and_leaves_far_places_alone():
    portrait = (
        torch.rand(1, POINTS, 2, generator=torch.Generator().manual_seed(4)) * 0.4 - 0.6
    )  # upper left
    moves = torch.zeros(1, 1, POINTS, 2)
    moves[..., 0] = 0.1
    flow = LandmarkFlow()(portrait, moves, 32)[0, 0]
    places = pixel_places(32, 32, flow.device)
    near = ((places - torch.tensor([-0.3, -0.4])).norm(dim=-1) < 0.1)[None].expand(2, -1, -1)
    torch.testing.assert_close(
        flow[near].view(2, -1)[0], torch.full((int(near[0].sum()),), -0.1), atol=1e-2, rtol=0
    )
    assert flow[:, -4:, -4:].abs().max() < 1e-3


def test_the_mouth_map_grows_with_the_gap_between_the_lips():
    landmarks = torch.zeros(2, POINTS, 2)
    landmarks[:, 60, 0], landmarks[:, 64, 0] = -0.15, 0.15
    landmarks[1, 61:64, 1], landmarks[1, 65:68, 1] = -0.1, 0.1
    closed, opened = mouth_map(landmarks, 64).sum((1, 2, 3))
    assert 0 < 5 * closed < opened


@torch.inference_mode()
def test_the_first_frame_stands_alone_and_later_frames_change_no_earlier_latent(codec, frames):
    context = codec.prepare(frames[:, :, 0])
    latents = codec.encode(frames, context)
    torch.testing.assert_close(
        codec.encode(frames[:, :, :1], context), latents[:, :, :1], atol=1e-4, rtol=1e-4
    )
    later = frames.clone()
    later[:, :, 5:] = 0
    torch.testing.assert_close(
        codec.encode(later, context)[:, :, :2], latents[:, :, :2], atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(codec.encode(later, context)[:, :, 2], latents[:, :, 2], atol=1e-3)


@torch.inference_mode()
def test_latents_tell_where_the_landmarks_are(codec, frames):
    context = codec.prepare(frames[:, :, 0])
    found = codec.landmarker(frames.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 9))
    told = codec.landmarks_of(codec.encode(frames, context), context.landmarks).flatten(1, 2)[
        :, GROUP - 1 :
    ]
    kept = (
        codec.motion.basis.T @ codec.motion.basis
    )  # a fit to noise keeps only a part of what moved
    expected = context.landmarks[:, None] + (
        (found - context.landmarks[:, None]).flatten(2) @ kept
    ).view_as(found)
    torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_clip_decoded_in_chunks_is_the_clip_decoded_at_once(codec, frames):
    context = codec.prepare(frames[:, :, 0])
    latents = codec.encode(frames, context)
    whole = codec.decode(latents, context)
    assert whole.shape == frames.shape
    pieces = list(codec.decode_stream(latents.split(2, dim=2), context))
    assert len(pieces) > 1
    torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-5, rtol=1e-4)


def test_settling_smooths_the_head_and_leaves_the_rest_and_steady_movement_alone(codec):
    rng = torch.Generator().manual_seed(6)
    parts = torch.randn(1, 6, GROUP, 64, generator=rng)
    settled = codec.motion.settle_head(parts)
    torch.testing.assert_close(settled[..., MotionBasis.HEAD :], parts[..., MotionBasis.HEAD :])
    jumps = [
        codec.motion.moves_of(x).flatten(1, 2).diff(dim=1).square().sum() for x in (settled, parts)
    ]
    assert jumps[0] < jumps[1]
    steady = torch.linspace(0, 0.2, 24).view(1, 6, GROUP, 1) * torch.eye(64)[0]
    steady = codec.motion.parts_of((steady @ codec.motion.basis).unflatten(-1, (POINTS, 2)))
    moves = [
        codec.motion.moves_of(x).flatten(1, 2)[:, 8:-8]
        for x in (codec.motion.settle_head(steady), steady)
    ]
    torch.testing.assert_close(moves[0], moves[1], atol=1e-5, rtol=1e-4)


def test_another_number_of_frames_is_refused(codec, frames):
    with pytest.raises(ValueError, match=r"got 8 frames; give 1 \+ 4 n"):
        codec.encode(frames[:, :, :8], codec.prepare(frames[:, :, 0]))


def test_what_stands_about_a_point_tells_how_far_off_it_is():
    """Features hold the way to one place of the picture, squashed; points learn to go there."""
    torch.manual_seed(0)
    refiner = PointRefiner(channels=2, reach=0.1, hidden=32)
    optimizer = torch.optim.Adam(refiner.parameters(), 1e-2)

    def missed() -> torch.Tensor:
        target = torch.rand(16, 1, 2) - 0.5
        features = torch.tanh(
            2 * (target[:, :, None] - pixel_places(32, 32, target.device))
        ).permute(0, 3, 1, 2)
        points = target + 0.1 * torch.randn(16, POINTS, 2)
        return (points + refiner(features, points) - target).abs().mean()

    before = float(missed().detach())
    for _ in range(60):
        optimizer.zero_grad()
        missed().backward()
        optimizer.step()
    assert float(missed().detach()) < before / 3


def test_a_new_refiner_leaves_points_where_they_are():
    points = torch.randn(2, POINTS, 2)
    assert not PointRefiner(channels=3, reach=0.1)(torch.randn(2, 3, 8, 8), points).any()
