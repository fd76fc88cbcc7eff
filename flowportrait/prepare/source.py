"""Appendix B for one source: probe, speech, faces, split, speaker, crop, write. Every second not
kept has a reason.

The source passes by three times, a frame at a time: to find faces and cuts, to see who speaks, to
be cut. Nothing in a result depends on other sources or on which process made it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from flowportrait import media, storage
from flowportrait.arrays import Array
from flowportrait.faces.framing import FaceBox, FaceDetector
from flowportrait.files import sha256_of
from flowportrait.media import FPS
from flowportrait.prepare import speaker
from flowportrait.prepare.footage import Footage, SoundTrack, Unusable, probe
from flowportrait.prepare.journal import REASONS, Dropped, PreparedClip, PreparedSource, Reason
from flowportrait.prepare.settings import PrepareConfig, SourceFile, split_of
from flowportrait.prepare.speaker import Stretch
from flowportrait.prepare.speech import Speakers, SpeechFilters, is_silent
from flowportrait.prepare.tracks import (
    CropConfig,
    Track,
    find_cuts,
    link,
    side_of,
    squares,
    thumbnail,
)
from flowportrait.prepare.upright import Turns
from flowportrait.registry import FACE_DETECTORS

STAGES = ("probe", "speech", "faces", "speaker", "crop", "write")
_KEPT = len(REASONS)
_LOST_S = 0.25  # that a file's head promises and its streams lack, before it is called damaged


@dataclass(frozen=True)
class Preparer:
    """The settings of a run with the parts they name, loaded when first needed."""

    config: PrepareConfig
    out: Path

    @cached_property
    def detector(self) -> FaceDetector:
        """The detector of faces."""
        return FACE_DETECTORS.load(self.config.faces.detector)(
            **self.config.faces.detector_settings
        )

    @cached_property
    def filters(self) -> SpeechFilters:
        """The speech filters."""
        return SpeechFilters(self.config.speech)

    @cached_property
    def network(self) -> Any:
        """The network that tells who speaks, or None."""
        return speaker.load(self.config.speaker)

    @cached_property
    def fingerprint(self) -> str:
        """That of the settings."""
        return self.config.fingerprint

    def load(self) -> None:
        """Loads all parts, so that what is missing stops the run before the first source."""
        for part in ("detector", "network", "fingerprint"):
            getattr(self, part)
        for part in ("overlap_finder", "language_finder"):
            getattr(self.filters, part)

    def prepare(self, source: SourceFile) -> PreparedSource:
        """Cuts one source into clips under `out`/clips. Raises MediaError or OSError when they
        cannot be written; whatever is wrong with the source stands in the record.
        """
        record = source.record(self.fingerprint)
        with (
            TemporaryDirectory(dir=self.out / "work") as folder,
            storage.at_hand(source.path, Path(folder)) as file,
        ):
            made = _Run(self, replace(source, path=file), Path(folder)).run(record)
        name = storage.address_of(source.path) or str(source.path)
        return made.model_copy(
            update={"notes": [note.replace(str(file), name) for note in made.notes]}
        )


@dataclass
class _Run:
    """One source on its way through the stages."""

    parts: Preparer
    source: SourceFile
    folder: Path
    costs: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    outcome: Array = field(default_factory=lambda: np.zeros(0, np.uint8))

    def run(self, record: PreparedSource) -> PreparedSource:
        clips: list[PreparedClip] = []
        try:
            clips = self._stages()
            dropped = list(self._dropped())
        except Unusable as error:
            self.notes.append(str(error))
            dropped = [Dropped(start_s=0.0, end_s=self.duration_s, reason=error.reason)]
        changes = {
            "duration_s": self.duration_s,
            "clips": clips,
            "dropped": dropped,
            "notes": self.notes,
        }
        costs = {stage: round(self.costs.get(stage, 0.0), 3) for stage in STAGES}
        return record.model_copy(update=changes | {"computing_s": costs})

    def _stages(self) -> list[PreparedClip]:
        config = self.parts.config
        with self._stage("probe"):
            footage = probe(self.source.path)
            self.duration_s = footage.declared_s
            if self.source.direction and self.source.direction not in config.directions:
                raise Unusable(
                    "direction", f"{self.source.path}: face direction '{self.source.direction}'"
                )
            sound = self._sound(footage)
        with self._stage("speech"):
            speakers = self._speakers(sound)
        with self._stage("faces"):
            tracks = self._tracks(footage, sound)
        with self._stage("speaker"):
            network = self.parts.network
            found = None
            if network:
                found = speaker.confidences(footage, sound, tracks, network, config.speaker)
            stretches = speaker.speaking_stretches(tracks, found, config.speaker)
            for track in tracks:
                self._mark(track.start, track.stop, "not_speaking")
        with self._stage("crop"):
            plans = [
                plan for stretch in stretches for plan in self._plans(stretch, footage, speakers)
            ]
        with self._stage("write"):
            return list(self._written(footage, sound, plans))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began_s = time.process_time()
        try:
            yield
        finally:
            self.costs[name] = time.process_time() - began_s

    def _sound(self, footage: Footage) -> SoundTrack:
        if not footage.has_sound:
            raise Unusable("no_sound", f"{self.source.path}: has no sound track")
        sound = footage.sound(self.folder)
        if is_silent(sound.pcm):
            raise Unusable("silent", f"{self.source.path}: its sound is silence")
        if sound.damage:
            self.notes.append(f"{self.source.path}: {sound.damage}")
        return sound

    def _speakers(self, sound: SoundTrack) -> Speakers | None:
        filters = self.parts.filters
        config = self.parts.config.speech
        if filters.language_finder is not None:
            spoken = filters.language_finder.identify(sound.pcm)
            if spoken.language != config.keep_language:
                raise Unusable(
                    "language",
                    f"{self.source.path}: spoken in '{spoken.language}' (certainty"
                    f" {spoken.certainty:.2f})",
                )
        if filters.overlap_finder is not None:
            return filters.overlap_finder.find(sound.pcm)
        return None

    def _tracks(self, footage: Footage, sound: SoundTrack) -> list[Track]:
        """The faces that may speak; marks the ticks that show none, and those without sound."""
        config = self.parts.config
        turns = Turns(config.faces)
        detections, changes = self._survey(footage, turns)
        count = len(changes)
        decoded_s = count / FPS
        declared_s = footage.declared_s
        lost = declared_s - decoded_s > _LOST_S
        self.duration_s = declared_s if lost else decoded_s
        self.outcome = np.full(
            max(count, round(self.duration_s * FPS)), REASONS.index("no_face"), np.uint8
        )
        self._mark(count, len(self.outcome), "damaged")
        if lost or footage.damage:
            why = footage.damage or f"the picture ends at {decoded_s:.2f} s of {declared_s:.2f} s"
            self.notes.append(f"{self.source.path}: {why}")
        heard = range(_ceil(sound.from_s * FPS), min(count, int(sound.end_s * FPS + 0.01)))
        opened = [0, *find_cuts(changes, config.scenes), count]
        least = round(config.clips.min_s * FPS)
        tracks = []
        for start, stop in zip(opened, opened[1:], strict=False):
            for track in link(detections, range(start, stop), config.faces):
                track.start = max(track.start, heard.start)
                track.stop = min(track.stop, heard.stop)
                if track.face_px < config.faces.min_face_px:
                    self._mark(track.start, track.stop, "small_face", over=("no_face", "short"))
                elif track.stop - track.start < least:
                    self._mark(track.start, track.stop, "short", over=("no_face",))
                elif turns.is_turned(track):
                    self._mark(track.start, track.stop, "turned", over=("no_face", "short"))
                else:
                    tracks.append(track)
        self._mark(0, heard.start, "no_sound")
        self._mark(max(heard.start, heard.stop), count, "damaged" if sound.damage else "no_sound")
        return tracks

    def _survey(self, footage: Footage, turns: Turns) -> tuple[dict[int, list[FaceBox]], Array]:
        """Faces at every k-th tick, and how much each frame differs from the one before."""
        detections: dict[int, list[FaceBox]] = {}
        changes = []
        last = None
        seen = None
        for tick, frame in enumerate(footage.frames(FPS)):
            small = seen if frame is last else thumbnail(frame)
            changes.append(
                0.0 if seen is None or frame is last else float(np.abs(small - seen).mean())
            )
            last = frame
            seen = small
            if tick % self.parts.config.faces.detect_every == 0:
                detections[tick] = self.parts.detector.detect(frame)
                turns.look(tick, frame, detections[tick])
        return detections, np.array(changes)

    def _mark(
        self,
        start: int,
        stop: int,
        reason: Reason,
        over: tuple[Reason, ...] = (),
    ) -> None:
        """Gives ticks a reason; with `over`, only those that have one of these so far."""
        part = self.outcome[start : max(start, stop)]
        codes = [REASONS.index(name) for name in over]
        part[np.isin(part, codes) if over else slice(None)] = REASONS.index(reason)

    def _plans(
        self, stretch: Stretch, footage: Footage, speakers: Speakers | None
    ) -> Iterator[_Plan]:
        """The clips of a stretch that pass; ticks of others get their reason."""
        config = self.parts.config
        if stretch.stop - stretch.start < round(config.clips.min_s * FPS):
            self._mark(stretch.start, stretch.stop, "short")
            return
        parts = _ceil((stretch.stop - stretch.start) / round(config.clips.max_s * FPS))
        edges = np.linspace(stretch.start, stretch.stop, parts + 1).round().astype(int).tolist()
        for start, stop in zip(edges, edges[1:], strict=False):
            plan = _plan(stretch, start, stop, footage.size_px, config.crop)
            reason = self._refused(plan, speakers)
            if reason is not None:
                self._mark(start, stop, reason)
                continue
            self.outcome[start:stop] = _KEPT
            yield plan

    def _refused(self, plan: _Plan, speakers: Speakers | None) -> Reason | None:
        config = self.parts.config
        filters = self.parts.filters
        start_s = plan.start / FPS
        end_s = plan.stop / FPS
        if plan.squares[:, 2].min() < config.crop.min_side_px:
            return "small_face"
        if (
            speakers
            and filters.overlapping_share(speakers, start_s, end_s) > config.speech.max_overlap
        ):
            return "overlap"
        if self._held_out() and not self._fit_for_test(plan, end_s - start_s):
            return "not_for_test"
        return None

    def _held_out(self) -> bool:
        """Whether the paper's rule keeps clips of this person for the test."""
        split = self.parts.config.split
        return split_of(self.source.identity, split) == "held_out" and split.rule == "paper"

    def _fit_for_test(self, plan: _Plan, duration_s: float) -> bool:
        """Whether a clip is long enough, and its face large enough, to be measured."""
        split = self.parts.config.split
        return duration_s >= split.test_min_s and plan.face_px >= split.test_min_face_px

    def _written(
        self, footage: Footage, sound: SoundTrack, plans: list[_Plan]
    ) -> Iterator[PreparedClip]:
        """Writes the clips, which do not overlap, as the source passes by."""
        frames = footage.frames(FPS)
        at = 0
        for plan in plans:
            cut = islice(frames, plan.start - at, plan.stop - at)
            at = plan.stop
            yield self._write(plan, map(plan.cut, cut, range(len(plan.squares))), sound)

    def _write(self, plan: _Plan, frames: Iterator[Array], sound: SoundTrack) -> PreparedClip:
        first, last = (round(tick / FPS * sound.rate) for tick in (plan.start, plan.stop))
        samples = np.asarray(sound.samples[first:last], np.float32) / 32768
        # The last tick may reach a few samples beyond the sound.
        samples = np.pad(samples, ((0, last - first - len(samples)), (0, 0)))
        samples = samples[:, 0] if samples.shape[1] == 1 else samples
        id_ = f"{_slug(self.source.path.stem)}-{_short(self.source.key)}-{plan.start:06d}"
        path = self.parts.out / "clips" / f"{id_}.mp4"
        media.write_video(path, frames, FPS, samples, sound.rate, metadata={})
        return _clip_record(id_, plan, sound, path)

    def _dropped(self) -> Iterator[Dropped]:
        """The reasons as stretches of the source."""
        edges = [0, *(np.flatnonzero(np.diff(self.outcome)) + 1).tolist(), len(self.outcome)]
        for start, stop in zip(edges, edges[1:], strict=False):
            if stop > start and self.outcome[start] != _KEPT:
                yield Dropped(
                    start_s=start / FPS, end_s=stop / FPS, reason=REASONS[self.outcome[start]]
                )


