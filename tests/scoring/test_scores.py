"""The file of scores: several runs at the same time, kills, settings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowportrait import cli, media
from flowportrait.errors import DataError
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring.scores import RecordFile, key_of


def a_score(clip, scorer="ssim", value=1.0, fingerprint="one", **fields):
    return Score(
        clip=clip, scorer=scorer, value=value, fingerprint=fingerprint, sha256="f", **fields
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.jsonl"


def test_two_runs_lose_nothing_of_each_other(path):
    one, other = RecordFile(path, Score, {"ssim": "one"}), RecordFile(path, Score, {"psnr": "one"})
    mine, theirs = a_score("a"), a_score("a", "psnr")
    one.append(mine)
    other.append(theirs)
    one.put_in_order({key_of(mine): mine}, [key_of(mine)])
    other.put_in_order({key_of(theirs): theirs}, [key_of(theirs)])
    assert {score.scorer for score in read_jsonl(path, Score)} == {"ssim", "psnr"}


def test_what_is_no_longer_true_goes_unless_another_run_has_renewed_it(path):
    old = [a_score("a"), a_score("b")]
    first = RecordFile(path, Score, {})
    for score in old:
        first.append(score)
    mine, renewed = RecordFile(path, Score, {}), a_score("b", value=2.0)
    RecordFile(path, Score, {}).append(renewed)
    mine.put_in_order({}, [])  # both clips have changed
    assert list(read_jsonl(path, Score)) == [renewed]


def test_a_line_torn_by_a_kill_goes_and_the_rest_stays(path):
    path.write_text(a_score("a").model_dump_json() + "\n" + a_score("b").model_dump_json()[:40])
    assert [clip for clip, _, _ in RecordFile(path, Score, {}).found] == ["a"]
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"\x00\x00\x00 ftypmp42\nmdat", b'{"schema_version":1,"id":"a","video":"x"}'],
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a JSON Lines file of Score, and left unchanged"):
        RecordFile(path, Score, {})
    assert path.read_bytes() == content


def test_a_whole_line_without_its_end_is_kept(path):
    path.write_text(a_score("a").model_dump_json())
    assert len(RecordFile(path, Score, {}).found) == 1


def test_settings_that_another_run_has_changed_meanwhile_are_refused(path):
    mine, score = RecordFile(path, Score, {"ssim": "one"}), a_score("a")
    RecordFile(path, Score, {"ssim": "two"}).append(a_score("b", fingerprint="two"))
    with pytest.raises(DataError, match="holds scores of ssim with other settings"):
        mine.put_in_order({key_of(score): score}, [key_of(score)])
    assert [row.clip for row in read_jsonl(path, Score)] == ["b"]


def test_commands_at_the_same_time_write_one_file(tmp_path, monkeypatch):
    """Three processes with a scorer each; in the end every clip has all three, each once."""
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    for index in range(12):
        frames = np.random.default_rng(index).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
        media.write_video(
            Path(f"made/{index:02}.mp4"), frames, 24, np.zeros(8000, np.float32), 48_000, {}
        )
    scorers = ("sharpness", "colour-drift", "psnr")
    command = [
        sys.executable,
        "-m",
        "flowportrait",
        "score",
        "made",
        "--truth",
        "made",
        "-o",
        "s.jsonl",
        "--scorers",
    ]
    runs = [subprocess.Popen([*command, scorer], stdout=subprocess.DEVNULL) for scorer in scorers]
    # A clip against itself has no PSNR: the run in which nothing has a number ends with 1, and its
    # reasons are kept.
    assert [run.wait() for run in runs] == [0, 0, 1]
    rows = [(row.clip, row.scorer) for row in read_jsonl("s.jsonl", Score)]
    assert len(rows) == len(set(rows)) == 36
    before = Path("s.jsonl").read_bytes()
    assert cli.run([*command[3:], ",".join(scorers)]) == 0
    assert sorted(Path("s.jsonl").read_bytes().splitlines()) == sorted(before.splitlines())
