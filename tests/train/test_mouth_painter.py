"""The painter of mouths: patches in the skull's frame, a run that resumes exactly, and a model that
generates.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowportrait.codecs.canvas import Canvas
from flowportrait.codecs.mouth import pixel_places
from flowportrait.codecs.mouth_net import (
    SIZE,
    MouthLayers,
    MouthNet,
    SkullFrame,
    lip_maps,
    opening_map,
)
from flowportrait.data.sources import load_sources
from flowportrait.modeldir import load_parts
from flowportrait.registry import MODELS_DIR
from flowportrait.train.tiny import mouth
from flowportrait.train.tiny.mouth_patches import FINE, STRETCH, MouthPatches

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


def painted(net, points, size=256, portrait=None):
    """A grey frame of `size` px with the mouth of a portrait whose lips are closed."""
    portrait = face(gap=0.0) if portrait is None else portrait
    canvas = Canvas(torch.zeros(1, 3, size, size))
    frames = torch.zeros(len(points), 3, size, size)
    with torch.inference_mode():
        where, layers = net.paint(frames, points, canvas.pixels, portrait)
        return canvas.lay_layers(frames.clone(), layers, where)


@pytest.mark.parametrize("layered", [True, False])
def test_paint_stays_about_the_lips(layered):
    points = face()
    torch.manual_seed(0)
    net = MouthNet(layered=layered)
    torch.nn.init.normal_(net.leave.weight)
    torch.nn.init.normal_(net.leave.bias)
    changed = painted(net, points)[0].abs().amax(0)
    lips = (points[0, 48:] + 1) / 2 * 256
    (left, top), (right, bottom) = lips.amin(0).int().tolist(), lips.amax(0).int().tolist()
    assert changed[top:bottom, left:right].max() > 0.1
    reach = 12  # pixels
    changed[top - reach : bottom + reach, left - reach : right + reach] = 0
    assert changed.max() < 1e-6


def test_closed_lips_hide_mouth_and_teeth_and_open_ones_show_them():
    net = MouthNet()
    with torch.no_grad():
        net.leave.bias[4 * 3 : 4 * 6] = -1.0  # a black mouth
        net.leave.bias[4 * 6 : 4 * 9] = 1.0  # white teeth
        net.leave.bias[4 * 10 :] = -2.1  # that end in the middle of this mouth
    assert painted(net, face(gap=0.0)).abs().max() < 0.1
    mouth = painted(net, face(gap=0.12))
    assert mouth.max() > 0.95 and mouth.min() < -0.95
    own = painted(net, face(gap=0.12), portrait=face(gap=0.12))
    assert own.abs().max() < 0.05, "the portrait's own teeth are not covered"
    white, black = (mouth[0, 0] > 0.9).nonzero(), (mouth[0, 0] < -0.9).nonzero()
    assert white[:, 0].float().mean() < black[:, 0].float().mean(), "the upper teeth"


@pytest.mark.parametrize("size", [128, 256, 512, 1024])
def test_borders_of_layers_are_a_pixel_wide_at_any_size(size):
    points = face(gap=0.12)
    where = SkullFrame.of(points)
    opening = opening_map(where, points)
    ones = torch.ones_like(opening)
    white = ones.expand(-1, 3, -1, -1)
    layers = MouthLayers(0 * white, white, white, ones, opening, -ones)
    canvas = Canvas(torch.zeros(1, 3, size, size))
    shown = canvas.lay_layers(canvas.pixels.clone(), layers, where)[0, 0]
    column = shown[:, size // 2]
    assert column.max() > 0.99
    edge = ((column > 0.1) & (column < 0.9)).sum() / 2
    assert edge <= 3


def test_a_part_of_the_frame_lies_where_the_whole_has_it():
    frame = SkullFrame.of(face())
    picture = torch.rand(1, 3, 64, 64)
    part = frame.part(slice(20, 60), slice(10, 90))
    torch.testing.assert_close(
        part.cut(picture, (40, 80)), frame.cut(picture)[:, :, 20:60, 10:90], atol=1e-5, rtol=0
    )


def test_patches_of_a_clip_show_the_same_mouth_in_both(tmp_path):
    clips = [
        c for c in load_sources(world=MODELS_DIR.parent / "samples" / "world") if c.split == "train"
    ][:1]
    codec = load_parts("tiny", ("codec",), "cpu")[1]["codec"]
    cut = MouthPatches.build(tmp_path / "patches", clips, codec, seed=0, log=lambda *a, **k: None)
    assert (
        cut.shown.shape == cut.true.shape == (len(cut.split), STRETCH, *FINE, 3)
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
    noise = lambda *shape: rng.integers(0, 256, (*shape, 3), dtype=np.uint8)  # noqa: E731
    points = np.repeat(face().numpy()[:, None], STRETCH, 1)
    pool = MouthPatches(
        noise(2, STRETCH, *FINE),
        noise(2, STRETCH, *FINE),
        np.repeat(points, 2, 0),
        noise(2, *SIZE),
        points.repeat(2, 0)[:, 0],
        np.array([512, 512]),
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
    assert spec.codec["native_mouth"] and spec.codec["mouth_layers"] and spec.codec["gaze"]
    assert torch.equal(parts["codec"].mouth_net.leave.weight, same["leave.weight"])
    further = mouth.train(
        recipe("further", start_from=whole), [*SHORT, "run.num_updates=1"], resume=None
    )
    assert (further / "mouth.safetensors").exists()
