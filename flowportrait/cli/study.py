"""Commands of the human study and of the paper's tables: `study`, `report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flowportrait.cli.shared import AllowHost, Debug, Json, progress_bar
from flowportrait.errors import require

app = typer.Typer()
study_app = typer.Typer(
    no_args_is_help=True, help="Have people rate and rank videos, and compare judges with them."
)
report_app = typer.Typer(
    no_args_is_help=True, help="Make the paper's tables and figures from results on disk."
)
app.add_typer(study_app, name="study")
app.add_typer(report_app, name="report")

StudyDir = Annotated[
    Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, or of its export.")
]
Draws = Annotated[
    int, typer.Option(min=100, max=1_000_000, help="Number of bootstrap resamples per interval.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]


Directory = Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="New folder for the study.")]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=DIR", help="Further versions, as for --versions."),
]
Versions = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=DIR", help="Name of a version and its folder of videos."),
]
Raters = Annotated[
    str,
    typer.Option(metavar="N|NAMES", help="Number of raters, or their names separated by commas."),
]
PerSample = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of raters per sample; 3, or all if there are fewer, by default."
    ),
]
Truth = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the version with the original recordings."),
]
Repeats = Annotated[
    int,
    typer.Option(
        min=0, help="Number of samples shown to each rater a second time, without notice."
    ),
]
Training = Annotated[
    int, typer.Option(min=0, help="Number of practice samples, which do not count.")
]
Incomplete = Annotated[
    Literal["refuse", "skip"],
    typer.Option(help="How to handle samples that are missing from a version."),
]


@study_app.command()
def create(
    directory: Directory,
    more: More = None,
    versions: Versions = None,
    raters: Raters = "3",
    per_sample: PerSample = None,
    truth: Truth = None,
    repeats: Repeats = 0,
    training: Training = 0,
    incomplete: Incomplete = "refuse",
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Create a study: copy videos under blind names, assign raters, and print their tokens."""
    from flowportrait.study import command

    with progress_bar("copying") as progress:
        command.create(
            directory,
            [*(versions or []), *(more or [])],
            raters,
            per_sample=per_sample,
            truth=truth,
            repeats=repeats,
            training=training,
            seed=seed,
            incomplete=incomplete,
            as_json=json,
            progress=progress,
        )


@study_app.command()
def serve(
    directory: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of the study.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; use 0.0.0.0 for raters on other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 7861,
    allow_host: AllowHost = None,
    debug: Debug = False,
) -> None:
    """Serve the rating pages, with a personal link for each rater, until interrupted."""
    require("fastapi", extra="web")
    require("uvicorn", extra="web")
    from flowportrait.web import study as pages

    pages.serve(directory, host, port, allow_host or (), say=typer.echo)


