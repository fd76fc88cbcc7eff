"""Data in object storage, against a local server that speaks S3: brought here, written there."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from flowportrait import cli, media, storage
from flowportrait.errors import DataError, MissingDependency
from flowportrait.records import ManifestRow, Score, read_jsonl, write_jsonl
from flowportrait.registry import MODELS_DIR, SAMPLES_DIR

PICTURE = np.kron(
    np.random.default_rng(0).integers(40, 200, (12, 12, 3)), np.ones((8, 8, 1))
).astype(np.uint8)


def film(path, step=1):
    frames = [np.roll(PICTURE, i * step, axis=1) for i in range(12)]
    media.write_video(path, frames, 24, np.zeros(8000, np.float32), 16000, {})


def noted(bucket, method, monkeypatch, place=0):
    """What goes through a method of the file system from now on, by one of its arguments."""
    seen, real = [], getattr(type(bucket), method)

    async def noting(self, *arguments, **options):
        seen.append(arguments[place])
        return await real(self, *arguments, **options)

    monkeypatch.setattr(type(bucket), method, noting)
    return seen


def names_in(bucket, folder="data"):
    bucket.invalidate_cache()
    return sorted(name.removeprefix("data/") for name in bucket.find(folder))


def test_a_folder_is_fetched_once_and_follows_changes(bucket, monkeypatch):
    for name in ("a.txt", "sub/b.txt"):
        bucket.pipe(f"data/in/{name}", name.encode())
    # As a command line has it: pathlib makes one slash of two.
    folder = storage.fetched(Path("s3://data/in"))
    assert (folder / "sub/b.txt").read_text() == "sub/b.txt"
    assert storage.name_of(folder / "a.txt") == "s3://data/in/a.txt"
    got = noted(bucket, "_get_file", monkeypatch)
    assert storage.fetched(Path("s3://data/in")) == folder and got == []
    bucket.pipe("data/in/a.txt", b"longer than before")
    bucket.rm("data/in/sub/b.txt")
    storage.fetched(Path("s3://data/in"))
    assert got == ["data/in/a.txt"] and not (folder / "sub/b.txt").exists()
    assert storage.fetched(Path("s3://data/in/a.txt")).read_text() == "longer than before"


def test_what_is_written_is_there_when_it_is_whole(bucket):
    out = Path("s3://data/out")
    with pytest.raises(RuntimeError), storage.written(out) as place:
        (place / "clips").mkdir(parents=True)
        (place / "clips/1.mp4").write_text("one")
        raise RuntimeError
    assert names_in(bucket) == []
    with pytest.MonkeyPatch.context() as patch, storage.written(out) as place:
        sent = noted(bucket, "_put_file", patch, 1)
        (place / "manifest.jsonl").write_text("all")
        (place / "clips").mkdir(parents=True, exist_ok=True)
        (place / "clips/2.mp4").write_text("two")
        (place / ".lock").write_text("")
    assert names_in(bucket) == ["out/clips/1.mp4", "out/clips/2.mp4", "out/manifest.jsonl"]
    assert sorted(sent) == [f"data/{name}" for name in names_in(bucket)]
    assert sent[-1] == "data/out/manifest.jsonl"
    with storage.written(out) as place:  # as on a machine that has it already
        assert (place / "clips/2.mp4").read_text() == "two"
        (place / "clips/2.mp4").unlink()
        bucket.pipe("data/out/by another.txt", b"stays")
        (place / "manifest.jsonl").write_text("none")
    assert names_in(bucket) == ["out/by another.txt", "out/clips/1.mp4", "out/manifest.jsonl"]
    assert bucket.cat("data/out/manifest.jsonl") == b"none"


def test_score_reads_and_writes_there(bucket, tmp_path):
    for name in ("a", "b"):
        for folder, step in (("made", 1), ("truth", 2)):
            film(tmp_path / "film.mp4", step)
            bucket.put_file(str(tmp_path / "film.mp4"), f"data/{folder}/{name}.mp4")
    command = ["score", "s3://data/made", "--truth", "s3://data/truth", "--scorers", "psnr"]
    assert cli.run([*command, "-o", "s3://data/scores.jsonl"]) == 0
    bucket.get_file("data/scores.jsonl", "scores.jsonl")
    scores = list(read_jsonl("scores.jsonl", Score))
    assert [score.clip for score in scores] == ["s3://data/made/a.mp4", "s3://data/made/b.mp4"]
    assert not any(score.reason for score in scores)


def test_a_dataset_is_spoken_and_evaluated_there(bucket, tmp_path):
    """`generate DATASET` and `evaluate`, from storage to storage, a model by its address: the bytes
    of the same on this machine; a second run there, by another machine, makes nothing anew.
    """
    (tmp_path / "set").mkdir()
    facts = {"num_frames": 13, "fps": 24, "size_px": 128, "sample_rate_hz": 16000}
    clip = sorted((SAMPLES_DIR / "world").glob("*.mp4"))[0]
    sound = media.read_audio(clip)
    samples = sound.samples[: round(13 / 24 * sound.sample_rate)]
    frames = islice(media.read_frames(clip), 13)
    media.write_video("set/a.mp4", frames, 24, samples, sound.sample_rate, {})
    write_jsonl("set/manifest.jsonl", [ManifestRow(id="a", video="a.mp4", split="train", **facts)])
    for name in ("a.mp4", "manifest.jsonl"):
        bucket.put_file(f"set/{name}", f"data/set/{name}")
    for path in (MODELS_DIR / "tiny").iterdir():
        bucket.put_file(str(path), f"data/models/own/{path.name}")
    how = ["--split", "train", "--evaluations", "1", "--device", "cpu"]
    assert cli.run(["generate", "set", "-o", "made", *how]) == 0
    there = ["generate", "s3://data/set", "-o", "s3://data/made", *how]
    there += ["--model", "s3://data/models/own"]
    assert cli.run(there) == 0
    for name in ("a.mp4", "manifest.jsonl"):
        assert bucket.cat(f"data/made/{name}") == Path("made", name).read_bytes()
    scoring = ["--scorers", "psnr"]
    local = ["evaluate", "made/manifest.jsonl", "--truth", "set/manifest.jsonl", "-o", "report"]
    assert cli.run([*local, *scoring]) == 0
    remote = [
        "evaluate",
        "s3://data/made/manifest.jsonl",
        "--truth",
        "s3://data/set/manifest.jsonl",
    ]
    assert cli.run([*remote, "-o", "s3://data/report", *scoring]) == 0
    assert {"report/report.html", "report/scores.jsonl"} <= set(names_in(bucket))
    bucket.get_file("data/report/scores.jsonl", "scores.jsonl")
    values = [
        [(score.scorer, score.value, score.sha256) for score in read_jsonl(path, Score)]
        for path in ("scores.jsonl", "report/scores.jsonl")
    ]
    assert values[0] == values[1] and values[0][0][0] == "psnr"
    runs = bucket.cat("data/made/runs.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
        assert cli.run(there) == 0
    assert bucket.cat("data/made/runs.jsonl") == runs


@pytest.mark.parametrize("command", ["generate", "encode", "score", "evaluate"])
def test_parts_that_would_share_an_address_are_refused(bucket, command, capsys):
    """They share files as these grow, and an object is written as a whole."""
    scoring = ["--scorers", "sharpness"] if command in ("score", "evaluate") else []
    scoring += ["--truth", "s3://data/truth"] if command == "evaluate" else []
    out = "s3://data/out.jsonl" if command == "score" else "s3://data/out"
    assert cli.run([command, "s3://data/in", "-o", out, "--part", "1/2", *scoring]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --part: parts share their output as it grows, and s3://data/out")
    assert line.endswith("give -o on a disk that all see") and names_in(bucket) == []


def test_googles_storage_is_read_and_written_as_well(gs_bucket):
    gs_bucket.pipe("data/in/sub/a.txt", b"one")
    folder = storage.fetched(Path("gs://data/in"))
    assert (folder / "sub/a.txt").read_text() == "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(gs_bucket), "_get_file", None)  # what is there is not fetched again
        assert storage.fetched(Path("gs://data/in")) == folder
    with storage.written(Path("gs://data/out")) as place:
        (place / "clips").mkdir(parents=True)
        (place / "clips/1.mp4").write_text("a clip")
        (place / "manifest.jsonl").write_text("all")
    gs_bucket.invalidate_cache()
    assert sorted(gs_bucket.find("data/out")) == ["data/out/clips/1.mp4", "data/out/manifest.jsonl"]
    assert gs_bucket.cat("data/out/clips/1.mp4") == b"a clip"
    with storage.written(Path("gs://data/out")) as place:
        assert (place / "clips/1.mp4").read_text() == "a clip"
        (place / "clips/1.mp4").unlink()
    gs_bucket.invalidate_cache()
    assert gs_bucket.find("data/out") == ["data/out/manifest.jsonl"]
    with pytest.raises(DataError, match="gs://data/nothing: nothing there"):
        storage.fetched(Path("gs://data/nothing"))


@pytest.mark.parametrize("address", ["s3://nowhere/x", "s3://data/nothing", "s3://data/../x"])
def test_what_is_not_there_is_one_line(bucket, address, capsys):
    assert cli.run(["score", address, "--scorers", "sharpness", "-o", "scores.jsonl"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {address}: ") and not Path("scores.jsonl").exists()


def test_without_its_package_an_address_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(MissingDependency, match=r"pip install 'flowportrait\[s3\]'"):
        storage.fetched(Path("s3://data/x"))


def test_paths_of_this_machine_pass_through(tmp_path):
    assert storage.fetched(tmp_path) == tmp_path and storage.name_of(tmp_path) == str(tmp_path)
    with storage.written(tmp_path / "out") as place:
        assert place == tmp_path / "out"
    (tmp_path / "s3:").mkdir()
    assert storage.address_of(tmp_path / "s3:") is None
    with pytest.raises(DataError, match="unknown://x: cannot be read or written"):
        storage.fetched(Path("unknown://x"))
