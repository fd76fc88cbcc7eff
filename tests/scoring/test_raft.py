"""RAFT over a clip against torchvision's, called on every pair; Winograd's convolutions against
torch's.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowportrait.scoring.metrics import raft, raft_update, winograd
from flowportrait.scoring.metrics.winograd import Convolution3x3

flow = pytest.importorskip("torchvision.models.optical_flow")
spec = importlib.util.spec_from_file_location(
    "recipes", Path(__file__).parents[1] / "golden" / "scorers" / "recipes.py"
)
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


@pytest.mark.parametrize("batch, height, width", [(1, 32, 32), (3, 9, 14), (2, 70, 300)])
def test_a_convolution_by_windows_of_three_equals_torch(batch, height, width):
    torch.manual_seed(0)
    x, layer = torch.randn(batch, 24, height, width), torch.nn.Conv2d(24, 7, 3, padding=1)
    with torch.inference_mode():
        got, exact = (
            Convolution3x3.of(layer)(x),
            F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1),
        )
        plain = (layer(x) - exact).abs().mean()
    assert got.shape == exact.shape
    assert (got - exact).abs().mean() < 5 * plain


@pytest.mark.parametrize("size, tiles", [("small", 128), ("small", 8), ("large", 128)])
def test_flow_over_a_clip_is_that_of_every_pair(tmp_path, monkeypatch, size, tiles):
    """Random weights move pixels far, also out of the picture, which the windows of the correlation
    must stand; few tiles at once are what large pictures have.
    """
    monkeypatch.setattr(winograd, "_TILES_AT_ONCE", tiles)
    network = getattr(flow, f"raft_{size}")(weights=None)
    torch.save(recipes.fill_state_dict(network.state_dict(), 3), tmp_path / "raft.pth")
    network.load_state_dict(torch.load(tmp_path / "raft.pth"))
    frames = recipes.synth_video(T=4, H=128, W=136, shift=2.0)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        pairs = [network.eval()(x[[i]], x[[i + 1]], num_flow_updates=3)[-1] for i in range(3)]
    expected, own = torch.cat(pairs), raft.load_raft(tmp_path / "raft.pth", size)
    assert expected.abs().max() > 30
    for blocks, batch in (([frames], 2), ([frames[:1], frames[1:3], frames[3:]], 1)):
        got = torch.cat(list(raft.flows_between(own, blocks, iterations=3, batch_pairs=batch)))
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_sides_that_are_no_multiple_of_eight_are_padded_as_the_authors_pad(tmp_path):
    network = flow.raft_small(weights=None)
    torch.save(recipes.fill_state_dict(network.state_dict(), 3), tmp_path / "raft.pth")
    frames = recipes.synth_video(T=2, H=128, W=128)[:, 3:, :-1]
    padded = np.pad(frames, ((0, 0), (1, 2), (0, 1), (0, 0)), mode="edge")
    own = raft.load_raft(tmp_path / "raft.pth", "small")
    got, whole = (
        next(raft.flows_between(own, [shown], iterations=2)) for shown in (frames, padded)
    )
    assert got.shape == (1, 2, 125, 127) and torch.equal(got, whole[..., 1:-2, :-1])


def test_no_number_is_left_on_another_device():
    """All of it on a device without numbers: what lies elsewhere would not mix with it."""
    from torchvision.models.optical_flow import raft_small

    with torch.device("meta"):
        network = raft_small(weights=None, progress=False)
    raft._quicken(network)
    network = network.eval().requires_grad_(False)
    frames = torch.empty(3, 3, 128, 128, device="meta")
    encoded = raft._Encoded(network.feature_encoder(frames), network.context_encoder(frames))
    flow = raft._flow(network, raft_update.SmallUpdate(network), encoded, iterations=2)
    assert flow.device.type == "meta" and flow.shape == (2, 2, 128, 128)
