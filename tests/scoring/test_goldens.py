"""Classic metrics against numbers made by the authors' own code (tests/golden/scorers)."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flowportrait.encoders.cepstra import mfcc
from flowportrait.scoring.metrics import frechet, jitter, lse, networks, perceptual, pixel, raft

models = pytest.importorskip("torchvision.models")
GOLDEN = Path(__file__).parents[1] / "golden" / "scorers"
RAFT = Path(__file__).parents[3] / "shared" / "weights" / "raft-small.pth"


def golden(name):
    """A file of numbers."""
    path = GOLDEN / name
    return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)


spec = importlib.util.spec_from_file_location("recipes", GOLDEN / "recipes.py")
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


@pytest.fixture(scope="module")
def made():
    return recipes.synth_video()


@pytest.fixture(scope="module")
def truth():
    return recipes.synth_video(shift=0.25)


@pytest.mark.parametrize(
    "window, key", [("uniform", "sk_default_rgb_u8"), ("gaussian", "sk_gauss_rgb_u8")]
)
def test_ssim(made, truth, window, key):
    for pair in golden("ssim_psnr.json")["pairs"]:
        t = pair["t"]
        expected = next(value for name, value in pair.items() if name.startswith(key))
        assert pixel.ssim(made[[t]], truth[[t]], window)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "window, key", [("uniform", "sk_default_gray"), ("gaussian", "sk_gauss_gray")]
)
def test_ssim_of_grey(made, truth, window, key):
    for pair in golden("ssim_psnr.json")["pairs"]:
        t = pair["t"]
        expected = next(value for name, value in pair.items() if name.startswith(key))
        got = pixel.ssim(pixel.grey(made[[t]]), pixel.grey(truth[[t]]), window)[0]
        assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("level, spread", [(0, 2), (3, 1), (128, 1), (254, 1), (100, 60)])
def test_ssim_under_the_gaussian_window_is_exact_on_flat_and_dark_pictures(level, spread):
    """Against the definition in whole numbers and double, window by window."""
    rng = np.random.default_rng(level)
    a, b = np.clip(level + rng.integers(0, spread + 1, (2, 1, 15, 14, 1)), 0, 255).astype(np.uint8)
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    values = []
    for row in range(5):
        for column in range(4):
            x, y = (
                z[0, row : row + 11, column : column + 11, 0].astype(np.float64) for z in (a, b)
            )
            mean_x, mean_y = (kernel * x).sum(), (kernel * y).sum()
            dx, dy = x - mean_x, y - mean_y
            c1, c2 = 2.55**2, 7.65**2
            top = (2 * mean_x * mean_y + c1) * (2 * (kernel * dx * dy).sum() + c2)
            values.append(
                top / ((mean_x**2 + mean_y**2 + c1) * ((kernel * (dx**2 + dy**2)).sum() + c2))
            )
    assert pixel.ssim(a, b, "gaussian")[0] == pytest.approx(np.mean(values), abs=1e-12)


def test_means_of_many_float32_rows_are_taken_in_double():
    rows = (100 + np.random.default_rng(0).normal(0, 1, (200_000, 2))).astype(np.float32)
    got = frechet.frechet_distance(rows, rows[:50_000] + np.float32(1))
    expected = frechet.frechet_distance(
        rows.astype(np.float64), (rows[:50_000] + np.float32(1)).astype(np.float64)
    )
    assert got == pytest.approx(expected, abs=1e-9)


def test_psnr(made, truth):
    video = golden("ssim_psnr.json")["video"]
    errors = pixel.squared_error(made, truth)
    frames = [pixel.psnr_db(error) for error in errors]
    assert frames[0] == float("inf") and frames[1:] == pytest.approx(
        video["psnr_frames"][1:], abs=1e-6
    )
    assert pixel.psnr_db(errors.mean()) == pytest.approx(video["psnr_of_mean_mse"], abs=1e-6)


@pytest.mark.parametrize("name, seed", [("alex", 31), ("squeeze", 33)])
def test_lpips(made, truth, name, seed):
    trunk = getattr(models, perceptual._CONSTRUCTORS[name])(weights=None).features
    trunk.load_state_dict(recipes.fill_state_dict(trunk.state_dict(), seed))
    network = perceptual.Lpips(name, trunk)
    for t in (0, 20):
        expected = golden("lpips.json")[name][f"synth_t{t}"]["value"]
        assert float(network(made[[t]], truth[[t]])[0]) == pytest.approx(expected, rel=1e-5)


def test_lpips_vgg(made, truth):
    trunk = models.vgg.make_layers(models.vgg.cfgs["D"])
    trunk.load_state_dict(recipes.fill_state_dict(trunk.state_dict(), 32))
    expected = golden("lpips.json")["vgg"]["synth_t5"]["value"]
    assert float(perceptual.Lpips("vgg", trunk)(made[[5]], truth[[5]])[0]) == pytest.approx(
        expected, rel=1e-5
    )


READINGS = {
    "A_pixel_ratio_then_mean": "pixels",
    "B_ratio_of_means": "means",
    "C_global_l2_ratio": "norms",
}


@pytest.mark.skipif(not RAFT.is_file(), reason="../shared/weights/raft-small.pth is not there")
@pytest.mark.parametrize("case, shift", [("synth_va_T12", 0.0), ("synth_vb_T12", 0.25)])
def test_raft_jitter(case, shift):
    frames, expected = recipes.synth_video(shift=shift)[:12], golden("raft_jitter.json")[case]
    flows = torch.cat(
        list(raft.flows_between(raft.load_raft(RAFT, "small"), [frames[:5], frames[5:]]))
    )
    assert flows.norm(dim=1).mean((1, 2)).tolist() == pytest.approx(expected["mean_mag"], rel=5e-4)
    assert flows.mean((2, 3)).numpy() == pytest.approx(
        np.array(expected["mean_u"]), rel=2e-3, abs=1e-4
    )
    for epsilon in ("1e-08", "1e-06", "0.001", "0.01", "1"):
        for key, reading in READINGS.items():
            got = jitter.jitter(flows, reading, float(epsilon)).numpy()
            stored = np.array(expected[f"eps={epsilon}"][key])
            assert got.mean() == pytest.approx(stored.mean(), rel=5e-4)
            # One pixel that moves by less than 1e-5 px decides the pixels' mean ratio of a frame
            # where epsilon does
            # not: the authors' network in float64 is 9e-4 from their own float32 numbers there.
            decided_by_rounding = reading == "pixels" and float(epsilon) < 1e-4
            assert got == pytest.approx(stored, rel=5e-3 if decided_by_rounding else 5e-4)
    if case == "synth_va_T12":
        for index, stored in enumerate(
            golden("clips.npz")[f"synth_flow{index}"] for index in (0, 1)
        ):
            off = np.abs(flows[index, :, ::8, ::8].numpy() - stored)
            assert off.max() < 2e-3 and off.mean() < 1e-4


@pytest.mark.skipif(not RAFT.is_file(), reason="../shared/weights/raft-small.pth is not there")
def test_flow_is_as_exact_as_torchvisions(made):
    """Against torchvision in float64: fewer operations must not cost digits."""
    frames = made[:3]
    ours = torch.cat(list(raft.flows_between(raft.load_raft(RAFT, "small"), [frames])))
    network = models.optical_flow.raft_small(weights=None)
    network.load_state_dict(
        raft.from_princeton(torch.load(RAFT, map_location="cpu", weights_only=True))
    )
    theirs = {
        kind: _flows_of(network.eval().to(kind), frames, kind)
        for kind in (torch.float32, torch.float64)
    }
    exact = theirs[torch.float64]
    assert (ours - exact).std() < 2 * (theirs[torch.float32] - exact).std() + 5e-6


def _flows_of(network, frames, kind):
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).to(kind) / 127.5 - 1
    part = sys.modules[type(network).__module__]
    grid = part.make_coords_grid
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        # torchvision makes its grid in float32 whatever the network is in.
        patch.setattr(part, "make_coords_grid", lambda *a, **k: grid(*a, **k).to(kind))
        torch.set_default_dtype(kind)
        try:
            return network(x[:-1], x[1:], num_flow_updates=12)[-1]
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not RAFT.is_file(), reason="../shared/weights/raft-small.pth is not there")
def test_raft_says_little_moves_in_a_still_clip(made):
    flows = torch.cat(list(raft.flows_between(raft.load_raft(RAFT, "small"), [made[[0] * 6]])))
    expected = golden("raft_jitter.json")["synth_static_T6"]["mean_mag"]
    assert flows.norm(dim=1).mean((1, 2)).tolist() == pytest.approx(expected, rel=5e-4)
    assert jitter.jitter(flows, "means", 1e-8).tolist() == [0.0] * 4


def test_mfcc():
    stored = golden("mfcc.npz")
    assert mfcc(stored["speech"]) == pytest.approx(stored["speech_mfcc"], abs=1e-6)
    assert mfcc(recipes.synth_audio()) == pytest.approx(stored["tone_mfcc"], abs=1e-6)
    lengths = {400: 1, 401: 2, 560: 2, 561: 3, 640: 3, 16000: 99, 16001: 99}
    assert {n: len(mfcc(np.ones(n, np.int16))) for n in lengths} == lengths
    # Sound in [-1, 1] would shift the energy by 2 ln 32768 and change every LSE unseen.
    with pytest.raises(TypeError):
        mfcc(recipes.synth_audio() / 32768)


def test_syncnet_embeddings(made):
    network = lse.SyncNet()
    state = recipes.fill_state_dict(network.state_dict(), 2024)
    state |= {name: torch.from_numpy(value) for name, value in golden("syncnet_bn.npz").items()}
    network.load_state_dict(state)
    assert sum(parameter.numel() for parameter in network.parameters()) == 13_631_616
    stored = golden("syncnet_synth.npz")
    lips, sounds = lse.embeddings(network.eval(), [made[:3], made[3:8]], recipes.synth_audio())
    for got, expected in ((lips, stored["lip_feat"]), (sounds, stored["aud_feat"])):
        # The authors' own float32 is 1e-5 from float64 here.
        assert np.abs(got.numpy() - expected).max() < 5e-5 * np.abs(expected).max()


def test_lse_of_a_synthetic_clip(made):
    """By the authors' code on the same random weights, with fewer shifts and without zeros beyond
    the ends.
    """
    network = lse.SyncNet()
    network.load_state_dict(
        recipes.fill_state_dict(network.state_dict(), 2024)
        | {name: torch.from_numpy(value) for name, value in golden("syncnet_bn.npz").items()}
    )
    lips, sounds = lse.embeddings(network.eval(), [made], recipes.synth_audio())
    for found, offset, confidence, distance in (
        (lse.lse(lips, sounds), 15, 2.182361602783203, 44.148292541503906),
        (lse.lse(lips, sounds, reach=10), 10, 1.1734886169433594, 45.587127685546875),
        (lse.lse(lips, sounds, padding="valid"), -5, 0.42193126996358643, 47.5266495513916),
    ):
        assert (found.offset, found.num_windows) == (offset, 55)
        assert found.distance == pytest.approx(distance, rel=1e-3)
        assert found.confidence == pytest.approx(confidence, rel=1e-3)


@pytest.mark.parametrize(
    "trap, offset, confidence, distance",
    [
        ("float audio", 15, 3.6316604614257812, 52.23479080200195),
        ("RGB order", 15, 0.8463897705078125, 94.55564880371094),
    ],
)
def test_lse_of_known_mistakes(made, trap, offset, confidence, distance, monkeypatch):
    """What the authors' code says when it is given sound in [-1, 1], or red and blue exchanged."""
    network = lse.SyncNet()
    network.load_state_dict(
        recipes.fill_state_dict(network.state_dict(), 2024)
        | {name: torch.from_numpy(value) for name, value in golden("syncnet_bn.npz").items()}
    )
    if trap == "float audio":
        # Only the energy knows how loud it is; `mfcc` itself refuses such sound.
        quieter = np.array([2 * np.log(32768), *[0] * 12])
        monkeypatch.setattr(lse, "mfcc", lambda samples: mfcc(samples) - quieter)
    else:
        made = made[..., ::-1]
    found = lse.lse(*lse.embeddings(network.eval(), [made], recipes.synth_audio()))
    assert found.offset == offset
    assert (found.confidence, found.distance) == pytest.approx((confidence, distance), rel=1e-3)


