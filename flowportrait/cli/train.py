"""Commands of training: `encode`, `train`, `plan`, `reproduce`; weights in and out by `convert` and
`export`.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flowportrait import storage
from flowportrait.cli.shared import (
    Debug,
    Json,
    Overrides,
    Recipe,
    Resume,
    divided,
    json_line,
    names,
    progress_bar,
)
from flowportrait.errors import ConfigError, DataError

app = typer.Typer()
train_app = typer.Typer(help="Train a model, or a part of one, from a recipe.")
app.add_typer(train_app, name="train")


Dataset = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of a prepared or rendered dataset.")
]
EncodedOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="DATASET",
        help="Folder to write; an unfinished one is continued.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        help="Model whose codec and encoders are used.",
        autocompletion=names("models"),
    ),
]
Portraits = Annotated[
    int, typer.Option(min=1, help="Number of frames of a clip that can serve as its portrait.")
]
Longest = Annotated[float, typer.Option(min=0.5, help="Seconds that are used of a longer clip.")]
ClipsPerShard = Annotated[int, typer.Option(min=1, help="Number of clips in one file.")]


Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to compute on.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Run in this process (or torchrun's), or on the Ray cluster at RAY_ADDRESS."),
]
Workers = Annotated[
    int,
    typer.Option(min=1, max=4096, help="Number of Ray processes; each takes one shard at a time."),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="i/n", help="Encode only part i of n of the shards, into the same folder."
    ),
]


@app.command()
def encode(
    dataset: Dataset,
    out: EncodedOut,
    model: Model = "tiny",
    portraits: Portraits = 2,
    longest: Longest = 25.0,
    clips_per_shard: ClipsPerShard = 64,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for choosing portraits.")] = 0,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = 1,
    part: Part = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode clips as latents and condition features, once for all training runs."""
    from flowportrait.registry import find_model

    division = divided(engine, workers, part, out)
    source = storage.fetched(dataset)
    find_model(model)
    if not source.is_dir():
        raise DataError(f"{dataset}: no such folder; give a prepared or a rendered dataset")
    from flowportrait.train.encode import encode as run_encode

    own = division.part
    with storage.written(out) as place, progress_bar("encoding") as progress:
        clips, left_out = run_encode(
            source,
            place,
            model,
            num_portraits=portraits,
            longest_s=longest,
            clips_per_shard=clips_per_shard,
            seed=seed,
            device=device,
            engine=engine,
            workers=workers,
            part=own,
            progress=progress,
        )
    for reason in left_out:
        typer.echo(f"left out: {reason}", err=True)
    if clips or left_out:  # of several processes one knows them
        typer.echo(f"{len(clips)} clips, {len(left_out)} left out: {storage.name_of(place)}")
    elif own is not None:
        typer.echo(f"{own} is done: {out}; the part that is done last writes the index")
    if json:
        typer.echo(json_line({"clips": len(clips), "left_out": left_out}))


@train_app.command("codec")
def train_codec(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Train the codec that turns frames into latents and back."""
    from flowportrait.train.tiny import codec

    codec.train(recipe, overrides or [], resume)


@train_app.command("mouth")
def train_mouth(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Train the network that paints mouths at full resolution, for a trained codec."""
    from flowportrait.train.tiny import mouth

    mouth.train(recipe, overrides or [], resume)


@train_app.command("ear")
def train_ear(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Train the audio encoder on features of a large speech model (`python -m bench.teach`)."""
    from flowportrait.train.tiny import ear

    ear.train(recipe, overrides or [], resume)


@train_app.command("sft")
def train_sft(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Fine-tune a model by supervised flow matching (§3.1).

    For several processes, run `torchrun --no-python flowportrait train sft ...`.
    """
    from flowportrait.train import sft

    sft.train(recipe, overrides or [], resume)


@train_app.command("scratch")
def train_scratch(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Train a small model from scratch on the latents of a portrait codec, in one process."""
    from flowportrait.train.tiny import scratch

    scratch.train(recipe, overrides or [], resume)


@train_app.command("sync")
def train_sync(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Train the network of the scorer sync-small, which matches mouths with sound."""
    from flowportrait.train.tiny import sync

    sync.train(recipe, overrides or [], resume)


@train_app.command("rl")
def train_rl(
    recipe: Recipe, overrides: Overrides = None, resume: Resume = None, debug: Debug = False
) -> None:
    """Fine-tune a model by reinforcement learning (§3.2).

    For several processes, run `torchrun --no-python flowportrait train rl ...`.
    """
    from flowportrait.train import rl

    rl.train(recipe, overrides or [], resume)


PlanRecipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE",
        help="Training recipe: a file, or the name of a shipped recipe.",
        autocompletion=names("recipes"),
    ),
]
Generate = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="Report instead which GPUs can generate with this model."
    ),
]
Gpu = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Kind of GPU: a100, a100-40, b200, h100, h200, l40s, rtx4090."
    ),
]
Utilisation = Annotated[
    float,
    typer.Option(min=0.01, max=1, help="Assumed share of the GPU's bf16 peak that is reached."),
]
Clip = Annotated[
    float | None,
    typer.Option(min=0.5, help="Length of a clip in seconds; by default 25 for SFT and 5 for RL."),
]


