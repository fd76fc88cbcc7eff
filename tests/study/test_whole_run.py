"""A study as its owner runs it from the command line, with simulated raters in between."""

import csv
import json

import pytest
from simulated_raters import QUALITY, simulate

from flowportrait import cli
from flowportrait.records import Pair, Ranking, Rating, read_jsonl
from flowportrait.study.store import Study


def run(*arguments: object) -> None:
    assert cli.run([str(a) for a in arguments]) == 0


def test_from_folders_to_table_one(folders, tmp_path, capsys):
    study, scores = tmp_path / "study", tmp_path / "scores.jsonl"
    versions = [f"{name}={folders / name}" for name in QUALITY]
    run(
        "study",
        "create",
        study,
        "--versions",
        *versions,
        "--raters",
        "ann,bob,cy",
        "--truth",
        "original",
        "--repeats",
        1,
        "--training",
        1,
        "--seed",
        3,
        "--json",
    )
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["samples"] == 5 and [r["sets"] for r in made["raters"]] == [7, 7, 7]
    simulate(Study(study))

    run("study", "export", study, "-o", tmp_path / "export")
    ratings = list(read_jsonl(tmp_path / "export" / "ratings.jsonl", Rating))
    rankings = list(read_jsonl(tmp_path / "export" / "rankings.jsonl", Ranking))
    pairs = list(read_jsonl(tmp_path / "export" / "pairs.jsonl", Pair))
    assert len(rankings) == 3 * (5 + 1) and len(ratings) == 3 * 6 * 3 * 3 and len(pairs) == 5 * 3
    assert sum(r.repeat for r in rankings) == 3

    run("study", "agreement", study, "--draws", 500, "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(a["alpha_ordinal"]["value"] > 0.6 for a in found["aspects"])
    assert [
        s["version"]
        for s in sorted(found["strengths"], key=lambda s: -(s["strength"]["value"] or 0))
    ]
    assert all(r["repeats"] == 1 and r["left"] == 0 for r in found["per_rater"])

    run(
        "score",
        *(folders / name for name in QUALITY),
        "--scorers",
        "sharpness,ssim",
        "--truth",
        folders / "original",
        "-o",
        scores,
    )
    run("study", "align", study, "--scores", scores, "--draws", 500)
    result = json.loads((study / "align.json").read_text())
    rows = {(row["system"], row["scope"]): row for row in result["rows"]}
    sharpness = rows["sharpness", "all pairs"]["accuracy"]
    assert sharpness["pairs"] == result["kept"] == sum(pair.winner is not None for pair in pairs)
    assert sharpness["acc"]["value"] > 0.9 and sharpness["missing"] == 0
    assert rows["ssim", "without the truth"]["default"] and not rows["ssim", "all pairs"]["default"]
    with (study / "align.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["Method"] for row in table} >= {"sharpness", "ssim", "rater ann against the others"}

    # Tables, figures and the page of what there is.
    sources = [study, scores, "--judge", "sharpness"]
    run("report", "tables", *sources, "-o", tmp_path / "tables")
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert "| sharpness | 100.0 [" in text or "| sharpness | 9" in text
    assert "Table 5" in text and "no training run was given" in text
    with (tmp_path / "tables" / "table4.csv").open() as file:
        means = {
            row["row"]: float(row["value"])
            for row in csv.DictReader(file)
            if row["column"] == "Avg"
        }
    assert means["original"] > means["mild"] > means["poor"]
    pytest.importorskip("matplotlib")
    run("report", "figures", *sources, "-o", tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "figure2.png",
        "figure2.svg",
    ]
    run("report", "page", *sources, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Krippendorff" in page and "Figure 2" in page and "Without data" in page


def test_the_export_says_what_the_study_says(study, folders, tmp_path):
    simulate(study)
    scores = tmp_path / "scores.jsonl"
    run("score", *(folders / name for name in QUALITY), "--scorers", "sharpness", "-o", scores)
    run("study", "align", study.directory, "--scores", scores, "--draws", 500)
    run("study", "export", study.directory, "-o", tmp_path / "export")
    result = json.loads((study.directory / "align.json").read_text())
    run("study", "align", tmp_path / "export", scores, "--draws", 500)
    again = json.loads((tmp_path / "export" / "align.json").read_text())
    assert again == result


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "create", "{new}", "--versions", "a={original}"], "at least two"),
        (["study", "create", "{new}", "--versions", "original"], "write NAME=DIR"),
        (["study", "create", "{new}", "--versions", "a={original}", "a={mild}"], "twice"),
        (["study", "create", "{new}", "--versions", "a={original}", "b={none}"], "no such folder"),
        (
            ["study", "create", "{new}", "--versions", "a>b={original}", "c={mild}"],
            "not a valid name",
        ),
        (
            ["study", "create", "{new}", "--versions", "a={original}", "b={mild}", "--truth", "c"],
            "no version 'c'",
        ),
        (
            [
                "study",
                "create",
                "{new}",
                "--versions",
                "a={original}",
                "b={mild}",
                "--repeats",
                "9",
            ],
            "at most 2",
        ),
        (
            [
                "study",
                "create",
                "{new}",
                "--versions",
                "a={original}",
                "b={mild}",
                "--training",
                "6",
            ],
            "from 0 to 5",
        ),
        (
            [
                "study",
                "create",
                "{new}",
                "--versions",
                "a={original}",
                "b={mild}",
                "--raters",
                "x,x",
            ],
            "must differ",
        ),
        (
            [
                "study",
                "create",
                "{new}",
                "--versions",
                "a={original}",
                "b={mild}",
                "--per-sample",
                "4",
            ],
            "from 1 to 3",
        ),
        (
            ["study", "create", "{original}", "--versions", "a={original}", "b={mild}"],
            "already exists",
        ),
        (["study", "export", "{original}"], "neither a study"),
        (["study", "agreement", "{none}"], "neither a study"),
    ],
)
def test_wrong_input_is_one_line(arguments, words, folders, tmp_path, capsys):
    places = {name: folders / name for name in QUALITY} | {
        "new": tmp_path / "new",
        "none": tmp_path / "none",
    }
    assert cli.run([argument.format(**places) for argument in arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and words in errors[0]
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.part").exists()