@pytest.mark.parametrize("case", ["audio_lags_by_3", "audio_leads_by_4", "aligned"])
def test_lse(case):
    stored, expected = golden("syncnet_pdist.npz"), golden("syncnet_pdist.json")[case]
    lips, sounds = (torch.from_numpy(stored[f"{case}_{side}"]) for side in ("lip", "aud"))
    found = lse.lse(lips, sounds)
    assert (found.offset, found.num_windows) == (expected["offset"], 80)
    assert found.distance == pytest.approx(expected["LSE_D"], rel=1e-5)
    assert found.confidence == pytest.approx(expected["LSE_C"], rel=1e-5)
    # Without the zeros beyond the ends the right shift is still the nearest.
    assert lse.lse(lips, sounds, padding="valid").offset == expected["offset"]


@pytest.mark.parametrize("case, rel", [("well_N200_D8", 1e-8), ("rank_deficient_N20_D64", 1e-6)])
def test_frechet_distance(case, rel):
    stored, expected = golden("frechet.npz"), golden("frechet_fvd.json")[case]
    got = frechet.frechet_distance(stored[f"{case}_x"], stored[f"{case}_y"])
    assert got == pytest.approx(expected["cdfvd torch frechet_distance float64"], rel=rel)


def test_fid_by_frame_and_by_video():
    stored = golden("frechet.npz")
    expected = golden("frechet_fvd.json")["fid_pooling_toy"]
    by_frame, by_video = frechet.Fid(frechet.Fid.Config(pool="frame")), frechet.Fid()
    frames = by_frame.compare(list(stored["fid_V"]), list(stored["fid_W"]))
    videos = by_video.compare(
        [v.mean(0, keepdims=True) for v in stored["fid_V"]],
        [w.mean(0, keepdims=True) for w in stored["fid_W"]],
    )
    assert frames.value == pytest.approx(expected["frame_level (pool all frames)"], rel=1e-8)
    assert videos.value == pytest.approx(
        next(v for k, v in expected.items() if k.startswith("video_level")), rel=1e-8
    )
    assert videos.parts["vectors"] == 12 and videos.parts["dimensions"] == 6 and not videos.warnings
    few = by_video.compare(list(stored["fid_V"][:3, :1]), list(stored["fid_W"][:3, :1]))
    assert "singular" in few.warnings[0]


