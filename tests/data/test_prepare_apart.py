"""`prepare` on a Ray cluster and in parts: whatever dies on the way, the dataset is that of the
local engine.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import films
import pytest
from films import PLUGGED, ROOT, film, run
from test_prepare import config, shown

from flowportrait import cli
from flowportrait.cluster import Part
from flowportrait.config import load_recipe, save_resolved
from flowportrait.errors import ConfigError, DataError
from flowportrait.prepare.dataset import prepare
from flowportrait.prepare.merge import merge
from flowportrait.prepare.parts import PartFile

pytestmark = [pytest.mark.xdist_group("prepare"), pytest.mark.usefixtures("remembered_faces")]

NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="the extra 'ray' is not installed: pip install 'flowportrait[ray]'",
)


def clips_of(folder):
    """Names and bytes."""
    return {path.name: path.read_bytes() for path in (folder / "clips").iterdir()}


def below(root):
    """The processes that descend from one, with their names."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return {process: names[process] for process in found if process in names}


def wait_for(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    return None


@NEEDS_RAY
def test_on_a_cluster_a_lost_worker_and_a_lost_driver_cost_what_was_in_flight(made):
    """A cluster of two workers; one is killed when a source is done, then the driver with all it
    started. The same command goes on, and ends with the clips, the manifest and the journal of one
    local process; the film that kills whoever reads it is a line there as well.
    """
    root, _, _ = made
    out = root / "apart"
    arguments = (root / "films", "-o", out, "--engine", "ray", "--workers", "2", *PLUGGED)
    process = run(root, *arguments, wait=False)
    journal = out / "journal.jsonl"
    lines = lambda: journal.read_bytes().count(b"\n") if journal.exists() else 0  # noqa: E731
    workers = lambda: [pid for pid, name in below(process.pid).items() if "ray::_Server" in name]  # noqa: E731
    assert wait_for(lambda: lines() >= 1 and workers(), process), process.communicate()[1]
    os.kill(workers()[0], signal.SIGKILL)
    at_kill = lines()
    assert wait_for(lambda: lines() > at_kill, process), process.communicate()[1]
    started = workers()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "manifest.jsonl").exists()
    deadline = time.monotonic() + 60
    while any(b"_Server" in _name(pid) for pid in started):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    before = lines()
    code, said, err = run(root, *arguments)
    assert code == 0, err
    assert before >= 2 and f", {before - _crashed(journal, before)} of them from before" in said
    assert shown(out) == shown(root / "one") and clips_of(out) == clips_of(root / "one")


