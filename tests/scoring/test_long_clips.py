"""Clips that are too long to be kept pass by in blocks: same numbers, little memory, faults where
they belong.
"""

import numpy as np
import pytest

from flowportrait import media
from flowportrait.media import Clip
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import pixel
from flowportrait.scoring.metrics import view as views
from flowportrait.scoring.metrics.metric import FrameMetric, Reading, read_all
from flowportrait.scoring.metrics.view import Unscorable, View

TONE = np.zeros(16_000 * 3, np.float32)


@pytest.fixture
def sample(tmp_path):
    """Fifty frames and a truth of as many, other ones."""
    rng = np.random.default_rng(0)
    for name in ("made", "truth"):
        frames = rng.integers(0, 255, (50, 32, 48, 3)).astype(np.uint8)
        media.write_video(tmp_path / f"{name}.mp4", frames, 25, TONE[: 2 * 16_000], 16_000, {})
    return Sample("clip", Clip(tmp_path / "made.mp4"), Clip(tmp_path / "truth.mp4"))


def counted(monkeypatch):
    """How often a video is opened."""
    opened, read = [], media.read_frames
    monkeypatch.setattr(
        media, "read_frames", lambda path, fps=None: opened.append(path.name) or read(path, fps)
    )
    return opened


def test_a_short_clip_is_decoded_once_and_a_long_one_once_a_passage(sample, monkeypatch):
    metrics = [pixel.Ssim(), pixel.Psnr(), pixel.Sharpness(), pixel.ColourDrift()]
    opened = counted(monkeypatch)
    kept = {score.scorer: score.value for score in read_all([(sample, metrics)])}
    assert sorted(opened) == ["made.mp4", "truth.mp4"]
    monkeypatch.setattr(views, "KEPT_BYTES", 20_000)
    opened.clear()
    passing = {score.scorer: score.value for score in read_all([(sample, metrics)])}
    assert passing == kept and all(np.isfinite(value) for value in kept.values())
    # The frames alone, then the frames with their truth.
    assert sorted(opened) == ["made.mp4", "made.mp4", "truth.mp4"]


def test_blocks_are_the_frames_in_order(sample, monkeypatch):
    whole = View(sample).frames
    assert len(whole) == 50 and np.array_equal(np.concatenate(list(View(sample).blocks())), whole)
    monkeypatch.setattr(views, "KEPT_BYTES", 1)
    view = View(sample)
    for _ in range(2):
        assert [len(block) for block in view.blocks()] == [16, 16, 16, 2]
    made, truth = View(sample).pairs
    assert np.array_equal(made, whole) and truth.shape == whole.shape
    assert len(np.concatenate(list(view.blocks(12.5)))) == 25


class Fussy(FrameMetric):
    name, unit, low, high, better = "fussy", "1", 0.0, 1.0, "higher"

    def values(self, made):
        raise Unscorable("does not like it")

    def conclude(self, values):
        return Reading(1.0)


def test_one_that_cannot_look_leaves_the_others_their_numbers(sample):
    scores = {score.scorer: score for score in read_all([(sample, [Fussy(), pixel.Sharpness()])])}
    assert scores["fussy"].reason == "does not like it" and scores["sharpness"].value > 0


def test_a_truth_of_another_length_is_said_once_for_all(sample, tmp_path):
    frames = np.zeros((10, 32, 48, 3), np.uint8)
    media.write_video(tmp_path / "short.mp4", frames, 25, TONE[:6400], 16_000, {})
    cut = Sample("clip", sample.clip, Clip(tmp_path / "short.mp4"))
    scores = list(read_all([(cut, [pixel.Ssim(), pixel.Psnr(), pixel.Sharpness()])]))
    assert [score.reason for score in scores[:2]] == [
        "lasts 50 frames, its truth 10 at the same frame rate; cut both to the same length"
    ] * 2
    assert not scores[2].reason


def test_the_mean_colour_of_large_pictures_is_exact():
    """Sums of millions of levels do not fit float32, in which this once was off by two levels on a
    clip of 1080p.
    """
    frame = np.full((1080, 1920, 3), 201, np.uint8)
    assert pixel.mean_colours(frame[None]).tolist() == [[201.0] * 3]