@app.command()
def plan(
    recipe: PlanRecipe = None,
    generate: Generate = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 8,
    gpu: Gpu = "h100",
    utilisation: Utilisation = 0.4,
    clip: Clip = None,
    overrides: Overrides = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Estimate memory and time of a training run, without loading anything."""
    from flowportrait.plan import plan as make_plan
    from flowportrait.plan import plan_generation

    if (recipe is None) == (generate is None):
        raise ConfigError("plan: give either a recipe or --generate with a model")
    if generate is not None:
        about, ways = plan_generation(generate, clip)
        typer.echo("\n".join([about, *(way.line() for way in ways)]))
        if json:
            typer.echo(json_line([{**vars(way), "fits_gb": way.fits()} for way in ways]))
        return
    cost = make_plan(recipe, overrides, gpus, gpu, utilisation, clip)
    for line in cost.lines():
        typer.echo(line)
    if json:
        typer.echo(json_line(cost.as_dict()))


Recipes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE",
        help="Recipes that list commands; reproduce-tiny by default.",
        autocompletion=names("recipes"),
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="DIR", help="Folder to write; an unfinished run is continued."
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Number of stages that may run in parallel.")]


@app.command()
def reproduce(
    recipes: Recipes = None,
    out: Out = None,
    overrides: Overrides = None,
    jobs: Jobs = 1,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the commands of a recipe in order, such as the whole system from data to report."""
    from flowportrait import reproduce as chains
    from flowportrait.registry import find_recipe

    found = [find_recipe(name) for name in recipes or [chains.DEFAULT]]
    if out is not None and len(found) > 1:
        raise ConfigError(
            f"--out: {len(found)} recipes would share {out}; give one recipe, or leave -o out"
        )
    for recipe in found:
        runs = chains.reproduce(recipe, out, typer.echo, overrides, jobs)
        if json:
            typer.echo(json_line([run.model_dump() for run in runs]))


Kind = Annotated[
    Literal["bagel", "wan", "whisper", "wav2vec2"],
    typer.Argument(help="Kind of the weights.", metavar="KIND"),
]
Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="Folder or file of the weights as published.")
]
ConvertOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="MODEL_DIR",
        help="Model directory; bagel creates it, the other kinds add to it.",
    ),
]
Size = Annotated[int, typer.Option(min=16, help="For bagel: side of the videos in pixels.")]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="last|all|1,2,3", help="For speech networks: layers whose output is used."
    ),
]


@app.command()
def convert(
    kind: Kind,
    source: Source,
    out: ConvertOut,
    size: Size = 384,
    layers: Layers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert published weights into a model directory.

    Convert bagel first, then a codec (wan) and a speech network.
    """
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder; give the published weights")
    from flowportrait import convert as conversion

    if kind == "bagel":
        spec = conversion.convert_bagel(source, out, size)
    elif kind == "wan":
        spec = conversion.convert_wan(source, out)
    else:
        spec = conversion.convert_speech(kind, source, out, conversion.layers_named(layers))
    typer.echo(
        f"{spec.name}: {kind} is in {out}; never trained: {', '.join(spec.untrained) or 'nothing'}"
    )
    if json:
        typer.echo(
            json_line({"model": str(out), "sha256": spec.sha256, "untrained": spec.untrained})
        )


@app.command()
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Model directory that came from BAGEL.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="SOURCE", help="Folder to write BAGEL's files to."),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a trained model in BAGEL's own file format."""
    from flowportrait.convert import export as write_back

    written = [str(path) for path in write_back(directory, out)]
    typer.echo(f"{len(written)} files: {out}")
    if json:
        typer.echo(json_line(written))