def _name(pid):
    """Of a process; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _crashed(journal, count):
    """How many of the first lines are of crashed sources, which are tried again."""
    return sum('"crashed"' in line for line in journal.read_text().splitlines()[:count])


@NEEDS_RAY
def test_a_lost_node_costs_what_was_in_flight(made):
    """A cluster of two nodes that the command finds by RAY_ADDRESS; one of them goes away in the
    middle.
    """
    root, _, _ = made
    out, settings = root / "nodes", [word for value in films.SETTINGS for word in ("--set", value)]
    command = [
        sys.executable,
        "-m",
        "flowportrait",
        "prepare",
        root / "films",
        "-o",
        out,
        "--engine",
        "ray",
        "--workers",
        "2",
        *settings,
        *PLUGGED,
    ]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_nodes.py"), out / "journal.jsonl", *command],
        env=os.environ
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{root / 'plugins'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown(out) == shown(root / "one") and clips_of(out) == clips_of(root / "one")


@NEEDS_RAY
def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    path = film(tmp_path / "a.mp4", [("a", 60, 90)])
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert (
        cli.run(
            [
                "prepare",
                str(path),
                "-o",
                str(tmp_path / "out"),
                "--engine",
                "ray",
                "--set",
                "speaker.network=none",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err.splitlines()
    assert (
        said[-1].startswith("error: --engine ray: no cluster at nowhere (")
        and "unset RAY_ADDRESS" in said[-1]
    )


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = film(tmp_path / "a.mp4", [("a", 60, 90)])
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.run(["prepare", str(path), "-o", str(tmp_path / "out"), "--engine", "ray"]) == 1
    assert (
        "pip install 'flowportrait[ray]'" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )


# ------------------------------------------------------------------------------------------ parts


@pytest.fixture
def folder(tmp_path):
    """Five films in a folder."""
    (tmp_path / "films").mkdir()
    for number, (who, count) in enumerate([("a", 60), ("b", 72), ("", 50), ("a", 49), ("ab", 60)]):
        film(tmp_path / "films" / f"{number}.mp4", [(who, count, 40 * number)])
    return tmp_path / "films"


def test_parts_become_the_dataset_of_one_run(here, folder, tmp_path):
    whole = prepare([folder], tmp_path / "whole", config())
    roots = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, root in enumerate(roots, 1):
        own = prepare([folder], root, config(), part=Part(number=number, of=3))
        assert 1 <= len(own.records) <= 2
    merged = merge([roots[2], roots[0], roots[1]], tmp_path / "merged")
    assert merged.rows() == whole.rows() and len(merged.rows()) >= 4
    assert shown(tmp_path / "merged") == shown(tmp_path / "whole")
    assert clips_of(tmp_path / "merged") == clips_of(tmp_path / "whole")
    again = merge(roots, tmp_path / "merged")
    assert again.rows() == whole.rows()
    # It is a dataset as any: the whole run finds everything done.
    assert prepare([folder], tmp_path / "merged", config()).kept == 5


def test_parts_that_do_not_fit_are_refused(here, folder, tmp_path):
    roots = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, root in enumerate(roots, 1):
        prepare([folder], root, config(), part=Part(number=number, of=2))

    def refused(message, *given):
        with pytest.raises(DataError, match=message):
            merge(given, tmp_path / "merged")
        assert not (tmp_path / "merged" / "manifest.jsonl").exists()

    refused("part 2 of 2 is not among 1 parts; give all of them", roots[0])
    refused("is part 1 of 2, as is .*; leave one out", roots[0], roots[0], roots[1])
    refused("films: not a part of a dataset; give folders", folder, roots[1])
    other = tmp_path / "other"
    prepare([folder], other, config("clips.min_s=1"), part=Part(number=2, of=2))
    refused("other: was made with other settings or weights than", roots[0], other)
    film(folder / "new.mp4", [("a", 60, 10)])
    prepare([folder], tmp_path / "more", config(), part=Part(number=2, of=2))
    refused(
        "more: was made from other sources than .*; all parts need the same list",
        roots[0],
        tmp_path / "more",
    )
    prepare([folder], tmp_path / "third", config(), part=Part(number=2, of=3))
    refused("is part 2 of 3, .* is part 1 of 2; give parts of one", roots[0], tmp_path / "third")
    (roots[1] / "manifest.jsonl").unlink()
    refused("part-2: unfinished; run its `prepare --part` again", *roots)


def test_a_folder_holds_one_part(here, folder, tmp_path):
    out = tmp_path / "part"
    prepare([folder], out, config(), part=Part(number=1, of=2))
    for part, message in (
        (Part(number=2, of=2), "is part 1 of 2, got --part 2/2; give another -o"),
        (None, "is part 1 of 2, got no --part; give another -o"),
    ):
        with pytest.raises(DataError, match=message):
            prepare([folder], out, config(), part=part)
    prepare([folder], tmp_path / "whole", config())
    with pytest.raises(DataError, match="whole: is no part, got --part 1/2"):
        prepare([folder], tmp_path / "whole", config(), part=Part(number=1, of=2))
    film(folder / "new.mp4", [("a", 60, 10)])
    with pytest.raises(
        DataError,
        match=r"is part 1 of 2 of other sources \(5\); give the same, or another -o",
    ):
        prepare([folder], out, config(), part=Part(number=1, of=2))


def test_a_part_of_nothing_is_a_part(here, folder, tmp_path):
    """More parts than sources: what is left over is empty, and fits."""
    roots = [tmp_path / f"part-{number}" for number in range(1, 8)]
    for number, root in enumerate(roots, 1):
        prepare([folder], root, config(), part=Part(number=number, of=7))
    assert len(merge(roots, tmp_path / "merged").records) == 5
    save_resolved(load_recipe(roots[0] / "part.json", PartFile), tmp_path / "copy.json")


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_what_no_part_can_be_called(text):
    with pytest.raises(ConfigError, match=r"--part: got '.*'; give number/count, such as 2/8"):
        Part.named(text)


def test_the_command_merges(here, folder, tmp_path, capsys):
    settings = [word for value in films.SETTINGS for word in ("--set", value)]
    for number in (1, 2):
        out = str(tmp_path / f"part-{number}")
        assert cli.run(["prepare", str(folder), "-o", out, "--part", f"{number}/2", *settings]) == 0
    assert (
        cli.run(
            [
                "merge",
                str(tmp_path / "part-1"),
                str(tmp_path / "part-2"),
                "-o",
                str(tmp_path / "all"),
            ]
        )
        == 0
    )
    assert "2 parts, 5 sources, " in capsys.readouterr().out
    assert cli.run(["merge", str(tmp_path / "part-1"), "-o", str(tmp_path / "some")]) == 2
    assert "part 2 of 2 is not among 1 parts" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------
# object storage


def test_footage_in_storage_is_fetched_a_source_at_a_time(here, folder, bucket, tmp_path):
    """The dataset, written there, too, is that of the same files on this machine; nothing of the
    footage stays.
    """
    (folder / "broken.mp4").write_bytes(b"no video")
    for path in folder.iterdir():
        bucket.put_file(str(path), f"data/films/{path.name}")
    settings = [word for value in films.SETTINGS for word in ("--set", value)]
    assert cli.run(["prepare", "films", "-o", "local", *settings]) == 0
    command = ["prepare", "s3://data/films", "-o", "s3://data/set", *settings]
    assert cli.run(command) == 0
    clips = clips_of(tmp_path / "local")
    assert len(clips) >= 4
    assert {name: bucket.cat(f"data/set/clips/{name}") for name in clips} == clips
    manifest = bucket.cat("data/set/manifest.jsonl")
    assert manifest == (tmp_path / "local/manifest.jsonl").read_bytes()
    assert b"s3://data/films/broken.mp4: cannot be read" in bucket.cat("data/set/report.md")
    assert not list(tmp_path.rglob("cache/**/films/*.mp4"))


def test_a_dataset_in_storage_goes_on_on_another_machine(
    here, folder, bucket, tmp_path, monkeypatch, capsys
):
    settings = [word for value in films.SETTINGS for word in ("--set", value)]
    command = ["prepare", "films", "-o", "s3://data/set", *settings]
    assert cli.run(command) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    film(folder / "more.mp4", [("b", 60, 10)])
    capsys.readouterr()
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert "6 sources, 5 of them from before" in said and said.endswith(": s3://data/set\n")
