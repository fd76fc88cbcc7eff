"""`flowportrait generate DATASET`: a video for every clip of a dataset, from its first frame and
its sound.

What is made has the ids of the dataset, so `evaluate` and `compare` find the truth of each by the
dataset's manifest. A run goes on where it stopped; a clip that cannot be used stops nothing and is
named.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flowportrait import __version__, media
from flowportrait.composite import Frame, Size
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import DataError, MediaError
from flowportrait.files import sha256_of
from flowportrait.generate import Pipeline, Result
from flowportrait.records import ManifestRow, RunInfo, read_jsonl, write_jsonl

RUNS, MANIFEST = "runs.jsonl", "manifest.jsonl"


@dataclass(frozen=True)
class Settings:
    """How every clip is made; the seed is the same for all, so that `generate` can make any one of
    them again.
    """

    evaluations: int | None = None
    guidance: float = 1.0
    seed: int = 0
    crop: Literal["auto", "none"] = "none"
    size: Size = "auto"
    frame: Frame | None = None
    head: float = 1.0
    lips: float = 1.0
    eyes: float = 1.0


@dataclass
class Made:
    """What a run did."""

    infos: list[RunInfo] = field(default_factory=list)
    kept: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """The clips of one split, whose videos lie below `folder`."""

    folder: Path
    rows: list[ManifestRow]


def read_dataset(source: Path, split: Literal["train", "held_out", "all"]) -> Dataset:
    """Those of a manifest, or of a folder that was prepared (`manifest.jsonl`) or rendered
    (`clips.jsonl`).

    Raises DataError: no dataset, no clip of the split, or an id that is no name of a file.
    """
    manifest = source / MANIFEST if source.is_dir() else source
    if source.is_dir() and not manifest.is_file():
        if not (source / "clips.jsonl").is_file():
            raise DataError(
                f"{source}: neither {MANIFEST} nor clips.jsonl; give a prepared or a rendered"
                " dataset"
            )
        rows = [_rendered(clip) for clip in load_sources(world=source)]
    else:
        rows = list(read_jsonl(manifest, ManifestRow))
    rows = [row for row in rows if split in ("all", row.split)]
    if not rows:
        raise DataError(
            f"{source}: no clip of the split '{split}'; give another --split: train, held_out"
            " or all"
        )
    for row in rows:
        if Path(row.id).is_absolute() or ".." in Path(row.id).parts:
            raise DataError(
                f"{source}: the id '{row.id}' leads out of the output folder; give it another"
            )
    return Dataset(manifest.parent, rows)


def _rendered(clip: SourceClip) -> ManifestRow:
    split = "train" if clip.split == "train" else "held_out"
    # What a file says of itself is asked when it is made again.
    unknown = {"num_frames": 1, "fps": 24.0, "size_px": 1, "sample_rate_hz": 1}
    return ManifestRow(
        id=clip.key,
        video=clip.video.name,
        split=split,
        identity=clip.identity,
        voice=clip.voice,
        text=clip.text,
        **unknown,
    )


def generate_all(
    pipeline: Pipeline,
    dataset: Dataset,
    out: Path,
    settings: Settings,
    progress: Callable[[int, int], None],
) -> Made:
    """Makes `out`/ID.mp4 of every clip, `out`/manifest.jsonl of what there is, and `out`/runs.jsonl
    of how it was made.

    A video that is there is kept where clip, model and settings are those of its record. Raises
    DataError when nothing could be made, MediaError when `out` cannot be written.
    """
    made = Made()
    out.mkdir(parents=True, exist_ok=True)
    known = {info.output: info for info in _records(out / RUNS)}
    model = _digest_of(pipeline)
    for count, row in enumerate(dataset.rows):
        target, source = out / f"{row.id}.mp4", dataset.folder / row.video
        try:
            info = known.get(f"{row.id}.mp4")
            digest = _sha256(source)
            if (
                info is not None
                and target.is_file()
                and _same(info, digest, model, pipeline, settings)
            ):
                made.kept += 1
            else:
                info = _make(pipeline, source, target, row.id, digest, model, settings)
                known[info.output] = info
                write_jsonl(out / RUNS, known.values())
            made.infos.append(info)
        except _Unusable as error:
            made.left_out.append(f"{row.id}: {error}")
        progress(count + 1, len(dataset.rows))
    if not made.infos:
        raise DataError(
            f"{dataset.folder}: none of {len(dataset.rows)} clips could be used; the first:"
            f" {made.left_out[0]}"
        )
    write_jsonl(out / MANIFEST, _made_rows(dataset.rows, made.infos))
    return made


class _Unusable(DataError):
    """Why a clip has no video."""


def _make(
    pipeline: Pipeline,
    source: Path,
    target: Path,
    id_: str,
    digest: str,
    model: str,
    settings: Settings,
) -> RunInfo:
    started_s = time.perf_counter()
    try:
        portrait = next(media.read_frames(source))
        sound = media.read_audio(source, mono=False)
        result = pipeline.generate(portrait, sound, **vars(settings))
    except (MediaError, DataError) as error:
        raise _Unusable(str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    result.save(target)
    info = info_of(
        result, portrait=str(source), audio=str(source), output=f"{id_}.mp4", started_s=started_s
    )
    return info.model_copy(update={"source_sha256": digest, "model_sha256": model})


def info_of(result: Result, portrait: str, audio: str, output: str, started_s: float) -> RunInfo:
    """The record of one video, computed since `started_s` of `time.perf_counter`."""
    computing_s, shot = time.perf_counter() - started_s, result.shot
    return RunInfo(
        flowportrait=__version__,
        output=output,
        portrait=portrait,
        audio=audio,
        model=result.model,
        device=result.device,
        seed=shot.seed,
        evaluations=result.evaluations,
        guidance=shot.guidance,
        crop=shot.crop,
        num_frames=result.num_frames,
        fps=result.fps,
        size_px=result.size_px,
        size=shot.size,
        frame=shot.composite.frame,
        **shot.strengths.model_dump(),
        sample_rate_hz=result.sound.sample_rate,
        video_s=result.video_s,
        computing_s=computing_s,
        real_time_factor=computing_s / result.video_s,
        warnings=list(result.warnings),
    )


def _same(info: RunInfo, digest: str, model: str, pipeline: Pipeline, settings: Settings) -> bool:
    evaluations = settings.evaluations or pipeline.spec.sampling.evaluations
    wanted = (
        digest,
        model,
        evaluations,
        settings.guidance,
        settings.seed,
        settings.crop,
        settings.size,
    )
    was = (
        info.source_sha256,
        info.model_sha256,
        info.evaluations,
        info.guidance,
        info.seed,
        info.crop,
        info.size,
    )
    frame = settings.frame in (None, info.frame)
    strengths = (settings.head, settings.lips, settings.eyes) == (info.head, info.lips, info.eyes)
    return wanted == was and frame and strengths


def _made_rows(rows: Iterable[ManifestRow], infos: Iterable[RunInfo]) -> Iterator[ManifestRow]:
    by_id = {row.id: row for row in rows}
    for info in infos:
        row = by_id[info.output.removesuffix(".mp4")]
        facts = {
            "video": info.output,
            "num_frames": info.num_frames,
            "fps": info.fps,
            "size_px": info.size_px,
        }
        facts |= {"sample_rate_hz": info.sample_rate_hz}
        yield row.model_copy(update=facts | {"source": f"generated by {info.model}", "licence": ""})


def _records(path: Path) -> list[RunInfo]:
    return list(read_jsonl(path, RunInfo)) if path.exists() else []


def _digest_of(pipeline: Pipeline) -> str:
    """Of the model's settings and of the files of its weights, as config.json has them."""
    return hashlib.sha256(pipeline.spec.model_dump_json().encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise _Unusable(f"{path}: cannot be read ({error.strerror})") from error
