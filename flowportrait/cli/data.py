"""Commands that make datasets: `prepare`; what it does stands in `data.prepared`."""

from pathlib import Path
from typing import Annotated

import typer

from flowportrait import storage
from flowportrait.cli.shared import Debug, Json, Overrides, json_line, progress_bar

app = typer.Typer()


Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...", help="Videos, folders of videos, or lists of them (.jsonl)."
    ),
]
DatasetOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="DATASET",
        help="Folder to write; an unfinished one is continued.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="RECIPE",
        help="TOML file with the settings that differ from the defaults, or a shipped recipe.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray", help="Run on this machine, or on the Ray cluster at RAY_ADDRESS."
    ),
]
Workers = Annotated[
    int,
    typer.Option(min=1, max=4096, help="Number of processes; each takes one source at a time."),
]
Part = Annotated[
    str | None,
    typer.Option(metavar="i/n", help="Prepare only part i of n; `merge` joins the parts."),
]


@app.command()
def prepare(
    sources: Sources,
    out: DatasetOut,
    config: Config = None,
    overrides: Overrides = None,
    engine: Engine = "local",
    workers: Workers = 1,
    part: Part = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Cut talking-head clips out of videos for training (Appendix B), and log why others drop."""
    from flowportrait.prepare import dataset

    with storage.written(out) as place, progress_bar("preparing") as progress:
        summary = dataset.command(
            sources,
            place,
            config=config,
            overrides=overrides or [],
            engine=engine,
            workers=workers,
            part=part,
            progress=progress,
        )
    for what in summary["not_checked"]:
        typer.echo(f"warning: not checked: {what}", err=True)
    for reason, found in summary["dropped"].items():
        typer.echo(f"dropped as {reason}: {found['seconds']:.1f} s of {found['sources']} sources")
    kept = ""
    if summary["kept_sources"]:
        kept = f", {summary['kept_sources']} of them from before"
    typer.echo(
        f"{summary['sources']} sources{kept}, {summary['seconds_in']:.1f} s: {summary['clips']}"
        f" clips, {summary['seconds_out']:.1f} s: {storage.name_of(place)}"
    )
    if json:
        typer.echo(
            json_line({name: value for name, value in summary.items() if name != "settings"})
        )


Parts = Annotated[
    list[Path],
    typer.Argument(metavar="PART...", help="All folders that `prepare --part` wrote."),
]
Out = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="DATASET", help="Folder to write the whole dataset to."),
]


@app.command()
def merge(
    parts: Parts,
    out: Out,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Join the parts of a preparation into the dataset that one run would have written."""
    from flowportrait.prepare.dataset import summarize
    from flowportrait.prepare.merge import merge as join

    with storage.written(out) as place:
        summary = summarize(join([storage.fetched(part) for part in parts], place))
    typer.echo(
        f"{len(parts)} parts, {summary['sources']} sources, {summary['seconds_in']:.1f} s:"
        f" {summary['clips']} clips, {summary['seconds_out']:.1f} s: {storage.name_of(place)}"
    )
    if json:
        typer.echo(
            json_line({name: value for name, value in summary.items() if name != "settings"})
        )


@app.command()
def pack(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A prepared dataset.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="SHARDS", help="Folder to write the shards to.")
    ],
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard in MB.")] = 1000,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a prepared dataset as WebDataset shards: tar files of clips and their rows."""
    from flowportrait.prepare import shards

    with storage.written(out) as place:
        made = shards.pack(storage.fetched(dataset), place, shard_mb * 10**6)
    typer.echo(f"{len(made)} shards: {storage.name_of(place)}")
    if json:
        typer.echo(json_line({"shards": [storage.name_of(path) for path in made]}))


@app.command()
def unpack(
    shards: Annotated[
        Path, typer.Argument(metavar="SHARDS", help="A folder of .tar files, or one .tar file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DATASET", help="Folder to write.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Extract WebDataset shards into a folder of clips, or a dataset if they contain its rows."""
    from flowportrait.prepare import shards as webdataset

    with storage.written(out) as place:
        count, rows = webdataset.unpack(storage.fetched(shards), place)
    what = "a prepared dataset" if rows == count else "videos without rows, for `prepare`"
    typer.echo(f"{count} clips, {what}: {storage.name_of(place)}")
    if json:
        typer.echo(json_line({"clips": count, "rows": rows}))
