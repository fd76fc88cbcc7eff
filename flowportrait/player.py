"""The part of a page that plays clips in sync with their truth and those of other generators.

Videos lie in a folder beside the page, as links to the same file where the file system allows it
and as copies where it does not, so that the page works from disk, from a server and after it was
moved together with that folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Literal

from flowportrait.clips import Sample
from flowportrait.errors import DataError
from flowportrait.files import JsonObject, link_or_copy
from flowportrait.media import Clip
from flowportrait.records import Score

_OURS = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,5}")
STYLE = """
.controls,.transport{display:flex;flex-wrap:wrap;gap:.5rem 1.2rem;align-items:center}
.transport{gap:.6rem;margin:.4rem 0}.transport input{flex:1;min-width:8rem}
.controls label{min-width:0;max-width:100%;overflow-wrap:anywhere}
select,button,input[type=search]{font:inherit;color:inherit;background:var(--page);
border:1px solid var(--line);border-radius:6px;padding:.25rem .6rem;max-width:100%}
.item{border-top:1px solid var(--line);padding:.6rem 0 1rem}
.item h3{margin:.2rem 0;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(210px,45%),1fr));gap:.8rem}
.row figure{margin:0;min-width:0}
.row video{width:100%;display:block;background:#000;border-radius:6px}
figcaption{font-size:.85em}figcaption a,figcaption span{display:block;overflow-wrap:anywhere}
figcaption span{color:var(--dim)}figcaption .chosen{color:var(--ink);font-weight:600}
figcaption .bad{color:var(--bad)}
"""


@dataclass(frozen=True)
class ShownScorer:
    """A scorer that clips can be sorted by; `better` is empty if unknown."""

    name: str
    better: Literal["higher", "lower", ""]


class VideoFolder:
    """The folder beside a page that holds the videos it shows."""

    def __init__(self, page: Path, name: str):
        """The folder `name` is made beside the file `page` when the first video is wanted."""
        self._folder = page.parent / name
        self._name = name
        self._wanted: set[str] = set()

    def address(self, clip: Clip | None, sha256: str) -> str:
        """Where the page finds a video, relative to it; empty for one that is not there.

        Raises DataError when the folder cannot be written.
        """
        if clip is None or not sha256:
            return ""
        name = f"{sha256[:32]}{clip.path.suffix.lower()}"
        target = self._folder / name
        self._wanted.add(name)
        if not target.is_file():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                # A copy that is cut off must not be taken for the video.
                partial = target.with_name(f"{name}.part")
                link_or_copy(clip.path.resolve(), partial)
                partial.replace(target)
            except OSError as error:
                raise DataError(f"{target}: cannot be written: {error.strerror}") from error
        return f"{self._name}/{name}"

    def sweep(self) -> None:
        """Removes the videos that an earlier page showed and this one does not."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if _OURS.fullmatch(path.name) and path.name not in self._wanted:
                path.unlink()


def section(
    samples: Sequence[Sample],
    scored: Iterable[tuple[Sample, Score]],
    scorers: Iterable[ShownScorer],
    folder: VideoFolder,
) -> str:
    """The HTML of the player with its data and script; `STYLE` belongs into the page's style.

    `scored` says whose each score is; repeats of one scorer are averaged. Videos that are shown are
    brought into `folder`. Raises DataError when it cannot be written.
    """
    data = {
        "generators": list(dict.fromkeys(sample.generator for sample in samples)),
        "scorers": [asdict(scorer) for scorer in scorers],
        "items": list(_items(samples, _Results(scored), folder)),
    }
    return _page_part(data)


def _page_part(data: list[JsonObject]) -> str:
    """Data and script of the player as a part of a page."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")
    return (
        "<h2>Clips</h2><noscript><p>Playing the clips here needs JavaScript; the tables do not.</p>"
        "</noscript><div id=player></div>"
        f"<script type='application/json' id=clips-data>{text}</script><script>{script}</script>"
    )


class _Results:
    """The scores of each sample by scorer, and the reasons why others are missing."""

    def __init__(self, scored: Iterable[tuple[Sample, Score]]):
        self._values: dict[str, dict[str, list[float]]] = {}
        self._reasons: dict[str, dict[str, str]] = {}
        for sample, score in scored:
            if score.reason:
                self._reasons.setdefault(sample.id, {})[score.scorer] = score.reason
            else:
                own = self._values.setdefault(sample.id, {})
                own.setdefault(score.scorer, []).append(score.value)

    def of(self, sample: Sample) -> dict[str, JsonObject]:
        """A sample's scores by scorer, and the reasons of those that have none."""
        values = self._values.get(sample.id, {})
        reasons = self._reasons.get(sample.id, {})
        return {
            "scores": {name: sum(found) / len(found) for name, found in values.items()},
            "lost": {name: why for name, why in reasons.items() if name not in values},
        }


def _items(
    samples: Iterable[Sample], results: _Results, folder: VideoFolder
) -> Iterable[JsonObject]:
    """Items for the script: every sample with its truth and the clips of all generators."""
    items: dict[str, JsonObject] = {}
    for sample in samples:
        name = sample.item or sample.id
        item = items.setdefault(name, {"name": name, "truth": "", "clips": []})
        item["truth"] = item["truth"] or folder.address(sample.truth, sample.truth_sha256)
        source = folder.address(sample.clip, sample.sha256)
        item["clips"].append(
            {"generator": sample.generator, "source": source, **results.of(sample)}
        )
    return items.values()


def link(address: str, text: str) -> str:
    """An HTML link to a video, or the text alone where there is none."""
    if not address:
        return escape(text)
    return f"<a href='{escape(address, quote=True)}'>{escape(text)}</a>"
