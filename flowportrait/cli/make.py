"""Commands that make videos: `generate`, and the renderer's `world`."""

import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flowportrait import storage
from flowportrait.cli.shared import (
    AllowHost,
    Debug,
    EngineName,
    Json,
    PartName,
    divided,
    json_line,
    names,
    progress_bar,
)
from flowportrait.cli.world import world_app
from flowportrait.cluster import ALONE, Division
from flowportrait.errors import ConfigError, DataError, MediaError, require
from flowportrait.files import JsonObject

# The real-time factor counts the whole process, so the clock starts before torch is imported.
_STARTED_S = time.perf_counter()

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")

app = typer.Typer()
app.add_typer(world_app, name="world")


Portrait = Annotated[
    Path,
    typer.Argument(
        metavar="PORTRAIT", help="A picture of a face, or a dataset (its folder or manifest)."
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="OUT.mp4", help="Video to write, or a folder for a dataset."
    ),
]
Audio = Annotated[
    Path | None,
    typer.Argument(metavar="AUDIO", help="Speech: a sound or video file. Omit it for a dataset."),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        help="A shipped model (see: list models) or a model directory.",
        autocompletion=names("models"),
    ),
]
SizeText = Annotated[
    str,
    typer.Option(
        metavar="auto|128..1024",
        help="Side of the square around the face in pixels; auto keeps the picture's size.",
    ),
]
FrameName = Annotated[
    Literal["whole", "face"] | None,
    typer.Option(
        help="Show the whole picture, or only the square around the face; whole by default."
    ),
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Number of network evaluations (sampling steps); by default the model's own.",
    ),
]
Guidance = Annotated[
    float, typer.Option(help="Guidance scale for sound and portrait; 1 is no guidance.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Random seed; the same seed gives the same video.")
]
Head = Annotated[float, typer.Option(help="How much the head moves, 0 to 2; 1 is natural.")]
Lips = Annotated[float, typer.Option(help="How much the lips move, 0 to 2.")]
Eyes = Annotated[float, typer.Option(help="How much the eyes blink and look around, 0 to 2.")]
CropName = Annotated[
    Literal["auto", "none"] | None,
    typer.Option(
        help=(
            "Crop around the face (auto) or use the picture as it is (none); by default auto for a"
            " picture and none for a dataset, whose clips are already cropped."
        )
    ),
]
Split = Annotated[
    Literal["train", "held_out", "test", "all"],
    typer.Option(help="Split of the dataset to use."),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Device to compute on.")]
Toward = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="A model fine-tuned from --model; the weights of both are interpolated.",
    ),
]
Share = Annotated[float, typer.Option(help="Weight of --toward in the interpolation, 0 to 1.")]
Workers = Annotated[
    int,
    typer.Option(min=1, max=4096, help="Number of Ray processes; each takes one clip at a time."),
]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Keep only the half of the model that is computing on the GPU; saves memory.",
    ),
]
Quantize = Annotated[
    Literal["int8", "fp8"] | None,
    typer.Option(help="Quantize the weights of the layers to 8 bits with torchao."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the layers with torch.compile at their first use."),
]
StepCacheThreshold = Annotated[
    float,
    typer.Option(
        "--step-cache",
        metavar="0..1",
        help="Skip evaluations that change less than this share; 0.02 is careful, 0 is off.",
    ),
]


@app.command()
def generate(
    portrait: Portrait,
    out: Out,
    audio: Audio = None,
    size: SizeText = "auto",
    frame: FrameName = None,
    head: Head = 1.0,
    lips: Lips = 1.0,
    eyes: Eyes = 1.0,
    seed: Seed = 0,
    crop: CropName = None,
    model: Model = "tiny",
    evaluations: Evaluations = None,
    guidance: Guidance = 1.0,
    split: Split = "held_out",
    device: Device = "auto",
    toward: Toward = None,
    share: Share = 0.5,
    offload: Offload = False,
    quantize: Quantize = None,
    compile_layers: Compile = False,
    step_cache: StepCacheThreshold = 0.0,
    engine: EngineName = "local",
    workers: Workers = 1,
    part: PartName = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate a talking-head video from a portrait and a speech recording.

    For a dataset, generate one video per clip from its first frame and its sound.
    """
    from flowportrait.registry import find_model

    _refuse_numbers(guidance, share, step_cache, {"head": head, "lips": lips, "eyes": eyes})
    for name in (model, toward):
        if name is not None:
            find_model(name)
    options = _load_options(toward, share, device, offload, quantize, compile_layers)
    how = {"evaluations": evaluations, "guidance": guidance, "seed": seed, "size": _size(size)}
    how |= {"frame": frame, "head": head, "lips": lips, "eyes": eyes, "step_cache": step_cache}
    division = divided(engine, workers, part, out)
    portrait = storage.fetched(portrait)
    audio = audio and storage.fetched(audio)
    if portrait.suffix == ".jsonl" or (portrait.is_dir() and audio is None):
        if audio is not None:
            raise ConfigError(f"{audio}: a dataset has its own sound; leave out the sound file")
        how |= {"crop": crop or "none"}
        with storage.written(out) as place:
            _generate_dataset(portrait, place, split, model, options, how, division, json)
        return
    if division != ALONE:
        raise ConfigError(
            f"{portrait}: --engine, --workers and --part are for datasets; leave them out here"
        )
    if audio is None:
        raise ConfigError(f"{portrait}: no speech; give a sound or video file as second argument")
    how |= {"crop": crop or "auto"}
    with storage.written(out) as place:
        _generate_one(portrait, audio, place, model, options, how, json)


def _load_options(
    toward: str | None,
    share: float,
    device: str,
    offload: bool,
    quantize: str | None,
    compiled: bool,
) -> JsonObject:
    """Options of loading the model."""
    options = {"toward": toward, "share": share} if toward else {}
    options |= {"device": device} | ({"offload": True} if offload else {})
    options |= {"quantization": quantize} if quantize else {}
    options |= {"compiled": True} if compiled else {}
    return options


def _generate_one(
    portrait: Path,
    audio: Path,
    out: Path,
    model: str,
    options: JsonObject,
    how: JsonObject,
    as_json: bool,
) -> None:
    """Makes one video and says what it cost."""
    from flowportrait import media

    media.check_output(out)
    if out.exists() and any(
        source.exists() and out.samefile(source) for source in (portrait, audio)
    ):
        raise MediaError(f"{out}: is also an input file; give another -o")
    picture = media.read_portrait(portrait)
    sound = media.read_audio(audio, mono=False)

    from flowportrait.generate import load

    pipeline = load(model, **options)
    with progress_bar("generating") as progress:
        result = pipeline.generate(picture, sound, progress=progress, **how)
    result.save(out)
    _report(result, portrait=portrait, audio=audio, out=out, as_json=as_json)


def _size(text: str) -> int | Literal["auto"]:
    """The side in pixels, or auto. Raises ConfigError for anything else."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 128 <= int(text) <= 1024:
        raise ConfigError(f"--size: got {text}; give auto or a number of pixels from 128 to 1024")
    return int(text)


def _refuse_numbers(
    guidance: float, share: float, step_cache: float, strengths: dict[str, float]
) -> None:
    """All that can be refused without torch is refused first."""
    if not 0 <= guidance <= 100:
        raise ConfigError(
            f"--guidance: got {guidance}; give a number from 0 to 100, 1 for no guidance"
        )
    if not 0 <= share <= 1:
        raise ConfigError(f"--share: got {share}; give a number from 0 to 1")
    if not 0 <= step_cache < 1:
        raise ConfigError(
            f"--step-cache: got {step_cache}; give a share from 0 (off) to below 1, such as 0.02"
        )
    for name, strength in strengths.items():
        if not 0 <= strength <= 2:
            raise ConfigError(
                f"--{name}: got {strength}; give a strength from 0 to 2, 1 for the model's own"
            )


def _generate_dataset(
    source: Path,
    out: Path,
    split: Any,
    model: str,
    options: JsonObject,
    how: JsonObject,
    division: Division,
    as_json: bool,
) -> None:
    """Makes the videos of a dataset, or of a part of it."""
    if out.is_file() or out.suffix == ".mp4":
        raise ConfigError(f"{out}: a dataset is written to a folder; give a folder with -o")
    if not source.exists():
        raise DataError(f"{source}: no such file; give a dataset's manifest.jsonl")

    from flowportrait import batch

    dataset = batch.clips_to_make(source, split)
    maker = batch.Maker(model, options, out, batch.MakerSettings(**how))
    with progress_bar("generating") as progress:
        made = batch.generate_all(maker, dataset, progress, division)
    for line in made.left_out:
        typer.echo(f"left out: {line}", err=True)
    for warning in dict.fromkeys(warning for info in made.infos for warning in info.warnings):
        typer.echo(f"warning: {warning}", err=True)
    head = f"{division.part}: " if division.part else ""
    typer.echo(
        f"{head}{len(made.infos)} videos, {made.kept} of them from before,"
        f" {len(made.left_out)} left out: {storage.name_of(out)}"
    )
    if as_json:
        summary = {
            "output": str(out),
            "videos": len(made.infos),
            "kept": made.kept,
            "left_out": made.left_out,
        }
        typer.echo(json_line(summary))


def _report(result, portrait: Path, audio: Path, out: Path, as_json: bool) -> None:
    """Warnings, then the last line: how long a video, in how long."""
    from flowportrait.batch import info_of

    info = info_of(result, str(portrait), str(audio), str(out), _STARTED_S)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if info.step_cache:
        of = result.shot.cache.evaluations
        typer.echo(f"step cache: {info.evaluations_saved} of {of} evaluations saved")
    took = f"{info.computing_s:.1f} s (real-time factor {info.real_time_factor:.2f})"
    typer.echo(f"{result.video_s:.1f} s of video in {took}: {out}")
    if as_json:
        typer.echo(info.model_dump_json())


Host = Annotated[
    str, typer.Option(help="Address to listen on; the default accepts this machine alone.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
ServeDevice = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|mps", help="Device to compute on.")
]
Token = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        envvar="FLOWPORTRAIT_TOKEN",
        help="Accept only requests with this token; also read from $FLOWPORTRAIT_TOKEN.",
    ),
]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    device: ServeDevice = "auto",
    token: Token = "",
    allow_host: AllowHost = None,
    debug: Debug = False,
) -> None:
    """Serve a web page for making videos in the browser, until interrupted."""
    require("fastapi", extra="web")
    require("uvicorn", extra="web")
    from flowportrait.web import make as page

    if token and not _TOKEN.fullmatch(token):
        raise ConfigError(
            "--token: not valid; give 8 to 200 characters out of letters, digits and . _ ~ -"
        )
    page.serve(host, port, device, allow_host or (), say=typer.echo, token=token)
