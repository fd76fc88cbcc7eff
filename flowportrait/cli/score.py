"""Commands that judge videos: `score`, `compare`, `evaluate`, `judge-sim`; what they do stands in
`scoring.command`.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from flowportrait.cli.shared import Answers, Debug, Json, Overrides, ScoringFile, progress_bar

app = typer.Typer()
judges_app = typer.Typer(
    no_args_is_help=True, help="Judges by name, their prompts, and two of them side by side."
)
app.add_typer(judges_app, name="judges")

RetryUnscored = Annotated[
    bool, typer.Option("--retry-unscored", help="Try those again that have no score.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")]
SkipMissing = Annotated[
    bool,
    typer.Option("--skip-missing", help="Leave out what lacks its weights; the record lists it."),
]
Workers = Annotated[
    int, typer.Option(min=1, max=64, help="Clips that are looked at at the same time.")
]


@app.command()
def score(
    sources: Annotated[
        list[Path], typer.Argument(metavar="VIDEO|DIR|MANIFEST...", help="What to score.")
    ],
    scorers: Annotated[
        str, typer.Option(metavar="a,b,c", help="See: list scorers; or standard, paper.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="scores.jsonl", help="Goes on where it ends.")
    ],
    truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR|MANIFEST", help="Real videos of the same names or ids."),
    ] = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    workers: Workers = 2,
    dry_run: DryRun = False,
    skip_missing: SkipMissing = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Give every video a number from every scorer, or the reason why there is none."""
    from flowportrait.scoring import command

    with progress_bar("scoring", beats=True) as progress:
        command.score(
            sources,
            scorers,
            out,
            truth=truth,
            config=config,
            overrides=overrides or [],
            answers=answers,
            retry_unscored=retry_unscored,
            workers=workers,
            dry_run=dry_run,
            skip_missing=skip_missing,
            as_json=json,
            progress=progress,
        )


@app.command()
def evaluate(
    generated: Annotated[
        list[Path], typer.Argument(metavar="VIDEO|DIR|MANIFEST...", help="Generated videos.")
    ],
    truth: Annotated[
        Path, typer.Option(metavar="DIR|MANIFEST", help="Real videos of the same names or ids.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="REPORT_DIR", help="Goes on where it ends.")
    ],
    scorers: Annotated[
        str, typer.Option(metavar="a,b,c", help="See: list scorers; or standard, paper.")
    ] = "standard",
    sets: Annotated[
        str, typer.Option(metavar="a,b", help="See: list sets; an empty word for none.")
    ] = "frechet-lite0",
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    workers: Workers = 2,
    dry_run: DryRun = False,
    skip_missing: SkipMissing = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score generated videos against the real ones, with a report to look at."""
    from flowportrait.scoring import command

    with ExitStack() as bars:
        command.evaluate(
            generated,
            truth,
            out,
            names=scorers,
            sets=sets,
            config=config,
            overrides=overrides or [],
            workers=workers,
            answers=answers,
            retry_unscored=retry_unscored,
            dry_run=dry_run,
            skip_missing=skip_missing,
            as_json=json,
            progress=lambda label: bars.enter_context(progress_bar(label, beats=True)),
        )


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.mp4|DIR|MANIFEST", help="One video, or many.")],
    b: Annotated[
        Path,
        typer.Argument(
            metavar="B.mp4|DIR|MANIFEST", help="Of the same speech; many by the same names."
        ),
    ],
    system: Annotated[
        str, typer.Option(metavar="direct|icl|ma", help="How they are compared.")
    ] = "ma",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.jsonl", help="Goes on there.")
    ] = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: RetryUnscored = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which of two videos is the better one, or how often those of one folder are."""
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
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    faults: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What goes wrong, and how often.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Run a simulated judge that misbehaves as real ones do, to test judge runs without money."""
    from flowportrait.scoring import command

    command.judge_sim(host, port, faults)


@judges_app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show what this one holds.")
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
        Path | None, typer.Option(metavar="DIR", help="Copy them there, to be changed.")
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
