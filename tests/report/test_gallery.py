"""Which video a score of the report belongs to, and what the page says of those without one."""

import json
import re
from pathlib import Path

import pytest

from flowportrait import cli
from flowportrait.files import sha256_of
from flowportrait.records import ManifestRow, Score, write_jsonl

pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Two folders with clips of the same names; what is in them does not matter here."""
    monkeypatch.chdir(tmp_path)
    for place in ("sonic", "hallo", "truth"):
        Path(place).mkdir()
        for name in ("a", "b"):
            Path(place, f"{name}.mp4").write_bytes(f"{place} {name}".encode())


def score(clip, value, file=None, **fields):
    fields = {"scorer": "ssim", "sha256": sha256_of(Path(file)) if file else ""} | fields
    return Score(clip=clip, value=value, **fields)


def shown(*arguments, code=0):
    """What the page plays: scores and reasons by generator and sample."""
    command = ["report", "page", *arguments, "-o", "page.html"]
    assert cli.run(command) == code
    if code:
        return None
    text = Path("page.html").read_text()
    data = json.loads(re.search(r"id=clips-data>(.*?)</script>", text)[1])
    for item in data["items"]:
        for address in (item["truth"], *(clip["source"] for clip in item["clips"])):
            assert not address or Path(address).is_file()
    return {
        (clip["generator"], item["name"]): clip["scores"] | clip["lost"]
        for item in data["items"]
        for clip in item["clips"]
    }


def test_by_bytes_then_by_path(videos, capsys):
    rows = [
        score("elsewhere/x.mp4", 0.1, "sonic/a.mp4"),
        score("/lab/hallo/a.mp4", 0.2),
        score("/lab/hallo/a.mp4", 0.4, repeat=1),
        score("sonic/b.mp4", 0.3, "truth/a.mp4"),
        score("memo/a.mp4", 0.9),
        Score(clip="hallo/b.mp4", scorer="ssim", reason="is silent"),
    ]
    write_jsonl("s.jsonl", rows)
    found = shown("s.jsonl", "--videos", "sonic", "--videos", "hallo", "--truth", "truth")
    assert found == {
        ("sonic", "a"): {"ssim": 0.1},
        ("hallo", "a"): {"ssim": pytest.approx(0.3)},
        ("sonic", "b"): {"ssim": 0.3},
        ("hallo", "b"): {"ssim": "is silent"},
    }
    said = capsys.readouterr().err
    assert "memo: memo/a.mp4: is scored and not among the videos" in said
    assert "sonic/b.mp4: is changed since the scores were made" in said
    # The folder is the page's own, and keeps what it shows alone.
    assert len(list(Path("page-clips").iterdir())) == 6
    shown("s.jsonl", "--videos", "sonic")
    assert len(list(Path("page-clips").iterdir())) == 2


def test_a_label_names_the_folder_that_is_meant(videos):
    write_jsonl("one.jsonl", [score("out/a.mp4", 0.1)])
    write_jsonl("two.jsonl", [score("out/a.mp4", 0.2)])
    found = shown("ours=one.jsonl", "theirs=two.jsonl", "ours=sonic", "--videos", "theirs=hallo")
    assert found["ours", "a"] == {"ssim": 0.1} and found["theirs", "a"] == {"ssim": 0.2}
    # Without labels both folders may be meant, so neither is.
    assert not any(shown("one.jsonl", "sonic", "hallo").values())


def test_ids_of_a_manifest(videos):
    facts = {"num_frames": 4, "fps": 24, "size_px": 32, "sample_rate_hz": 48_000}
    facts |= {"split": "held_out", "identity": "a", "voice": "a", "text": ""}
    rows = [ManifestRow(id="clip 1.5", video="sonic/a.mp4", **facts)]
    write_jsonl("clips.jsonl", rows)
    write_jsonl("s.jsonl", [score("clip 1.5", 0.5)])
    found = shown("s.jsonl", "--videos", "made=clips.jsonl")
    assert found == {("made", "clip 1.5"): {"ssim": 0.5}}


def test_videos_alone_are_no_tables(videos, capsys):
    write_jsonl("s.jsonl", [score("sonic/a.mp4", 0.1)])
    assert cli.run(["report", "tables", "s.jsonl", "sonic", "-o", "tables"]) == 0
    assert "sonic: a folder of videos, which only report page shows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--truth", "truth"], "--truth: needs generated videos"),
        (["--videos", "none"], "none: no such file or folder"),
        (["--videos", "sonic", "--truth", "none"], "--truth takes a folder of videos"),
    ],
)
def test_wrong_input_is_one_line(videos, capsys, arguments, words):
    write_jsonl("s.jsonl", [score("sonic/a.mp4", 0.1)])
    shown("s.jsonl", *arguments, code=2)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and words in errors[0]
