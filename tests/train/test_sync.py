"""The network of sync-small: what it is shown, what its losses ask, and a whole run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowportrait.encoders.sync import MOUTH_PX, as_seen, cut_mouths, mouth_places, shift_profile
from flowportrait.train.tiny import sync
from flowportrait.train.tiny.sync import SyncLossConfig

TOY = [
    "network.lip_width=16", "network.sound.width=16", "network.dim=8", "num_clips=3",
    "num_frames=12", "reach=4", "held_out_clips=2", "run.log_every=1", "run.checkpoint_every=2",
    "run.sample_every=4", "optimizer.decay_from=2.0",
]  # fmt: skip


@pytest.fixture
def recipe(tmp_path, small_world):
    def write(name):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'[run]\ndirectory = "{tmp_path / name}"\nnum_updates = 4\n'
            f'[data]\nworld = "{small_world}"\ncache = "{tmp_path / "cache"}"\n'
        )
        return path

    return write


def test_a_stopped_run_continues_with_the_update_it_would_have_made(recipe):
    sync.train(recipe("stopped"), [*TOY, "run.num_updates=2"], resume=None)
    resumed = sync.train(recipe("stopped"), TOY, resume="auto")
    whole = sync.train(recipe("whole"), TOY, resume=None)
    one, other = (load_file(run / "sync.safetensors") for run in (resumed, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    looked = next(row for row in rows if row.get("event") == "sample")
    assert {
        "world_beats_1",
        "world_beats_5",
        "world_beats_other",
        "world_within_1",
    } <= looked.keys()


def face(count=30, seed=0):
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.uniform(30, 90, (1, 68, 2))).float().repeat(count, 1, 1)
    points[:, 36:42], points[:, 42:48] = torch.tensor([48.0, 52]), torch.tensor([80.0, 52])
    points[:, 31:36], points[:, 48], points[:, 54] = (
        torch.tensor(p) for p in ([64.0, 70], [54.0, 84], [74.0, 84])
    )
    return points


def test_the_mouths_square_follows_the_head_and_not_the_lips():
    still = mouth_places(face())
    speaking = face()
    speaking[:, 55:60, 1] += torch.linspace(0, 12, 30)[:, None]
    speaking[::2, [48, 54], 1] += 3
    assert torch.allclose(mouth_places(speaking)[..., :2], still[..., :2], atol=1e-3)
    assert (mouth_places(speaking)[..., 2].diff(dim=0)).abs().max() < 1e-3, (
        "moves with the corners' median only"
    )
    moved = mouth_places(face() + torch.tensor([5.0, -7.0]))
    assert torch.allclose(
        moved[..., 2] - still[..., 2], torch.tensor([5.0, -7.0]).expand(30, 2), atol=1e-3
    )
    assert torch.allclose(still[0, :, 2], torch.tensor([64.0, 84.0]), atol=1e-3)


def test_a_cut_shows_what_lies_at_its_place():
    rows, columns = np.mgrid[:128, :128]
    frames = torch.from_numpy(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))[None]
    places = torch.tensor([[[20.0, 0.0, 60.5], [0.0, 20.0, 40.5]]])
    cut = cut_mouths(frames, places)[0] * 255
    assert cut.shape == (3, MOUTH_PX, MOUTH_PX)
    across = 60 + 20 * ((torch.arange(MOUTH_PX) + 0.5) * 2 / MOUTH_PX - 1)
    assert torch.allclose(cut[0, 5], across, atol=0.05) and torch.allclose(
        cut[1, :, 9], across - 20, atol=0.05
    )
    outside = cut_mouths(frames, places + torch.tensor([0.0, 0.0, 90.0]))
    assert torch.isfinite(outside).all() and outside[0, 0, 0, -1] * 255 == pytest.approx(
        127, abs=0.1
    )


def test_light_and_contrast_are_not_seen():
    mouths = torch.rand(5, 3, MOUTH_PX, MOUTH_PX)
    assert torch.allclose(as_seen(mouths), as_seen(0.6 * mouths + 0.2), atol=0.15)


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_profile_peaks_where_the_sound_belongs(late):
    sounds = torch.nn.functional.normalize(
        torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    lips, heard = sounds[10:50], sounds[10 - late : 50 - late]  # heard[i + late] belongs to lips[i]
    profile = shift_profile(lips, heard, 6)
    assert int(profile.argmax()) - 6 == late and profile.max() == pytest.approx(1, abs=1e-5)


def test_nothing_may_be_read_from_lips_that_stand_still(recipe, small_world, tmp_path):
    logits = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]])
    assert sync._unevenness(logits) == pytest.approx(0, abs=1e-6)
    assert sync._unevenness(torch.tensor([[3.0, 0.0, 0.0]])) > 0.5
    assert sync._unevenness(torch.zeros(0, 3)) == 0
    assert SyncLossConfig().held_share > 0
