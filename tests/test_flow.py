"""Eq. 1-4 as round trips, and the times that training draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from flowportrait import flow


@settings(deadline=None)
@given(st.floats(0, 1))
def test_velocity_leads_back_to_both_ends(t):
    rng = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, 2, 3, 4, generator=rng, dtype=torch.float64)
    zt, v = flow.interpolate(z0, z1, t), flow.target_velocity(z0, z1)
    assert_close(flow.predict_z0(zt, v, t), z0, atol=1e-14, rtol=0)
    assert_close(flow.predict_z1(zt, v, t), z1, atol=1e-14, rtol=0)


def test_zero_is_data_and_one_is_noise():
    z0, z1 = torch.randn(2, 5)
    assert torch.equal(flow.interpolate(z0, z1, 0.0), z0)
    assert torch.equal(flow.interpolate(z0, z1, 1.0), z1)


def test_times_per_latent_frame():
    t = torch.tensor([[0.0, 0.5, 1.0]])
    z0, z1 = torch.randn(2, 1, 4, 3, 2, 2)
    zt = flow.interpolate(z0, z1, flow.over_latents(t))
    assert torch.equal(zt[:, :, 0], z0[:, :, 0]) and torch.equal(zt[:, :, 2], z1[:, :, 2])


@pytest.mark.parametrize("shift", [1.0, 3.0, 4.0])
def test_shift_keeps_ends_and_order(shift):
    t = flow.shift_time(torch.linspace(0, 1, 11, dtype=torch.float64), shift)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all()
    assert_close(t[5].item(), shift * 0.5 / (1 + (shift - 1) * 0.5))


def test_drawn_times_are_logit_normal():
    rng = torch.Generator().manual_seed(0)
    t = flow.draw_times((20_000,), shift=1.0, generator=rng)
    logit = torch.logit(t)
    assert abs(logit.mean()) < 0.03 and abs(logit.std() - 1) < 0.03
    again = flow.draw_times((20_000,), shift=3.0, generator=torch.Generator().manual_seed(0))
    assert_close(again, flow.shift_time(t, 3.0))
    assert again.min() > 0 and again.max() < 1
