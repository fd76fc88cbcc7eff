"""Flow of a framed face: a known motion is found, the head's part is taken away, and plain skin
says nothing.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowportrait.scoring.metrics.optical import face_flow, framed_light, head_flow

SIZE = 64
INNER = (..., slice(8, -8), slice(8, -8))


@pytest.fixture(scope="module")
def texture():
    noise = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (160, 160), mode="bicubic").clamp(0, 1)


def seen(texture, x=0.0, y=0.0, turn=0.0, scale=1.0):
    """The middle of the texture after it has moved by (-x, -y) and turned."""
    down, across = torch.meshgrid(
        torch.arange(SIZE) - 32.0, torch.arange(SIZE) - 32.0, indexing="ij"
    )
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    where = torch.stack(
        [across * cos - down * sin + 80 + x, across * sin + down * cos + 80 + y], -1
    )
    return F.grid_sample(texture, (where * 2 / 159 - 1)[None], align_corners=True)[0, 0]


@pytest.mark.parametrize(("x", "y"), [(0.1, -0.05), (1.0, 0.5), (-4.0, 2.0)])
def test_a_shift_is_found(texture, x, y):
    flow, trust = face_flow(torch.stack([seen(texture), seen(texture, x, y)]))
    assert flow.shape == (1, 2, SIZE, SIZE) and trust.shape == (1, SIZE, SIZE)
    assert torch.allclose(
        flow[0][INNER].mean((1, 2)), torch.tensor([-x, -y]), atol=0.05 * abs(x) + 0.01
    )
    assert (trust >= 0).all() and (trust <= 1).all() and trust[INNER].mean() > 0.8


def test_what_is_plain_has_no_flow_and_no_trust():
    light = torch.full((3, SIZE, SIZE), 0.5)
    flow, trust = face_flow(light)
    assert flow.abs().max() == 0 and trust.max() == 0


def test_the_head_is_taken_away_and_what_moves_by_itself_stays(texture):
    first, second = seen(texture), seen(texture, 0.5, 0.2, 0.03, 1.02)
    brow = (slice(18, 26), slice(20, 44))
    raised = second.clone()
    raised[brow] = seen(texture, 0.5, 2.2, 0.03, 1.02)[brow]
    flow, _ = face_flow(torch.stack([first, raised]))
    own = (flow - head_flow(flow, torch.ones(1, SIZE, SIZE)))[0]
    calm = (slice(None), slice(38, 54), slice(12, -12))
    assert own[calm].norm(dim=0).mean() < 0.3 * flow[0][calm].norm(dim=0).mean()
    assert own[1][brow][2:-2].mean() == pytest.approx(-2, abs=0.5)


def test_frames_become_light_of_one_size():
    frames = np.full((2, 128, 128, 3), 255, np.uint8)
    light = framed_light(frames)
    assert light.shape == (2, 64, 64) and (light == 1).all()