def _clip_record(id_, plan: _Plan, sound: SoundTrack, path) -> PreparedClip:
    return PreparedClip(
        id=id_,
        video=f"clips/{id_}.mp4",
        start_frame=plan.start,
        num_frames=plan.stop - plan.start,
        size_px=plan.side_px,
        sample_rate_hz=media.written_rate_hz(sound.rate),
        face_px=round(plan.face_px, 2),
        square=tuple(plan.squares[0].tolist()),
        travel=round(plan.travel, 4),
        speaking=round(plan.confidence, 4),
        sha256=sha256_of(path),
    )


@dataclass(frozen=True)
class _Plan:
    """A clip to be written: its ticks, a square for each, and the side of its frames."""

    start: int
    stop: int
    squares: Array
    side_px: int
    face_px: float
    travel: float
    confidence: float

    def cut(self, frame: Array, index: int) -> Array:
        """Frame `index` of the clip out of the source's frame."""
        x, y, side = self.squares[index].tolist()
        piece = frame[y : y + side, x : x + side]
        if side == self.side_px:
            return piece
        return np.asarray(
            Image.fromarray(piece).resize((self.side_px,) * 2, Image.Resampling.LANCZOS)
        )


def _plan(
    stretch: Stretch, start: int, stop: int, size_px: tuple[int, int], config: CropConfig
) -> _Plan:
    boxes = stretch.track.boxes_at(np.arange(start, stop, dtype=float))
    cut = squares(boxes, size_px, config)
    face_px = float(np.median(np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    travel = float(np.ptp(centres, axis=0).max()) / face_px
    side_px = side_of(int(np.median(cut[:, 2])), config)
    return _Plan(start, stop, cut, side_px, face_px, travel, stretch.confidence)


def _ceil(value: float) -> int:
    return int(np.ceil(value - 1e-9))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:60] or "clip"


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]