@study_app.command()
def export(
    directory: StudyDir,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder to write; STUDY_DIR/export by default."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write ratings, rankings and agreed pairs as JSON Lines, with the names of the versions."""
    from flowportrait.study import command

    command.export(directory, out, as_json=json)


@study_app.command()
def agreement(
    directory: StudyDir,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.json", help="JSON file for the results."),
    ] = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Report agreement between raters, each rater's consistency and each version's strength."""
    from flowportrait.study import command

    command.agreement(directory, out, draws=draws, seed=seed, as_json=json)


AlignMore = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE", help="Further scores or verdicts; the kind is detected from the content."
    ),
]
Scores = Annotated[
    list[Path] | None,
    typer.Option(metavar="[NAME=]FILE", help="Output of `score`; NAME distinguishes judges."),
]
Verdicts = Annotated[
    list[Path] | None, typer.Option(metavar="[NAME=]FILE", help="Output of `compare`.")
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="DIR", help="Folder to write; STUDY_DIR by default."),
]
Preference = Annotated[
    Literal["ranking", "scores"],
    typer.Option(help="Take preferences from the raters' rankings or from their summed scores."),
]
Higher = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="External scorer for which higher is better."),
]
Lower = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="External scorer for which lower is better."),
]
NeedsTruth = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="External scorer that compares with the original recording."),
]
Width = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=1,
        help="Target width of the interval of Acc; the number of missing pairs is reported.",
    ),
]


@study_app.command()
def align(
    directory: StudyDir,
    more: AlignMore = None,
    scores: Scores = None,
    verdicts: Verdicts = None,
    out: Out = None,
    preference: Preference = "ranking",
    higher: Higher = None,
    lower: Lower = None,
    needs_truth: NeedsTruth = None,
    width: Width = 0.04,
    draws: Draws = 10_000,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare judges and metrics with the raters (Table 1); writes align.json, align.csv and
    align.md.
    """
    from flowportrait.study import command

    command.align(
        directory,
        scores or [],
        verdicts or [],
        more or [],
        out,
        preference=preference,
        higher=higher or [],
        lower=lower or [],
        needs_truth=needs_truth or [],
        draws=draws,
        seed=seed,
        width=width,
        as_json=json,
    )


Made = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN_OR_STUDY...",
        help="Studies, scores or runs: PATH, LABEL=PATH, or LABEL@SET=PATH for another test set.",
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        metavar="NAME|a,b,c",
        help="Judge whose aspects are shown, or three scorers, one per aspect.",
    ),
]
Baseline = Annotated[
    str | None, typer.Option(metavar="LABEL", help="Run that Table 5 compares the others with.")
]
Curves = Annotated[
    list[str] | None,
    typer.Option("--curve", metavar="NAME", help="Logged value that Figure 5 plots."),
]


@report_app.command()
def tables(
    sources: Made,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write the tables to.")
    ],
    judge: Judge = "mas-ma",
    baseline: Baseline = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write Tables 1 to 5 as Markdown, CSV and LaTeX, and list why cells are empty."""
    from flowportrait.report import command

    command.tables(sources, out, judge=judge, baseline=baseline, as_json=json)


@report_app.command()
def figures(
    sources: Made,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write the figures to.")
    ],
    judge: Judge = "mas-ma",
    curves: Curves = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw Figures 2, 3, 5, 6 and 8 as SVG and PNG."""
    from flowportrait.report import command

    command.figures(
        sources,
        out,
        judge=judge,
        curves=curves or [],
        as_json=json,
    )


Videos = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]DIR|MANIFEST", help="Scored videos to play on the page."),
]
PageTruth = Annotated[
    Path | None, typer.Option(metavar="DIR|MANIFEST", help="Real videos to play beside them.")
]


@report_app.command()
def page(
    sources: Made,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="Page to write.")],
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Results",
    judge: Judge = "mas-ma",
    baseline: Baseline = None,
    curves: Curves = None,
    videos: Videos = None,
    truth: PageTruth = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one HTML page with all tables and figures that have data; it needs no network.

    With --videos, the page also plays videos, which are copied to a folder next to it.
    """
    from flowportrait.report import command

    command.page(
        sources,
        out,
        title=title,
        judge=judge,
        baseline=baseline,
        curves=curves or [],
        videos=videos or [],
        truth=truth,
        as_json=json,
    )


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="LABEL=PATH...",
        help="A video, a folder of videos, or the directory of a training run.",
    ),
]
StripsOut = Annotated[
    Path, typer.Option("-o", "--out", metavar="FILE.png", help="Picture to write, as .png or .svg.")
]
Clips = Annotated[
    list[str] | None,
    typer.Option("--clip", metavar="NAME", help="Name of a video without its suffix."),
]


@report_app.command()
def strips(
    sources: Sources,
    out: StripsOut,
    clips: Clips = None,
    frames: Annotated[int, typer.Option(min=2, max=24, help="Frames per row.")] = 8,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw frames of the same clips by several models in rows, as in Figures 4, 7 and 8."""
    from flowportrait.report import command

    command.strips(sources, out, clips=clips or [], count=frames, as_json=json)
