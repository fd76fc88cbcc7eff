"""Commands that judge videos: `score`, `compare`, `evaluate`, `judge-sim`; what they do stands in
`scoring.command`.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from flowportrait import storage
from flowportrait.cli.shared import (
    Answers,
    Debug,
    EngineName,
    Json,
    Overrides,
    PartName,
    ScoringFile,
    divided,
    names,
    progress_bar,
)

app = typer.Typer()
judges_app = typer.Typer(
    no_args_is_help=True, help="List judges and their prompts, and compare two judges."
)
app.add_typer(judges_app, name="judges")

RetryUnscored = Annotated[
    bool, typer.Option("--retry-unscored", help="Retry the clips that have no score.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the estimated cost and exit.")]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing",
        help="Skip scorers whose weights are missing; the results list them.",
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, max=4096, help="Number of clips that are scored at the same time.")
]


Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Videos, folders of videos, or manifests; NAME=DIR gives the generator a name.",
    ),
]
Scorers = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Comma-separated names (see: list scorers), or the group standard or paper.",
        autocompletion=names("scorers"),
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="FILE.jsonl", help="File to write; an existing one is continued."
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(metavar="DIR|MANIFEST", help="Real videos with the same names or ids."),
]


@app.command()
def score(
    sources: Sources,
    scorers: Scorers,
    out: Out,
    truth: Truth = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    workers: Workers = 2,
    engine: EngineName = "local",
    part: PartName = None,
    dry_run: DryRun = False,
    skip_missing: SkipMissing = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score videos with metrics and judges; a missing score is recorded with its reason."""
    from flowportrait.scoring import command

    division = divided(engine, workers, part, out)
    with storage.written(out) as place, progress_bar("scoring", beats=True) as progress:
        command.score(
            sources,
            scorers,
            place,
            truth=truth,
            config=config,
            overrides=overrides or [],
            answers=answers,
            retry_unscored=retry_unscored,
            division=division,
            dry_run=dry_run,
            skip_missing=skip_missing,
            as_json=json,
            progress=progress,
        )


Generated = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Generated videos: folders or manifests; NAME=DIR gives the generator a name.",
    ),
]
EvaluateTruth = Annotated[
    Path, typer.Option(metavar="DIR|MANIFEST", help="Real videos with the same names or ids.")
]
EvaluateOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="REPORT_DIR",
        help="Folder to write; an existing one is continued.",
    ),
]
EvaluateScorers = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Comma-separated names (see: list scorers), or the group standard or paper.",
        autocompletion=names("scorers"),
    ),
]
Sets = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Metrics of whole sets of videos (see: list sets); '' for none.",
        autocompletion=names("sets"),
    ),
]


@app.command()
def evaluate(
    generated: Generated,
    truth: EvaluateTruth,
    out: EvaluateOut,
    scorers: EvaluateScorers = "standard",
    sets: Sets = "frechet-lite0",
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    workers: Workers = 2,
    engine: EngineName = "local",
    part: PartName = None,
    dry_run: DryRun = False,
    skip_missing: SkipMissing = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score generated videos against real ones and write an HTML report with the videos."""
    from flowportrait.scoring import command

    division = divided(engine, workers, part, out)
    with storage.written(out) as place, ExitStack() as bars:
        command.evaluate(
            generated,
            truth,
            place,
            names=scorers,
            sets=sets,
            config=config,
            overrides=overrides or [],
            division=division,
            answers=answers,
            retry_unscored=retry_unscored,
            dry_run=dry_run,
            skip_missing=skip_missing,
            as_json=json,
            progress=lambda label: bars.enter_context(progress_bar(label, beats=True)),
        )


A = Annotated[Path, typer.Argument(metavar="A", help="A video, a folder of videos, or a manifest.")]
B = Annotated[
    Path,
    typer.Argument(
        metavar="B",
        help="The same speech by another generator; in a folder, under the same file names.",
    ),
]
System = Annotated[
    str, typer.Option(metavar="direct|icl|ma", help="Judge system that makes the comparison.")
]
CompareOut = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE.jsonl",
        help="File for the verdicts; an existing one is continued.",
    ),
]


@app.command()
def compare(
    a: A,
    b: B,
    system: System = "ma",
    out: CompareOut = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a judge which of two videos is better, or how often each of two folders wins."""
    from flowportrait.scoring import command

    with progress_bar("comparing", beats=True) as progress:
        command.compare(
            a,
            b,
            system,
            out=out,
            config=config,
            overrides=overrides or [],
            answers=answers,
            retry_unsaid=retry_unscored,
            dry_run=dry_run,
            as_json=json,
            progress=progress,
        )


@app.command("judge-sim")
def judge_sim(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 0,
    faults: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Faults to simulate, and their rates.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Run a simulated judge server with the faults of real ones, to test runs at no cost."""
    from flowportrait.scoring import command

    command.judge_sim(host, port, faults)


@judges_app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the settings of this preset.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the judge presets, for --set judge.preset=NAME."""
    from flowportrait.scoring.judges import command

    command.presets(name, json)


@judges_app.command()
def prompts(
    copy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy the prompts into this folder for editing."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the judges' prompts with their sources, or copy them for editing."""
    from flowportrait.scoring.judges import command

    command.prompts(copy, json)


@judges_app.command()
def agree(
    old: Annotated[
        Path, typer.Argument(metavar="[NAME=]OLD.jsonl", help="Scores by the old judge.")
    ],
    new: Annotated[
        Path,
        typer.Argument(metavar="[NAME=]NEW.jsonl", help="Scores of these clips by the new judge."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.json", help="JSON file for the results."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure per aspect how far two judges agree on the same clips, and their scores' offset."""
    from flowportrait.scoring.judges import command

    command.agree(old, new, out, json)
