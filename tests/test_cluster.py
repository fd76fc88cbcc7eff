"""`generate DATASET`, `score` and `evaluate` on a Ray cluster and in parts: whatever dies on the
way, the result is that of the local engine.
"""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from flowportrait import cli, media
from flowportrait.clips import find_samples
from flowportrait.cluster import Division, Part
from flowportrait.records import ManifestRow, Score, read_jsonl, write_jsonl
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.run import score_to_file

SAMPLES = Path(__file__).parents[1] / "flowportrait" / "samples" / "world"
RAY = ["--engine", "ray", "--workers", "2"]
NAMES = "psnr,sharpness"
rng = np.random.default_rng(0)
PICTURE = np.kron(rng.integers(40, 200, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def film(path, step):
    frames = [np.roll(PICTURE, i * step, axis=1) for i in range(12)]
    media.write_video(path, frames, 24, np.zeros(8000, np.float32), 16000, {})


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Six generated clips with their truths, and one that is no video."""
    monkeypatch.chdir(tmp_path)
    for folder, more in (("made", 1), ("truth", 0)):
        Path(folder).mkdir()
        for index in range(6):
            film(Path(folder, f"{index}.mp4"), index + more)
    Path("made/broken.mp4").write_bytes(b"no video at all")
    film(Path("truth/broken.mp4"), 1)
    return tmp_path


def files(folder):
    """Names and bytes of all files below, but for locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_scores_on_a_cluster_are_the_local_ones_though_the_driver_is_killed(folders, on_cluster):
    command = ["score", "made", "--truth", "truth", "--scorers", NAMES]
    assert cli.run([*command, "-o", "here.jsonl"]) == 0
    program = [sys.executable, "-m", "flowportrait", *command, "-o", "there.jsonl", *RAY]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    there = Path("there.jsonl")
    while process.poll() is None and not (there.exists() and b"psnr" in there.read_bytes()):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    said = process.communicate()[1]
    kept = there.read_bytes().count(b"\n")
    assert 0 < kept <= 21, said
    assert cli.run([*command, "-o", "there.jsonl", *RAY]) == 0
    assert there.read_bytes() == Path("here.jsonl").read_bytes()


class Deadly(Metric):
    """Ends its process at the first look at one clip, and at every look at another."""

    name, unit, low, high, better = "deadly", "frames", 0.0, 100.0, "higher"

    def read(self, view):
        name, mark = view.sample.clip.path.stem, view.sample.clip.path.with_suffix(".seen")
        if name == "2" or (name == "1" and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Reading(float(len(view.frames)))


def test_a_clip_that_ends_two_workers_has_a_reason_and_costs_no_other(folders, on_cluster):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    samples = find_samples([Path("made")])
    out, division = Path("scores.jsonl"), Division("ray", workers=2)
    summary = score_to_file(samples, [Deadly()], out, False, lambda done, total: None, division)
    found = {Path(score.clip).stem: score for score in summary.scores}
    assert [found[name].value for name in "01345"] == [12.0] * 5
    assert found["2"].reason.startswith("ended both processes that looked at it")
    assert "cannot be read" in found["broken"].reason and len(found) == 7


def test_an_evaluation_on_a_cluster_is_the_local_one(folders, on_cluster):
    command = ["evaluate", "made", "--truth", "truth", "--scorers", "psnr", "--sets"]
    assert cli.run([*command, "frechet-lite0", "-o", "here"]) == 0
    assert cli.run([*command, "frechet-lite0", "-o", "there", *RAY]) == 0
    here, there = files("here"), files("there")
    assert here.keys() == there.keys() and "sets.jsonl" in here
    same = [name for name in here if name.endswith((".jsonl", ".npy", ".csv"))]
    assert len(same) > 12 and all(here[name] == there[name] for name in same)


def test_parts_of_scores_share_a_file_and_the_whole_adds_the_reward(folders, capsys):
    Path("reward.toml").write_text('[reward]\nterms = [{scorers = ["psnr"]}]\n')
    command = ["score", "made", "--truth", "truth", "--scorers", "psnr,sharpness"]
    command += ["--config", "reward.toml"]
    assert cli.run([*command, "-o", "whole.jsonl"]) == 0
    for part in ("2/3", "1/3", "3/3"):
        assert cli.run([*command, "-o", "parts.jsonl", "--part", part]) == 0
        assert f"from before: part {part[0]} of 3: parts.jsonl" in capsys.readouterr().out
    assert len(list(read_jsonl("parts.jsonl", Score))) == 14
    assert cli.run([*command, "-o", "parts.jsonl"]) == 0
    assert "21 scores, 14 of them from before" in capsys.readouterr().out
    assert Path("parts.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    # A part with other settings does not fit.
    other = [*command, "--set", "scorers.psnr.skip_first=false", "-o", "parts.jsonl"]
    assert cli.run([*other, "--part", "1/3"]) == 2
    assert "holds scores of psnr with other settings" in capsys.readouterr().err


def test_parts_of_an_evaluation_share_a_folder(folders, capsys):
    command = ["evaluate", "made", "--truth", "truth", "--scorers", "psnr"]
    assert cli.run([*command, "-o", "whole"]) == 0
    for part in ("1/9", "2/2", "1/2"):
        assert cli.run([*command, "-o", "parts", "--part", part]) == 0
        assert f"part {part[0]} of {part[2]} is done: parts; without --part the report" in (
            capsys.readouterr().out
        )
    assert not Path("parts/report.html").exists()
    assert cli.run([*command, "-o", "parts"]) == 0
    whole, parts = files("whole"), files("parts")
    assert whole["scores.jsonl"] == parts["scores.jsonl"]
    assert whole["sets.jsonl"] == parts["sets.jsonl"]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Three clips of half a second, and one that is broken."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    facts = {"num_frames": 13, "fps": 24, "size_px": 128, "sample_rate_hz": 16000}
    rows = []
    for index, clip in enumerate(sorted(SAMPLES.glob("*.mp4"))[:3]):
        sound = media.read_audio(clip)
        samples = sound.samples[: round(13 / 24 * sound.sample_rate)]
        frames = islice(media.read_frames(clip), 13)
        media.write_video(f"data/{index}.mp4", frames, 24, samples, sound.sample_rate, {})
        rows.append(ManifestRow(id=f"p{index}/a", video=f"{index}.mp4", split="train", **facts))
    Path("data/broken.mp4").write_bytes(b"no video")
    rows.insert(1, rows[0].model_copy(update={"id": "broken", "video": "broken.mp4"}))
    write_jsonl("data/manifest.jsonl", rows)
    return ["generate", "data", "--split", "train", "--evaluations", "1"]


def test_videos_of_parts_and_of_a_cluster_are_those_of_one_run(dataset, on_cluster, capsys):
    assert cli.run([*dataset, "-o", "here"]) == 0
    assert cli.run([*dataset, "-o", "there", *RAY]) == 0
    told = capsys.readouterr()
    assert "3 videos, 0 of them from before, 1 left out: there" in told.out
    assert "left out: broken: data/broken.mp4: cannot be read" in told.err
    here, there = files("here"), files("there")
    del here["runs.jsonl"], there["runs.jsonl"]  # they say how long it took
    assert here == there and len(here) == 4
    # The videos of one run, dealt out to two parts, as if each had made its own.
    lines = Path("here/runs.jsonl").read_text().splitlines(keepends=True)
    Path("here/runs.jsonl").write_text(lines[2] + lines[0] + lines[1] + '{"torn')
    Path("here/manifest.jsonl").unlink()
    for part, kept, left_out in (("2/2", 1, 1), ("1/2", 2, 0)):
        assert cli.run([*dataset, "-o", "here", "--part", part]) == 0
        said = capsys.readouterr().out
        assert f"{kept} videos, {kept} of them from before, {left_out} left out" in said
    again = files("here")
    assert "".join(lines).encode() == again.pop("runs.jsonl") and again == there


def test_parts_that_do_not_fit_are_refused(dataset, capsys):
    assert cli.run([*dataset, "-o", "out", "--part", "1/4"]) == 0
    assert cli.run([*dataset, "-o", "out", "--part", "2/4", "--seed", "3"]) == 2
    assert "out/p0/a.mp4: was made with another model or other settings; all parts" in (
        capsys.readouterr().err
    )
    rows = list(read_jsonl("data/manifest.jsonl", ManifestRow))
    write_jsonl("data/manifest.jsonl", rows[1:])
    assert cli.run([*dataset, "-o", "out", "--part", "2/4"]) == 2
    assert (
        "out/p0/a.mp4: belongs to no clip of data; all parts need the same"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--engine", "slurm"], "--engine: no 'slurm'; allowed: local, ray"),
        (["--part", "3/2"], "--part: got '3/2'; give number/count, such as 2/8"),
    ],
)
def test_what_is_no_division_is_one_line(folders, arguments, words, capsys):
    command = ["score", "made", "--scorers", "sharpness", "-o", "scores.jsonl", *arguments]
    assert cli.run(command) == 2
    assert words in capsys.readouterr().err and not Path("scores.jsonl").exists()
    portrait = ["generate", "made/0.mp4", "made/0.mp4", "-o", "x.mp4", "--part", "1/2"]
    assert cli.run(portrait) == 2
    assert "are for datasets" in capsys.readouterr().err


def test_parts_cover_a_list_once():
    for count in range(1, 6):
        shares = [Division(part=Part(i, count)).share(range(13)) for i in range(1, count + 1)]
        assert sorted(sum(shares, [])) == list(range(13))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
