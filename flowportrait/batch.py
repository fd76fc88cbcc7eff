"""`flowportrait generate DATASET`: a video for every clip of a dataset, from its first frame and
its sound.

What is made has the ids of the dataset, so `evaluate` and `compare` find the truth of each by the
dataset's manifest. A run goes on where it stopped; a clip that cannot be used stops nothing and is
named.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from flowportrait import __version__, media
from flowportrait.cluster import ALONE, Division
from flowportrait.composite import Frame, Size
from flowportrait.data.dataset import MANIFEST, read_dataset
from flowportrait.data.sources import SourceClip
from flowportrait.errors import DataError, MediaError
from flowportrait.files import append_line, drop_torn_line, sha256_of
from flowportrait.generate import Pipeline, load
from flowportrait.modeldir import ModelSpec, describe
from flowportrait.progress import Progress
from flowportrait.records import ManifestRow, RunInfo, read_jsonl, write_jsonl
from flowportrait.shot import Result

RUNS = "runs.jsonl"


@dataclass(frozen=True)
class MakerSettings:
    """Settings for every clip; all use the same seed, so that `generate` can reproduce any one of
    them.
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
class MadeVideos:
    """The videos of a run: made, kept and left out."""

    infos: list[RunInfo] = field(default_factory=list)
    kept: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """The clips of a split, and where they were read."""

    place: Path
    clips: list[SourceClip]


def clips_to_make(place: Path, split: Literal["train", "held_out", "test", "all"]) -> Dataset:
    """The clips of a dataset's split, each of which gets a video of its id.

    Raises DataError: no dataset, no clip of the split, or an id that is no name of a file.
    """
    clips = read_dataset(place, split)
    for clip in clips:
        if Path(clip.key).is_absolute() or ".." in Path(clip.key).parts:
            raise DataError(
                f"{place}: the id '{clip.key}' points outside the output folder; change the id"
            )
    return Dataset(place, clips)


@dataclass(frozen=True)
class Maker:
    """Everything of a run except its clips: a model by name or directory with the `options` of
    `generate.load`, where videos go and how they are made. The model is loaded when it is first
    needed, also in a process that this was sent to.
    """

    model: str
    options: Mapping[str, Any]
    out: Path
    settings: MakerSettings

    @cached_property
    def pipeline(self) -> Pipeline:
        """The loaded model."""
        return load(self.model, **self.options)

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's own description, without its weights."""
        mixture = {name: self.options[name] for name in ("toward", "share") if name in self.options}
        return describe(self.model, **mixture)

    @cached_property
    def model_digest(self) -> str:
        """Digest of the model's settings and weight files, as in config.json."""
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()

    def __call__(self, clip: SourceClip) -> RunInfo | str:
        """Makes the video of a clip; gives its record, or why the clip cannot be used."""
        source = clip.video
        started_s = time.perf_counter()
        try:
            digest = sha256_of(source)
            portrait = next(media.read_frames(source))
            sound = media.read_audio(source, mono=False)
            result = self.pipeline.generate(portrait, sound, **vars(self.settings))
        except OSError as error:
            return f"{source}: cannot be read ({error.strerror})"
        except (MediaError, DataError) as error:
            return str(error)
        target = self.out / _video_of(clip)
        target.parent.mkdir(parents=True, exist_ok=True)
        result.save(target)
        info = info_of(result, str(source), str(source), _video_of(clip), started_s)
        return info.model_copy(update={"source_sha256": digest, "model_sha256": self.model_digest})

    def has_made(self, clip: SourceClip, info: RunInfo | None) -> bool:
        """Whether the video exists and belongs to the current version of this clip."""
        if info is None or not self.fits(info) or not (self.out / info.output).is_file():
            return False
        source = clip.video
        return source.is_file() and sha256_of(source) == info.source_sha256

    def fits(self, info: RunInfo) -> bool:
        """Whether a record has this model and these settings."""
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
    progress: Progress,
    division: Division = ALONE,
) -> MadeVideos:
    """Makes ID.mp4 of every clip below `maker.out`, manifest.jsonl of what there is, and runs.jsonl
    of how it was made. Parts of a division make their share of the clips into the same folder.

    A video that is there is kept where clip, model and settings are those of its record. Raises
    DataError when nothing could be made, or when parts do not fit together, MediaError when the
    folder cannot be written.
    """
    made = MadeVideos()
    clips = division.share(dataset.clips)
    journal = _RunsJournal(maker.out / RUNS)
    known = journal.read()
    if division.part:
        _require_fit(maker, dataset, known.values())
    missing = [clip for clip in clips if not maker.has_made(clip, known.get(_video_of(clip)))]
    made.kept = len(clips) - len(missing)
    progress(made.kept, len(clips))
    reasons: dict[str, str] = {}
    device = maker.options.get("device", "auto")
    for count, (clip, result) in enumerate(division.compute(maker, missing, device), 1):
        if isinstance(result, RunInfo):
            journal.append(result)
        else:
            reasons[clip.key] = result or "ended both processes that began it"
        progress(made.kept + count, len(clips))
    made.left_out = [f"{clip.key}: {reasons[clip.key]}" for clip in clips if clip.key in reasons]
    own = [clip for clip in clips if clip.key not in reasons]
    if clips and not own:
        raise DataError(
            f"{dataset.place}: none of {len(clips)} clips could be used; reason for the first:"
            f" {made.left_out[0]}"
        )
    whole = journal.finish(maker, dataset)
    made.infos = [whole[_video_of(clip)] for clip in own]
    return made


class _RunsJournal:
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
            names = [_video_of(clip) for clip in dataset.clips]
            own = {name: known.pop(name) for name in names if name in known}
            write_jsonl(self.path, [*known.values(), *own.values()])
            there = [
                info
                for name, info in own.items()
                if maker.fits(info) and (maker.out / name).is_file()
            ]
            write_jsonl(maker.out / MANIFEST, _made_rows(dataset.clips, there))
        return own


def _require_fit(maker: Maker, dataset: Dataset, known: Iterable[RunInfo]) -> None:
    """Raises DataError where a part holds videos of another dataset."""
    names = {_video_of(clip) for clip in dataset.clips}
    for info in known:
        path = maker.out / info.output
        if info.output not in names:
            raise DataError(
                f"{path}: belongs to no clip of {dataset.place}; all parts need the same dataset"
                " and"
                " --split, or give another -o"
            )
        if not maker.fits(info):
            raise DataError(
                f"{path}: was made with another model or other settings; all parts need the same,"
                " or give another -o"
            )


def _video_of(clip: SourceClip) -> str:
    return f"{clip.key}.mp4"


def info_of(result: Result, portrait: str, audio: str, output: str, started_s: float) -> RunInfo:
    """The record of one video, computed since `started_s` of `time.perf_counter`."""
    computing_s = time.perf_counter() - started_s
    shot = result.shot
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


def _made_rows(clips: Iterable[SourceClip], infos: Iterable[RunInfo]) -> Iterator[ManifestRow]:
    """Lines of the manifest about the videos that were made."""
    by_key = {clip.key: clip for clip in clips}
    for info in infos:
        clip = by_key[info.output.removesuffix(".mp4")]
        yield ManifestRow(
            id=clip.key,
            video=info.output,
            num_frames=info.num_frames,
            fps=info.fps,
            size_px=info.size_px,
            sample_rate_hz=info.sample_rate_hz,
            split=clip.split,
            identity=clip.identity,
            voice=clip.voice,
            text=clip.text,
            source=f"generated by {info.model}",
        )
