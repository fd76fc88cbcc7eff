"""The part of the report's page that plays clips: the videos whose scores the report holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from flowportrait import player
from flowportrait.clips import Sample, find_samples
from flowportrait.files import ends_alike
from flowportrait.records import Score
from flowportrait.registry import SCORERS
from flowportrait.report.sources import Sources

_LISTED = 3


@dataclass
class Gallery:
    """Videos with the scores that are theirs."""

    samples: list[Sample]
    scored: list[tuple[Sample, Score]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What readers should know of how scores were brought to videos."""

    def html(self, page: Path) -> str:
        """The player, for `page`; the videos are brought into a folder of its own beside it."""
        folder = player.VideoFolder(page, f"{page.stem}-clips")
        names = dict.fromkeys(score.scorer for _, score in self.scored)
        scorers = [player.ShownScorer(name, _better(name)) for name in names]
        text = player.section(self.samples, self.scored, scorers, folder)
        folder.sweep()
        return text


def gather(sources: Sources, videos: Sequence[str], truth: Path | None) -> Gallery:
    """The videos of [NAME=]DIR or [NAME=]MANIFEST, each with its truth and its scores.

    A score belongs to the video with the bytes that were scored, else to the one whose path ends
    as the id of the score does; where NAME is the label of a source, only to one of that folder.
    Raises DataError when a folder is missing or empty.
    """
    gallery = Gallery(find_samples(map(Path, videos), truth))
    index = _Index(gallery.samples)
    lost, changed = {}, {}
    for label, score in _scores(sources):
        sample = index.find(label, score)
        if sample is None:
            lost[f"{label}: {score.clip}"] = None
            continue
        if score.sha256 and score.sha256 != sample.sha256:
            changed[str(sample.clip.path)] = None
        gallery.scored.append((sample, score))
    if lost:
        gallery.notes.append(f"{_some(lost)} scored and not among the videos, so not played")
    if changed:
        gallery.notes.append(f"{_some(changed)} changed since the scores were made")
    return gallery


def _scores(sources: Sources) -> Iterator[tuple[str, Score]]:
    """Every score with the name of who made the video."""
    for scored in sources.scored:
        yield from ((scored.generator, score) for score in scored.scores)
    for run in sources.runs:
        yield from ((run.label, score) for score in run.scores)


class _Index:
    """Finds the video of a score."""

    def __init__(self, samples: Sequence[Sample]):
        self._generators = {sample.generator for sample in samples}
        self._by_digest: dict[str, list[Sample]] = {}
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_digest.setdefault(sample.sha256, []).append(sample)
            self._by_name.setdefault(_name(sample.item), []).append(sample)

    def find(self, label: str, score: Score) -> Sample | None:
        """None where no video is meant, or several may be."""
        same_bytes = []
        if score.sha256:
            same_bytes = self._by_digest.get(score.sha256, [])
        same_name = [
            sample
            for sample in self._by_name.get(_name(score.clip), [])
            if self._is_named(sample, label, score.clip)
        ]
        both = [sample for sample in same_bytes if sample in same_name]
        for found in (both, same_bytes, same_name):
            own = [sample for sample in found if sample.generator == label]
            if found:
                if len(own) == 1:
                    return own[0]
                if len(found) == 1:
                    return found[0]
                return None
        return None

    def _is_named(self, sample: Sample, label: str, clip: str) -> bool:
        if label in self._generators:
            return sample.generator == label and _ends_with(clip, sample.item)
        return sample.id == clip or ends_alike(sample.clip.path.as_posix(), clip)


def _name(clip: str) -> str:
    if clip:
        return PurePath(clip).with_suffix("").name
    return ""


def _ends_with(clip: str, item: str) -> bool:
    parts = PurePath(clip).with_suffix("").parts
    end = PurePath(item).parts
    return clip == item or parts[-len(end) :] == end


def _some(names: dict[str, None]) -> str:
    """A few of the names, the number of the others, and the verb that follows them."""
    listed = list(names)[:_LISTED]
    more = ""
    if len(names) > _LISTED:
        more = f" and {len(names) - _LISTED} more"
    return f"{', '.join(listed)}{more}: {'are' if len(names) > 1 else 'is'}"


def _better(scorer: str) -> str:
    """The better end of a scorer's range; empty for one that is not known here."""
    if scorer in SCORERS.names():
        return SCORERS.load(scorer).better
    return ""