def test_r3d18_features(made, truth):
    network, stored = networks.r3d18(), golden("r3d18.npz")
    state = recipes.fill_state_dict(network.state_dict(), 77)
    state |= {
        name[3:]: torch.from_numpy(stored[name]) for name in stored.files if name.startswith("bn_")
    }
    network.load_state_dict(state)
    pieces = np.stack(
        [video[start : start + 16] for video in (made, truth) for start in (0, 8, 16, 24)]
    )
    got = networks.r3d18_features(network.eval(), pieces, square=False)
    assert np.abs(got - stored["features"]).max() < 1e-4 * np.abs(stored["features"]).max()
    distance = frechet.frechet_distance(got[:4], got[4:])
    assert distance == pytest.approx(
        golden("frechet_fvd.json")["r3d18"]["fd_first4_vs_last4"], rel=1e-4
    )
    # A square picture in the middle of a wide one is all that `square` looks at, as it is.
    wide = np.pad(pieces[:1], [(0, 0), (0, 0), (0, 0), (40, 40), (0, 0)])
    square = networks.r3d18_features(network, pieces[:1], square=True)
    assert networks.r3d18_features(network, wide, square=True) == pytest.approx(square, rel=1e-6)
    assert np.abs(square - got[:1]).max() > 0.01 * np.abs(got).max()


def test_inception_features():
    """Against the features of torch-fidelity's Inception with the same weights and input."""
    network = networks.inception()
    network.load_state_dict(recipes.fill_state_dict(network.state_dict(), 5))
    x = torch.from_numpy(recipes.synth_video(T=1, H=299, W=299)).permute(0, 3, 1, 2).float()
    expected = golden("inception.npz")["features"]
    for tried in (network.eval(), networks.folded(network)):
        assert (
            np.abs(networks.pooled(tried, (x - 128) / 128) - expected).max()
            < 1e-5 * np.abs(expected).max()
        )
