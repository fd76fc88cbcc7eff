"""`flowportrait generate DATASET`: a video for every clip of a dataset, from its first frame and
its sound.

What is made has the ids of the dataset, so `evaluate` and `compare` find the truth of each by the
dataset's manifest. A run goes on where it stopped; a clip that cannot be used stops nothing and is
named.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from flowportrait import __version__, media
from flowportrait.cluster import ALONE, Division
from flowportrait.composite import Frame, Size
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import DataError, MediaError
from flowportrait.files import append_line, drop_torn_line, sha256_of
from flowportrait.generate import Pipeline, Result, load
from flowportrait.modeldir import ModelSpec, describe
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
    step_cache: float = 0.0


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


@dataclass(frozen=True)
class Maker:
    """All of a run but its clips: a model by name or directory with the `options` of
    `generate.load`, the dataset's folder, where videos go and how they are made. The model is
    loaded when it is first needed, also in a process that this was sent to.
    """

    model: str
    options: Mapping[str, Any]
    folder: Path
    out: Path
    settings: Settings

    @cached_property
    def pipeline(self) -> Pipeline:
        """The loaded model."""
        return load(self.model, **self.options)

    @cached_property
    def spec(self) -> ModelSpec:
        """What the model says of itself, without its weights."""
        mixture = {name: self.options[name] for name in ("toward", "share") if name in self.options}
        return describe(self.model, **mixture)

    @cached_property
    def model_digest(self) -> str:
        """Of the model's settings and of the files of its weights, as config.json has them."""
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()

    def __call__(self, row: ManifestRow) -> RunInfo | str:
        """Makes the video of a clip; gives its record, or why the clip cannot be used."""
        source, started_s = self.folder / row.video, time.perf_counter()
        try:
            digest = sha256_of(source)
            portrait = next(media.read_frames(source))
            sound = media.read_audio(source, mono=False)
            result = self.pipeline.generate(portrait, sound, **vars(self.settings))
        except OSError as error:
            return f"{source}: cannot be read ({error.strerror})"
        except (MediaError, DataError) as error:
            return str(error)
        target = self.out / _video_of(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        result.save(target)
        info = info_of(result, str(source), str(source), _video_of(row), started_s)
        return info.model_copy(update={"source_sha256": digest, "model_sha256": self.model_digest})

    def has_made(self, row: ManifestRow, info: RunInfo | None) -> bool:
        """Whether the video is there, of this clip as it is now."""
        if info is None or not self.fits(info) or not (self.out / info.output).is_file():
            return False
        source = self.folder / row.video
        return source.is_file() and sha256_of(source) == info.source_sha256

    def fits(self, info: RunInfo) -> bool:
        """Whether a record is of this model and these settings."""
        settings = self.settings
        evaluations = settings.evaluations or self.spec.sampling.evaluations
        wanted = {
            **{"model_sha256": self.model_digest, "evaluations": evaluations},
            "quantize": self.options.get("quantization"),
            **{name: value for name, value in vars(settings).items() if name != "evaluations"},
        }
        if settings.frame is None:
            del wanted["frame"]
        return all(getattr(info, name) == value for name, value in wanted.items())


def generate_all(
    maker: Maker,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    division: Division = ALONE,
) -> Made:
    """Makes ID.mp4 of every clip below `maker.out`, manifest.jsonl of what there is, and runs.jsonl
    of how it was made. Parts of a division make their share of the clips into the same folder.

    A video that is there is kept where clip, model and settings are those of its record. Raises
    DataError when nothing could be made, or when parts do not fit together, MediaError when the
    folder cannot be written.
    """
    made, rows = Made(), division.share(dataset.rows)
    journal = _Journal(maker.out / RUNS)
    known = journal.read()
    if division.part:
        _require_fit(maker, dataset, known.values())
    missing = [row for row in rows if not maker.has_made(row, known.get(_video_of(row)))]
    made.kept = len(rows) - len(missing)
    progress(made.kept, len(rows))
    reasons: dict[str, str] = {}
    device = maker.options.get("device", "auto")
    for count, (row, result) in enumerate(division.compute(maker, missing, device), 1):
        if isinstance(result, RunInfo):
            journal.append(result)
        else:
            reasons[row.id] = result or "ended both processes that began it"
        progress(made.kept + count, len(rows))
    made.left_out = [f"{row.id}: {reasons[row.id]}" for row in rows if row.id in reasons]
    own = [row for row in rows if row.id not in reasons]
    if rows and not own:
        raise DataError(
            f"{dataset.folder}: none of {len(rows)} clips could be used; the first:"
            f" {made.left_out[0]}"
        )
    whole = journal.finish(maker, dataset)
    made.infos = [whole[_video_of(row)] for row in own]
    return made


class _Journal:
    """runs.jsonl: a record for every video, appended as soon as it is made. Whatever writes holds
    its lock, since parts share it.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def read(self) -> dict[str, RunInfo]:
        """The newest record of every video, by its name; what a kill has torn is dropped."""
        with self._lock:
            if not self.path.exists():
                return {}
            drop_torn_line(self.path)
            return {info.output: info for info in read_jsonl(self.path, RunInfo)}

    def append(self, info: RunInfo) -> None:
        """Adds one."""
        with self._lock:
            append_line(self.path, info.model_dump_json().encode() + b"\n")

    def finish(self, maker: Maker, dataset: Dataset) -> dict[str, RunInfo]:
        """Puts the records in the dataset's order, behind those of other datasets, and writes the
        manifest of what there is of this one, whoever has made it.
        """
        with self._lock:
            known = self.read()
            names = [_video_of(row) for row in dataset.rows]
            own = {name: known.pop(name) for name in names if name in known}
            write_jsonl(self.path, [*known.values(), *own.values()])
            there = [
                info
                for name, info in own.items()
                if maker.fits(info) and (maker.out / name).is_file()
            ]
            write_jsonl(maker.out / MANIFEST, _made_rows(dataset.rows, there))
        return own


def _require_fit(maker: Maker, dataset: Dataset, known: Iterable[RunInfo]) -> None:
    names = {_video_of(row) for row in dataset.rows}
    for info in known:
        path = maker.out / info.output
        if info.output not in names:
            raise DataError(
                f"{path}: is of no clip of {dataset.folder}; all parts need the same dataset and"
                " --split, or give another -o"
            )
        if not maker.fits(info):
            raise DataError(
                f"{path}: was made with another model or other settings; all parts need the same,"
                " or give another -o"
            )


def _video_of(row: ManifestRow) -> str:
    return f"{row.id}.mp4"


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
        quantize=shot.pipeline.quantization,
        step_cache=shot.cache.threshold,
        evaluations_saved=result.evaluations_saved,
        sample_rate_hz=result.sound.sample_rate,
        video_s=result.video_s,
        computing_s=computing_s,
        real_time_factor=computing_s / result.video_s,
        warnings=list(result.warnings),
    )


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
