"""sync-small as shipped, on rendered heads of a rig and voices that it was not trained on."""

import math

import numpy as np
import pytest

from flowportrait import media
from flowportrait.errors import CheckpointError
from flowportrait.media import Clip, Sound
from flowportrait.registry import MODELS_DIR
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import sync_small, tracking
from flowportrait.scoring.metrics.sync_small import SyncSmall
from flowportrait.scoring.metrics.view import CandidateView, View
from flowportrait.scoring.reward import Candidate
from flowportrait.scoring.rewards import MetricMeasure, Views

WORLD = MODELS_DIR.parent / "samples" / "world"
KEYS = ("anny_00001_0", "anny_00002_1", "anny_00008_2")


@pytest.fixture(scope="module")
def views():
    return [View(Sample(key, Clip(WORLD / f"{key}.mp4"))) for key in KEYS]


def heard_instead(view, samples):
    """The same face with other sound."""
    track = tracking.track_face(view)
    other = CandidateView(
        Candidate("x", view.frames, view.fps, Sound(samples, 16_000), view.frames[0])
    )
    other.keep("face track", lambda: track)
    return other


def test_the_landmarker_finds_what_was_rendered(views):
    for view, key in zip(views, KEYS, strict=True):
        track = tracking.track_face(view)
        with np.load(WORLD / f"{key}.npz") as truth:
            known = truth["landmarks68"].astype(float)[: len(track.frames)]
        x_y, side = track.squares[:, None, :2], track.squares[:, None, 2:]
        found = x_y + track.landmarks / 128 * side
        eyes = np.linalg.norm(known[:, 36:42].mean(1) - known[:, 42:48].mean(1), axis=-1)
        assert np.abs(found - known).mean() < 0.12 * eyes.mean()


def test_sound_fits_where_it_is_and_not_elsewhere(views):
    margins = {shift: [] for shift in (0, 5, -5)}
    for view in views:
        for shift in margins:
            moved = np.roll(view.sound, round(shift / 24 * 16_000))
            margins[shift].append(SyncSmall().read(heard_instead(view, moved)).value)
    means = {shift: np.mean(values) for shift, values in margins.items()}
    assert means[0] > means[5] + 0.05 and means[0] > means[-5] + 0.05


def test_parts_say_where_the_sound_would_fit_best(views):
    late = SyncSmall().fit(heard_instead(views[0], np.roll(views[0].sound, round(4 / 24 * 16_000))))
    plain = SyncSmall().fit(views[0])
    assert plain.offset in (-1, 0, 1)
    assert late.offset - plain.offset in (-5, -4, -3), "negative where the sound is late"
    reading = SyncSmall().read(views[0])
    assert reading.parts["confidence"] >= reading.value and reading.parts["windows"] >= 30


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_head_that_lies_is_read_turned_upright_and_said_to_lie(views, tmp_path, quarter_turns):
    view, path = views[0], tmp_path / "turned.mp4"
    frames = np.ascontiguousarray(np.rot90(view.frames[:48], quarter_turns, axes=(1, 2)))
    media.write_video(path, frames, 24, view.sound[:32_000], 16_000, {})
    turned = View(Sample("turned", Clip(path)))
    places = tracking.track_face(turned).places
    assert np.abs(places - tracking.track_face(view).places[:48]).mean() < 0.02
    what = "upside down" if quarter_turns == 2 else "on its side"
    assert len(turned.warnings) == 1 and f"the head lies {what}" in turned.warnings[0]
    assert not any("lies" in line for line in view.warnings)


def test_what_cannot_be_scored_has_a_reason(views, tmp_path):
    (silent,) = SyncSmall().score([silent_clip(tmp_path / "silent.mp4", views[0].frames)])
    assert math.isnan(silent.value) and "silent throughout" in silent.reason
    (empty,) = SyncSmall().score(
        [silent_clip(tmp_path / "empty.mp4", np.zeros((12, 64, 64, 3), np.uint8), 0.1)]
    )
    assert "shows a face in 0 of" in empty.reason
    (short,) = SyncSmall().score([silent_clip(tmp_path / "short.mp4", views[0].frames[:12], 0.1)])
    assert "sync-small needs 30" in short.reason


def silent_clip(path, frames, loud=0.0):
    sound = loud * np.random.default_rng(0).standard_normal(
        round(len(frames) / 24 * 16_000)
    ).astype(np.float32)
    media.write_video(path, frames, 24, sound, 16_000, {})
    return Sample(path.stem, Clip(path))


def test_damaged_or_absent_weights_are_an_error(tmp_path, monkeypatch, views):
    with pytest.raises(
        CheckpointError, match="no such file; create it with `flowportrait train sync`"
    ):
        _ = SyncSmall(SyncSmall.Config(weights=tmp_path / "sync.safetensors")).fingerprint
    monkeypatch.setattr(sync_small, "SHIPPED_SHA256", "00")
    with pytest.raises(CheckpointError, match="damaged, not the file that was shipped"):
        _ = SyncSmall().fingerprint


def test_it_is_a_reward(views):
    candidate = Candidate(
        "x", views[0].frames, 24.0, Sound(views[0].sound, 16_000), views[0].frames[0]
    )
    assert MetricMeasure(SyncSmall(), Views())(candidate) == pytest.approx(
        SyncSmall().read(views[0]).value, abs=0.02
    )
    blank = Candidate(
        "y", np.zeros_like(views[0].frames[:12]), 24.0, candidate.sound, candidate.portrait
    )
    assert math.isnan(MetricMeasure(SyncSmall(), Views())(blank))
