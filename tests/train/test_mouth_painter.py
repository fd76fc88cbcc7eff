"""The painter of mouths: patches in the skull's frame, a run that resumes exactly, and a model that
generates.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowportrait.codecs.mouth import pixel_places
from flowportrait.codecs.mouth_net import SIZE, MouthNet, SkullFrame, lip_maps
from flowportrait.data.sources import load_sources
from flowportrait.modeldir import load_parts
from flowportrait.registry import MODELS_DIR
from flowportrait.train.tiny import mouth
from flowportrait.train.tiny.mouth_patches import STRETCH, MouthPatches

SHORT = [
    "run.log_every=1",
    "run.checkpoint_every=2",
    "run.sample_every=4",
    "num_stretches=1",
    "num_frames=2",
]


def face(shift=(0.0, 0.0), gap=0.08):
    """68 points of which eye corners, nose and lips matter."""
    points = torch.zeros(1, 68, 2)
    points[0, 36], points[0, 45] = torch.tensor([-0.4, -0.3]), torch.tensor([0.4, -0.3])
    points[0, 33] = torch.tensor([0.0, 0.1])
    for first, last, height, half in ((48, 54, 0.08, 0.24), (60, 64, gap / 2, 0.2)):
        upper = torch.arange(first, last + 1)
        lower = {48: [48, 59, 58, 57, 56, 55, 54], 60: [60, 67, 66, 65, 64]}[first]
        x = torch.linspace(-1, 1, len(upper))
        arch = height * (1 - x.square())
        points[0, upper] = torch.stack([half * x, 0.35 - arch], -1)
        points[0, lower] = torch.stack([half * x, 0.35 + arch], -1)
    return points + torch.tensor(shift)


def test_a_patch_is_laid_where_it_was_cut():
    picture = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(picture, (400, 400), mode="bicubic")
    frame = SkullFrame.of(face())
    laid = frame.lay(frame.cut(picture), pixel_places(400, 400, picture.device))
    inside = frame.lay(torch.ones(1, 1, *SIZE), pixel_places(400, 400, picture.device)) > 0.999
    assert 0.03 < inside.float().mean() < 0.2
    missed = (laid - picture).abs()[inside.expand(-1, 3, -1, -1)]
    assert missed.max() < 0.05


def test_lip_maps_follow_the_skull_and_not_the_picture():
    maps = [lip_maps(SkullFrame.of(points), points) for points in (face(), face(shift=(0.2, -0.1)))]
    torch.testing.assert_close(*maps, atol=1e-3, rtol=0)
    wide, closed = (
        lip_maps(SkullFrame.of(points), points)[:, 0].sum()
        for points in (face(gap=0.12), face(gap=0.0))
    )
    assert closed < 0.3 * wide


def test_a_new_painter_changes_nothing_and_none_touches_what_is_far_from_the_lips():
    points = face()
    shown = torch.rand(1, 3, *SIZE) * 2 - 1
    maps = lip_maps(SkullFrame.of(points), points)
    net = MouthNet()
    patch = net(shown, maps, shown, maps)
    torch.testing.assert_close(shown * (1 - patch[:, 3:]) + patch[:, :3], shown)
    torch.manual_seed(0)
    torch.nn.init.normal_(net.leave.weight)
    patch = net(shown, maps, shown, maps)
    changed = (shown * (1 - patch[:, 3:]) + patch[:, :3] - shown).abs().amax(1)
    assert changed.max() > 0.1
    assert changed[:, :2].max() < 0.01 and changed[..., :2].max() < 0.01, "the border of the patch"


def test_patches_of_a_clip_show_the_same_mouth_in_both(tmp_path):
    clips = [
        c for c in load_sources(world=MODELS_DIR.parent / "samples" / "world") if c.split == "train"
    ][:1]
    codec = load_parts("tiny", ("codec",), "cpu")[1]["codec"]
    cut = MouthPatches.build(tmp_path / "patches", clips, codec, seed=0, log=lambda *a, **k: None)
    assert (
        cut.shown.shape == cut.true.shape == (len(cut.split), STRETCH, *SIZE, 3)
        and len(cut.split) >= 2
    )
    off = np.abs(cut.shown.astype(int) - cut.true)
    assert off.mean() < 12, "the codec's frames are near the true ones"
    assert np.abs(cut.shown[:1].astype(int) - cut.true[-1:]).mean() > off[0].mean()
    again = MouthPatches.build(tmp_path / "patches", clips, codec, seed=0)
    assert np.array_equal(again.shown, cut.shown)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes recipes of runs on patches of noise."""
    rng = np.random.default_rng(0)
    pictures = lambda *shape: rng.integers(0, 256, (*shape, *SIZE, 3), dtype=np.uint8)  # noqa: E731
    points = np.repeat(face().numpy()[:, None], STRETCH, 1)
    pool = MouthPatches(
        pictures(2, STRETCH),
        pictures(2, STRETCH),
        np.repeat(points, 2, 0),
        pictures(2),
        points.repeat(2, 0)[:, 0],
        ["train", "held_out"],
    )
    monkeypatch.setattr(mouth.MouthDataConfig, "pools", lambda self, seed: [pool])

    def write(name, **lines):
        path = tmp_path / f"{name}.toml"
        text = "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in lines.items())
        path.write_text(
            f'{text}[run]\ndirectory = "{tmp_path / name}"\nnum_updates = 4\n[data]\ncache ='
            f' "{tmp_path}"\n[optimizer]\ndecay_from = 2.0\nlearning_rate = 0.001\n[loss]\ncritic ='
            " 0.03\nfeatures = 0.5\n"
        )
        return path

    return write


def test_a_stopped_run_goes_on_to_the_same_weights_and_its_model_generates(recipe, tmp_path):
    path = recipe("stopped")
    mouth.train(path, [*SHORT, "run.num_updates=2"], resume=None)
    resumed = mouth.train(path, SHORT, resume="auto")
    whole = mouth.train(recipe("whole"), SHORT, resume=None)
    weights, same = (load_file(run / "mouth.safetensors") for run in (resumed, whole))
    assert all(torch.equal(weights[name], same[name]) for name in same)
    spec, parts = load_parts(whole / "model", ("codec",), "cpu")
    assert spec.codec["native_mouth"] and spec.codec["gaze"]
    assert torch.equal(parts["codec"].mouth_net.leave.weight, same["leave.weight"])
    further = mouth.train(
        recipe("further", start_from=whole), [*SHORT, "run.num_updates=1"], resume=None
    )
    assert (further / "mouth.safetensors").exists()
