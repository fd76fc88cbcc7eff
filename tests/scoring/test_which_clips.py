"""What is scored against what, and that no file is lost or spoilt on the way."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from container_films import Film, write_film

from flowportrait import cli, media
from flowportrait.clips import find_samples
from flowportrait.errors import DataError
from flowportrait.media import Clip
from flowportrait.records import ManifestRow, Score, read_jsonl, write_jsonl
from flowportrait.registry import SCORERS

FACTS = {"num_frames": 4, "fps": 24, "size_px": 32, "sample_rate_hz": 48_000}


def write(path, seed=0, count=4):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    media.write_video(path, frames, 24, np.zeros(count * 2000, np.float32), 48_000, {})
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def truths(sources, truth):
    return {
        s.id: str(s.truth.path) if s.truth else None
        for s in find_samples(map(Path, sources), Path(truth))
    }


def test_a_clip_is_never_its_own_truth_by_the_way_its_path_is_written():
    for name in ("made/k1.mp4", "made/k2.mp4", "real/k1.mp4"):
        write(name)
    rows = [
        ManifestRow(id="up", video="../made/k1.mp4", **FACTS),
        ManifestRow(id="whole", video=str(Path("made/k2.mp4").resolve()), **FACTS),
    ]
    Path("lists").mkdir()
    write_jsonl("lists/m.jsonl", rows)
    assert truths(["lists/m.jsonl"], "real") == {"up": "real/k1.mp4", "whole": None}


def test_a_manifests_truth_is_found_by_path_then_by_a_name_that_is_the_only_one():
    for name in ("real/k1.mp4", "real/a/k2.mp4", "real/k2.mp4"):
        write(name)
    rows = [ManifestRow(id=v, video=v, **FACTS) for v in ("clips/k1.mp4", "a/k2.mp4", "b/k2.mp4")]
    write_jsonl("m.jsonl", rows)
    expected = {"clips/k1.mp4": "real/k1.mp4", "a/k2.mp4": "real/a/k2.mp4", "b/k2.mp4": None}
    assert truths(["m.jsonl"], "real") == expected


def test_a_truth_that_is_there_twice_is_refused():
    write("made/a.mp4")
    write_jsonl("t.jsonl", [ManifestRow(id="a", video=v, **FACTS) for v in ("x.mp4", "y.mp4")])
    with pytest.raises(DataError, match="t.jsonl: the id 'a' appears twice"):
        find_samples([Path("made")], Path("t.jsonl"))


def test_a_prepared_dataset_as_truth_is_found_by_its_ids():
    """`generate DATASET -o made` names videos by id; the dataset keeps its own in clips/."""
    write("data/clips/k1.mp4")
    write("made/k1.mp4")
    write_jsonl("data/manifest.jsonl", [ManifestRow(id="k1", video="clips/k1.mp4", **FACTS)])
    assert truths(["made"], "data") == {"made/k1.mp4": "data/clips/k1.mp4"}
    with pytest.raises(
        DataError,
        match="none.jsonl: no such folder; --truth takes a folder of videos or a manifest",
    ):
        find_samples([Path("made")], Path("none.jsonl"))


def test_linked_folders_are_looked_into_once_and_links_to_nothing_are_clips_without_a_file():
    write("elsewhere/k.mp4")
    Path("made").mkdir()
    Path("made/link").symlink_to(Path("elsewhere").resolve())
    Path("made/round").symlink_to(Path("made").resolve())
    Path("made/gone.mp4").symlink_to("nowhere.mp4")
    assert cli.run(["score", "made", "--scorers", "sharpness", "-o", "s.jsonl"]) == 0
    rows = {row.clip: row.reason for row in read_jsonl("s.jsonl", Score)}
    assert rows == {"made/link/k.mp4": "", "made/gone.mp4": "made/gone.mp4: no such file"}


def test_what_may_not_be_read_has_a_reason_and_stops_nothing(monkeypatch):
    """The one who tests may be root, who may read all: so opening it fails as it would for
    others.
    """
    closed, real_open, real_av = write("made/closed.mp4").resolve(), Path.open, av.open

    def refused(path):
        if Path(path).resolve() == closed:
            raise PermissionError(13, "Permission denied", str(path))

    write("made/good.mp4")
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: refused(self) or real_open(self, *a, **k)
    )
    monkeypatch.setattr(
        av, "open", lambda url, *a, **k: refused(url.removeprefix("file:")) or real_av(url, *a, **k)
    )
    assert (
        cli.run(
            ["score", "made", "--truth", "made", "--scorers", "ssim,sharpness", "-o", "s.jsonl"]
        )
        == 0
    )
    rows = {(row.clip, row.scorer): row for row in read_jsonl("s.jsonl", Score)}
    assert (
        not rows["made/good.mp4", "ssim"].reason and not rows["made/good.mp4", "sharpness"].reason
    )
    assert all(
        "closed.mp4" in rows["made/closed.mp4", name].reason for name in ("ssim", "sharpness")
    )


def test_a_folder_that_cannot_be_looked_into_is_named(monkeypatch):
    write("made/x/k.mp4")

    def walk(folder, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", "made/x"))

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(
        DataError,
        match=("made/x: cannot be listed .Permission denied.; make it readable or omit it"),
    ):
        find_samples([Path("made")])


def test_a_name_that_is_no_text_is_a_clip_with_a_reason(capsys):
    write("made/good.mp4")
    shutil.copy(b"made/good.mp4", b"made/z\xff.mp4")
    assert cli.run(["score", "made", "--scorers", "sharpness", "-o", "s.jsonl"]) == 0
    reasons = sorted(row.reason for row in read_jsonl("s.jsonl", Score))
    assert reasons == [
        "",
        "made/z\N{REPLACEMENT CHARACTER}.mp4: its name is not written in UTF-8; rename it",
    ]


def test_a_clip_that_is_replaced_while_it_is_looked_at_is_scored_again(monkeypatch):
    clip, kind = write("made/k.mp4", seed=1), SCORERS.load("sharpness")
    other, real = write("other.mp4", seed=2, count=9), kind.conclude

    def late(self, values):
        os.replace(other, clip)
        return real(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "conclude", late)
        assert cli.run(["score", "made", "--scorers", "sharpness", "-o", "s.jsonl"]) == 0
    assert cli.run(["score", "made", "--scorers", "sharpness", "-o", "s.jsonl"]) == 0
    (row,) = read_jsonl("s.jsonl", Score)
    assert row.parts["frames"] == 9


def test_frames_that_come_unevenly_are_matched_by_time(tmp_path):
    """A lossless subset of a film, with the film's own time stamps: frames 0 to 9, then every
    third.
    """
    for folder, kept in (("real", range(40)), ("made", [*range(10), *range(10, 40, 3)])):
        Path(folder).mkdir()
        with av.open(f"{folder}/v.mkv", "w") as container:
            stream = container.add_stream("ffv1", rate=24, width=64, height=64, pix_fmt="bgr0")
            stream.codec_context.time_base = Fraction(1, 24)
            for index in kept:
                level = np.full((64, 64, 3), 60 + 2 * index, np.uint8)
                level[: 10 + index] += 80
                frame = av.VideoFrame.from_ndarray(level, "rgb24").reformat(format="bgr0")
                frame.pts, frame.time_base = index, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert Clip(Path("real/v.mkv")).is_even and not Clip(Path("made/v.mkv")).is_even
    assert (
        cli.run(["score", "made", "--truth", "real", "--scorers", "psnr,ssim", "-o", "s.jsonl"])
        == 0
    )
    rows = {row.scorer: row for row in read_jsonl("s.jsonl", Score)}
    assert rows["psnr"].value > 25 and rows["ssim"].value > 0.95


@pytest.mark.parametrize("reader", [None, 1.0])
def test_scores_of_an_older_reader_stay_where_files_are_plain(tmp_path, reader):
    films = {
        "plain.mp4": Film("mp4"),
        "late.mp4": Film("mp4", sound_start_s=0.3),
        "turned.mp4": Film("mp4", quarter_turns=1),
        "clock.ts": Film("ts", picture_start_s=1.4, sound_start_s=1.4),
    }
    for name, film in films.items():
        write_film(tmp_path / name, film)
    command = ["score", *films, "--scorers", "sharpness", "-o", "s.jsonl"]
    assert cli.run(command) == 0
    rows = list(read_jsonl("s.jsonl", Score))
    assert {row.source.pop("reader") for row in rows} == {media.READER_VERSION}
    for row in rows:
        row.source.update({} if reader is None else {"reader": reader})
    write_jsonl("s.jsonl", [row.model_copy(update={"value": -1.0}) for row in rows])
    assert cli.run(command) == 0
    again = {row.clip: row.value for row in read_jsonl("s.jsonl", Score)}
    assert {name for name, value in again.items() if value == -1.0} == {"plain.mp4"}
    assert {row.clip: row.value for row in rows if row.clip != "plain.mp4"}.items() <= again.items()
