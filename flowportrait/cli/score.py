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
    bool, typer.Option("--retry-unscored", help="Try again what has no score.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing", help="Leave out scorers whose weights are missing; the results list them."
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, max=4096, help="Number of clips that are scored at the same time.")
]


Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Videos, folders of videos, or manifests; NAME=DIR names a generator.",
    ),
]
Scorers = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Names with commas (see: list scorers), or standard, or paper.",
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
    typer.Option(metavar="DIR|MANIFEST", help="Real videos of the same names or ids."),
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
    """Give every video a number from every scorer, or the reason why there is none."""
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
        help="Generated videos: folders or manifests; NAME=DIR names a generator.",
    ),
]
EvaluateTruth = Annotated[
    Path, typer.Option(metavar="DIR|MANIFEST", help="Real videos of the same names or ids.")
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
        help="Names with commas (see: list scorers), or standard, or paper.",
        autocompletion=names("scorers"),
    ),
]
Sets = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Metrics of whole sets (see: list sets); an empty word for none.",
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
    """Score generated videos against real ones and write a report with the videos in it."""
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
        metavar="B", help="The same speech by another generator; many by the same names."
    ),
]
System = Annotated[
    str, typer.Option(metavar="direct|icl|ma", help="Judge system that compares them.")
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
    """Say which of two videos is better, or of two folders how often each wins."""
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
        Path | None, typer.Option(metavar="FILE.toml", help="What goes wrong, and how often.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Run a simulated judge that misbehaves as real ones do, to try judge runs at no cost."""
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
    """List the judges that can be named: --set judge.preset=NAME."""
    from flowportrait.scoring.judges import command

    command.presets(name, json)


@judges_app.command()
def prompts(
    copy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy the prompts into this folder, to be changed."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the prompts with their source, or copy them into a folder of your own."""
    from flowportrait.scoring.judges import command

    command.prompts(copy, json)


@judges_app.command()
def agree(
    old: Annotated[
        Path, typer.Argument(metavar="[NAME=]OLD.jsonl", help="Scores of the judge so far.")
    ],
    new: Annotated[
        Path,
        typer.Argument(metavar="[NAME=]NEW.jsonl", help="Scores of the same clips by another."),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.json", help="The numbers as JSON.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how far two judges agree on the same clips, and how their scores are offset, by
    aspect.
    """
    from flowportrait.scoring.judges import command

    command.agree(old, new, out, json)
