"""What a report says of training runs: gains with intervals, strips of frames, torn logs."""

import csv
import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

from flowportrait import cli
from flowportrait.media import write_video

UPDATES = (0, 20)
COLOURS = {"a": (200, 40, 40), "b": (40, 60, 200)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with looks: clips of one colour, brighter after the last look."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        (root / name).mkdir()
        config = {"rollout": {"eta": 0.5, "window": {"width": 1}}}
        (root / name / "config.json").write_text(json.dumps(config))
        gains = {"mesh_lips": [0.04, 0.01, 0.07], "lse": [None, None, None]}
        lines = [
            json.dumps({"event": "look", "update": 0, "held_out_reward": 0.0, "jitter": 1.0}),
            '{"update": 3, "lo{"update": 4, "loss": 0.1}',
            json.dumps({"event": "look", "update": 20, "gains": gains, "jitter": 1.1}),
            '{"upd',
        ]
        (root / name / "log.jsonl").write_text("\n".join(lines))
        for update, clip in product(UPDATES, ("00", "01")):
            video(root / name / "samples" / f"{update:06d}" / f"{clip}.mp4", name, update)
    return root


def video(path, name, update, num_frames=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.zeros((num_frames, 64, 64, 3), np.uint8)
    frames[:] = np.array(COLOURS[name]) // (2 if update == 0 else 1)
    write_video(path, frames, 24.0, np.zeros(8000, np.float32), 16000, {})


def test_gains_stand_with_their_intervals(runs, tmp_path, capsys):
    words = ["report", "tables", f"one={runs / 'a'}", f"two={runs / 'b'}", "-o", str(tmp_path)]
    assert cli.run(words) == 0
    with (tmp_path / "table6.csv").open() as file:
        found = {(row["row"], row["column"]): row for row in csv.DictReader(file)}
    lips = found["one", "mesh_lips"]
    assert [float(lips[name]) for name in ("value", "low", "high")] == [0.04, 0.01, 0.07]
    assert found["two", "update"]["value"] == "20" and found["two", "lse"]["reason"]
    assert "line 2 was torn by a kill; left out" in capsys.readouterr().err


def colours_of(picture):
    """The colours that fill rows of a strip, in order."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
    known = {
        (n, u): np.array(COLOURS[n]) // (2 if u == 0 else 1) for n, u in product("ab", UPDATES)
    }
    return {
        key for key, colour in known.items() if (np.abs(pixels - colour).max(1) < 12).sum() > 500
    }


def test_figure_8_is_made_of_what_runs_left(runs, tmp_path, capsys):
    words = ["report", "figures", f"one={runs / 'a'}", f"two={runs / 'b'}", "-o", str(tmp_path)]
    assert cli.run([*words, "--curve", "jitter"]) == 0
    assert colours_of(tmp_path / "figure8.png") == {("a", 0), ("a", 20), ("b", 20)}
    assert "figure8" not in json.dumps(capsys.readouterr().err)


def test_strips_of_runs_folders_and_files(runs, tmp_path, capsys):
    out, clip = tmp_path / "s.png", runs / "b" / "samples" / "000000" / "01.mp4"
    shown = ["report", "strips", f"RL={runs / 'a'}", f"SFT={clip.parent}", "-o", str(out), "--json"]
    assert cli.run([*shown, "--clip", "01", "--frames", "4"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"output": str(out), "rows": 2, "frames": 4}
    assert colours_of(out) == {("a", 20), ("b", 0)}
    assert cli.run(["report", "strips", f"x={clip}", "-o", str(tmp_path / "one.svg")]) == 0
    assert (tmp_path / "one.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{runs}/a", "-o", "x.jpg"], "give the name of a file that ends in .png or .svg"),
        (["{runs}/a", "-o", "x.png", "--clip", "07"], "no clip '07'; clips in all sources: 00, 01"),
        (["{runs}", "-o", "x.png"], "contains no video; give a video, a folder of videos or a run"),
    ],
)
def test_wrong_strips_are_one_line(runs, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("{runs}", str(runs)) for word in words]
    assert cli.run(["report", "strips", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
