"""The figures of the shipped model, measured: python -m bench.quality COMMAND MODEL ... --out DIR

Every command writes DIR/COMMAND.json and contact sheets (look at them), and prints its summary as
JSON. Lips and faces are seen by an independent landmarker (--landmarker, MediaPipe's
face_landmarker.task). Rendered clips are trained on with the renderer's own landmarks; only GRID's
labels come from that landmarker. Held-out clips are those of `flowportrait.data.sources`.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.landmarks import FaceLandmarker, lip_opening
from bench.material import (
    PICTURE_KINDS,
    SOUND_KINDS,
    Framing,
    files_of,
    grid_clips,
    real_clips,
    world_clips,
)
from bench.measures import lag_curve, summary
from bench.speed import SAMPLES_DIR, measure_speed
from flowportrait.errors import FlowPortraitError

Arguments = argparse.Namespace


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        figures = arguments.run(arguments)
    except (FlowPortraitError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    figures = {"command": " ".join(sys.argv[1:]), **_without_nan(figures)}
    (arguments.out / f"{arguments.command}.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(_brief(figures), indent=1))


def codec(arguments: Arguments) -> dict:
    """PSNR with the first frame as portrait, and whether the codec keeps the lips."""
    from bench.codec_quality import load_codec, measure_set

    model, framing = load_codec(arguments.model), Framing(arguments.size)
    landmarker, limit = _landmarker(arguments), arguments.limit
    sets = {
        "world": arguments.world and world_clips(arguments.world, arguments.split, framing, limit),
        "grid": arguments.grid and grid_clips(arguments.grid, "test", framing, limit),
        "real": arguments.videos and real_clips(arguments.videos, framing, limit),
    }
    return {
        name: measure_set(name, clips, model, landmarker, arguments.out)
        for name, clips in sets.items()
        if clips
    }


def lips(arguments: Arguments) -> dict:
    """Generated against true lip opening on held-out identities: correlation, lag, stillness in
    pauses.
    """
    from bench.lip_quality import SILENCE_CLIPS, measure_lips, measure_silence

    clips = list(
        world_clips(arguments.world, arguments.split, Framing(arguments.size), arguments.limit)
    )
    landmarker, pipeline = FaceLandmarker(arguments.landmarker), _pipeline(arguments)
    figures = measure_lips(clips, pipeline, landmarker, arguments.evaluations, arguments.out)
    silence = measure_silence(clips[:SILENCE_CLIPS], pipeline, landmarker, arguments.evaluations)
    return {"long_silence": silence, **figures}


def talking(arguments: Arguments) -> dict:
    """First frame and own sound of real talking videos against the videos: lips, lag, loudness."""
    from bench.talking_quality import measure_talking

    framing, without = Framing(arguments.size), arguments.without
    clips = (
        clip
        for clip in real_clips(arguments.videos, framing, arguments.limit, arguments.seconds)
        if not any(part in clip.key for part in without)
    )
    landmarker, pipeline = FaceLandmarker(arguments.landmarker), _pipeline(arguments)
    return measure_talking(clips, pipeline, landmarker, arguments.evaluations, arguments.out)


def curve(arguments: Arguments) -> dict:
    """Quality and time against the number of evaluations."""
    from bench.lip_quality import measure_curve

    clips = list(
        world_clips(arguments.world, arguments.split, Framing(arguments.size), arguments.limit)
    )
    landmarker = FaceLandmarker(arguments.landmarker)
    rows = measure_curve(
        clips, _pipeline(arguments), landmarker, arguments.evaluations, arguments.out
    )
    return {"clips": [clip.key for clip in clips], "runs": rows}


def real(arguments: Arguments) -> dict:
    """Every portrait of a folder with one of the speeches, in turn."""
    from bench.real_quality import measure_real

    portraits = files_of([arguments.portraits], PICTURE_KINDS)[: arguments.limit]
    audios = files_of(arguments.audios, SOUND_KINDS)
    landmarker = FaceLandmarker(arguments.landmarker)
    pipeline = _pipeline(arguments)
    return measure_real(
        portraits,
        audios,
        pipeline,
        landmarker,
        arguments.evaluations,
        arguments.seconds,
        arguments.out,
    )


def speed(arguments: Arguments) -> dict:
    """Seconds, real-time factor and peak memory of whole processes, a row per size."""
    return measure_speed(
        str(arguments.model),
        arguments.evaluations,
        arguments.sizes,
        arguments.seconds,
        arguments.portrait,
        arguments.speech,
        arguments.avx2,
    )


def landmarker(arguments: Arguments) -> dict:
    """How far to trust the landmarker itself: its lip opening against the rendered clips' ground
    truth.
    """
    tracker, rows = FaceLandmarker(arguments.landmarker), []
    for clip in world_clips(
        arguments.world, arguments.split, Framing(arguments.size), arguments.limit
    ):
        track = tracker.track(clip.frames)
        agreement = lag_curve(lip_opening(clip.landmarks68), lip_opening(track.landmarks68))
        rows.append(
            {
                "clip": clip.key,
                "r": agreement.at_zero,
                "best_lag": agreement.best_lag,
                "found": float(track.valid.mean()),
            }
        )
    keys = ("r", "best_lag", "found")
    return {key: summary([row[key] for row in rows]) for key in keys} | {"clips": rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.quality", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(
        run: Callable[[Arguments], dict], with_model: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        if with_model:
            sub.add_argument(
                "model", type=Path, help="model directory or name (codec: also a codec run)"
            )
        sub.add_argument(
            "--out", type=Path, required=True, help="folder for the JSON and the sheets"
        )
        sub.add_argument("--threads", type=int, help="threads of torch")
        sub.set_defaults(run=run)
        return sub

    def held_out(sub: argparse.ArgumentParser, required: bool, limit: int) -> None:
        sub.add_argument("--world", type=Path, required=required, help="folder of rendered clips")
        sub.add_argument("--split", choices=("test", "held_out", "both"), default="test")
        sub.add_argument("--size", type=int, default=128, help="px of the square (128)")
        sub.add_argument(
            "--limit", type=int, default=limit, help=f"clips of each set at most ({limit})"
        )
        sub.add_argument("--landmarker", type=Path, required=required, help="face_landmarker.task")

    sub = command(codec)
    held_out(sub, required=False, limit=1000)
    sub.add_argument("--grid", type=Path, help="folder of GRID clips")
    sub.add_argument("--videos", type=Path, help="folder with real__* videos")

    sub = command(lips)
    held_out(sub, required=True, limit=1000)
    sub.add_argument("--evaluations", type=int, help="the model's own number by default")

    sub = command(talking)
    sub.add_argument("--videos", type=Path, required=True, help="folder with real__* videos")
    sub.add_argument("--landmarker", type=Path, required=True, help="face_landmarker.task")
    sub.add_argument("--evaluations", type=int, help="the model's own number by default")
    sub.add_argument("--seconds", type=float, default=4.0, help="of each video (4)")
    sub.add_argument("--limit", type=int, default=1000, help="videos at most")
    sub.add_argument("--size", type=int, default=128, help="px of the square (128)")
    sub.add_argument(
        "--without", nargs="*", default=[], help="leave out videos whose names hold this"
    )

    sub = command(curve)
    held_out(sub, required=True, limit=8)
    sub.add_argument("--evaluations", type=int, nargs="+", default=[4, 6, 8, 10, 12, 16, 25])

    sub = command(real)
    sub.add_argument("--portraits", type=Path, required=True, help="folder of pictures")
    sub.add_argument(
        "--audios", type=Path, nargs="+", required=True, help="speech files, or folders of them"
    )
    sub.add_argument("--landmarker", type=Path, required=True, help="face_landmarker.task")
    sub.add_argument("--evaluations", type=int, help="the model's own number by default")
    sub.add_argument("--seconds", type=float, default=4.0, help="of each speech (4)")
    sub.add_argument("--limit", type=int, default=1000, help="portraits at most")

    sub = command(speed)
    sub.add_argument("--evaluations", type=int, nargs="+", default=[2])
    sub.add_argument("--sizes", nargs="+", default=["128", "256", "512"], help="of the square, px")
    sub.add_argument("--avx2", action="store_true", help="use no newer instructions than AVX2")
    sub.add_argument("--seconds", type=float, default=10.0, help="of speech (10)")
    sub.add_argument("--portrait", type=Path, default=SAMPLES_DIR / "portrait-512.png")
    sub.add_argument("--speech", type=Path, default=SAMPLES_DIR / "speech.wav")

    held_out(command(landmarker, with_model=False), required=True, limit=30)
    return parser


def _pipeline(arguments: Arguments):
    from flowportrait.generate import load

    return load(arguments.model)


def _landmarker(arguments: Arguments) -> FaceLandmarker | None:
    if arguments.landmarker is None:
        print(
            "no --landmarker given: no lips are measured, and mouth and eyes only where there is"
            " ground truth"
        )
        return None
    return FaceLandmarker(arguments.landmarker)


def _without_nan(value):
    """JSON knows no nan; null stands for what could not be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _brief(value):
    """The figures without their rows per clip."""
    if isinstance(value, dict):
        return {key: _brief(entry) for key, entry in value.items() if key != "clips"}
    return value


if __name__ == "__main__":
    main()
