"""Metrics on files: one decoding for all, reasons instead of numbers, and nothing scored without
its weights.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowportrait import cli, media
from flowportrait.errors import CheckpointError
from flowportrait.files import sha256_of
from flowportrait.media import Clip
from flowportrait.pretrained import Weights
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import lse, mediapipe
from flowportrait.scoring.metrics.metric import Metric, Reading, read_all
from flowportrait.scoring.metrics.pixel import ColourDrift, Psnr, Sharpness, Ssim
from flowportrait.scoring.metrics.view import Unscorable, View


def picture(step=0, size=32):
    rows, columns = np.mgrid[:size, :size]
    planes = (rows * 7 + step * 5) % 256, (columns * 5) % 256, (rows * columns + step) % 256
    return np.stack(planes, -1).astype(np.uint8)


def video(path, frames, fps=24, seconds=0.5):
    tone = 0.2 * np.sin(np.arange(int(16000 * seconds)) * 0.2).astype(np.float32)
    media.write_video(path, frames, fps, tone, 16000, {})
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made = video(folder / "made.mp4", [picture(i) for i in range(12)])
    true = video(folder / "true.mp4", [picture(i + 1) for i in range(12)])
    return Sample("a", Clip(made), Clip(true))


def test_a_clip_is_decoded_once_for_all_metrics(sample, monkeypatch):
    opened = []
    real = media.read_frames
    monkeypatch.setattr(
        media, "read_frames", lambda path, fps=None: opened.append(path) or real(path, fps)
    )
    metrics = [Ssim(), Psnr(), Sharpness(), ColourDrift()]
    scores = {score.scorer: score for score in read_all([(sample, metrics)])}
    assert opened == [sample.clip.path, sample.truth.path]
    assert 0 < scores["ssim"].value < 1 and 5 < scores["psnr"].value < 50
    assert scores["ssim"].parts["frames"] == 11, "the first frame is the portrait"
    assert scores["sharpness"].parts["to_first"] == pytest.approx(1, rel=0.3)
    assert {score.fingerprint for score in scores.values()} and scores[
        "ssim"
    ].truth_sha256 == sample.truth_sha256


def test_truth_is_read_on_the_clips_clock_and_at_its_size(tmp_path):
    made = video(tmp_path / "made.mp4", [picture(0) for _ in range(12)])
    for fps, count, size in ((12, 6, 32), (24, 12, 64)):
        large = [
            np.repeat(np.repeat(picture(0), size // 32, 0), size // 32, 1) for _ in range(count)
        ]
        true = video(tmp_path / f"true{fps}.mp4", large, fps)
        pair = View(Sample("a", Clip(made), Clip(true))).pairs
        assert pair[0].shape == pair[1].shape == (12, 32, 32, 3)
        assert np.abs(pair[0].astype(int) - pair[1]).mean() < 12
    wide = video(tmp_path / "wide.mp4", [np.zeros((32, 64, 3), np.uint8)] * 12)
    long = video(tmp_path / "long.mp4", [picture(0)] * 48, seconds=2)
    reasons = {
        wide: "32x32, its truth 64x32: different shapes",
        long: "lasts 12 frames, its truth 48",
    }
    for truth, reason in reasons.items():
        (score,) = Ssim().score([Sample("a", Clip(made), Clip(truth))])
        assert math.isnan(score.value) and reason in score.reason


def test_what_cannot_be_scored_has_a_reason_and_stops_nothing(sample, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    same = Sample("same", sample.clip, sample.clip)
    samples = [
        Sample("broken", Clip(broken), sample.truth),
        Sample("alone", sample.clip),
        sample,
        same,
        Sample("gone", Clip(tmp_path / "gone.mp4"), sample.truth),
    ]
    scores = {score.clip: score for score in Psnr().score(samples)}
    assert scores["a"].value > 0 and not scores["a"].reason
    assert "no truth; give --truth" in scores["alone"].reason
    assert "is identical to its truth" in scores["same"].reason
    assert "broken.mp4" in scores["broken"].reason and "gone.mp4" in scores["gone"].reason
    assert all(math.isnan(score.value) == bool(score.reason) for score in scores.values())


def test_many_clips_go_through_few_workers_each_once(sample):
    class Slow(Metric):
        """Counts."""

        name, unit, low, high, better = "slow", "1", 0.0, 1.0, "higher"

        def read(self, view):
            return Reading(1.0)

    samples = [Sample(str(i), sample.clip) for i in range(57)]
    slow = Slow()
    scores = read_all(((each, [slow]) for each in samples), workers=3)
    assert sorted(score.clip for score in scores) == sorted(each.id for each in samples)


def test_weights_are_checked_and_never_random(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path / "cache"))
    right = tmp_path / "right.pth"
    right.write_bytes(b"weights")
    weights = Weights("net.pth", "by mail", sha256_of(right)[:8], "MIT")
    assert weights.find(right) == right
    with pytest.raises(
        CheckpointError,
        match=r"net.pth: missing; download by mail .*MIT.* put it at .*cache/net.pth",
    ):
        weights.find()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "net.pth").write_bytes(b"weights")
    assert weights.find().name == "net.pth"
    right.write_bytes(b"others!")
    with pytest.raises(CheckpointError, match="right.pth: sha256 .* but net.pth has"):
        weights.find(right)
    unreachable = Weights("far.pth", "https://127.0.0.1:1/far.pth", "00", "MIT")
    with pytest.raises(CheckpointError, match="far.pth: cannot be downloaded"):
        unreachable.find()
    assert not list((tmp_path / "cache").glob("*.part"))


def test_the_command_scores_metrics_and_goes_on(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path / "none"))
    made, true, out = tmp_path / "made", tmp_path / "true", tmp_path / "scores.jsonl"
    for folder, clip in ((made, sample.clip), (true, sample.truth)):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(clip.path.read_bytes())
    arguments = ["score", str(made), "--truth", str(true), "--scorers", "ssim,psnr", "-o", str(out)]
    assert cli.run(arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["scorer"] for row in rows] == ["ssim", "psnr"] and all(row["value"] for row in rows)
    assert cli.run(arguments) == 0 and "2 of them from before" in capsys.readouterr().out
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network"))
    )
    assert cli.run([*arguments[:-3], "lpips", "-o", str(out)]) != 0
    assert "alexnet-owt-7be5be79.pth: cannot be downloaded (no network)" in capsys.readouterr().err


def test_syncnet_gets_frames_by_time_or_as_they_come(sample, tmp_path, monkeypatch):
    """24 frames of a second are 25 to SyncNet, or, on request, the 24 that scripts without the
    conversion show it.
    """
    clip, shown = Clip(video(tmp_path / "a.mp4", [picture(i) for i in range(24)], seconds=1)), []

    def embeddings(network, blocks, samples):
        shown.append(sum(map(len, blocks)))
        return torch.randn(2, 20, 8)

    monkeypatch.setattr(lse, "embeddings", embeddings)
    monkeypatch.setattr(lse, "load_syncnet", lambda path: None)
    monkeypatch.setattr(lse.LseD, "_file", tmp_path / "a.mp4")
    for frames, clock in (("by_time", 25), ("as_they_come", 24)):
        (row,) = lse.LseD(lse.LseConfig(crop="none", frames=frames)).score([Sample("a", clip)])
        assert row.source["looked_at_fps"] == clock and row.settings["frames"] == frames
    assert shown == [25, 24]


def test_a_moment_has_no_rate_of_blinks():
    """One blink in a twentieth of a second would be 1,200 a minute."""
    blink = np.tile([0.0, 0.9], 12).astype(np.float32)
    seen = {1: blink[:1], 24: blink}
    for frames, value in ((1, None), (24, 720.0)):
        metric = mediapipe.BlinkRate()
        metric.seen = lambda view, n=frames: SimpleNamespace(blink=seen[n])
        if value is None:
            with pytest.raises(Unscorable, match="lasts 0.04 s; a rate of blinks needs 1 s"):
                metric.read(SimpleNamespace(fps=24))
        else:
            assert metric.read(SimpleNamespace(fps=24)).value == value
