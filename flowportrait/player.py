"""The part of a page that plays clips: beside their truth and other generators', in step.

Videos lie in a folder beside the page, as links to the same file where the file system allows it
and as copies where it does not, so that the page works from disk, from a server and after it was
moved together with that folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from flowportrait.errors import DataError
from flowportrait.files import link_or_copy

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
    """A scorer that clips can be sorted by."""

    name: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class ShownClip:
    """One generator's clip of a sample: its address, its scores, and why others are missing."""

    generator: str
    source: str
    scores: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownItem:
    """A sample: the address of its truth, empty where there is none, and all clips of it."""

    name: str
    truth: str
    clips: Sequence[ShownClip]


class VideoFolder:
    """The folder beside a page that holds the videos it shows."""

    def __init__(self, page: Path, name: str):
        """`name` of the folder, which is made beside `page` when the first video is wanted."""
        self._folder, self._name = page.parent / name, name
        self._wanted: set[str] = set()

    def address(self, video: Path | None, sha256: str) -> str:
        """Where the page finds a video, relative to it; empty for one that is not there.

        Raises DataError when the folder cannot be written.
        """
        if video is None or not sha256:
            return ""
        name = f"{sha256[:32]}{video.suffix.lower()}"
        target = self._folder / name
        self._wanted.add(name)
        if not target.is_file():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                # A copy that is cut off must not be taken for the video.
                partial = target.with_name(f"{name}.part")
                link_or_copy(video.resolve(), partial)
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
    generators: Sequence[str], scorers: Iterable[ShownScorer], items: Iterable[ShownItem]
) -> str:
    """The HTML of the player with its data and script; `STYLE` belongs into the page's style."""
    data = {
        "generators": list(generators),
        "scorers": [asdict(scorer) for scorer in scorers],
        "items": [asdict(item) for item in items],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")
    return (
        "<h2>Clips</h2><noscript><p>Playing the clips here needs JavaScript; the tables do not.</p>"
        "</noscript><div id=player></div>"
        f"<script type='application/json' id=clips-data>{text}</script><script>{script}</script>"
    )


def link(address: str, text: str) -> str:
    """An HTML link to a video, or the text alone where there is none."""
    if not address:
        return escape(text)
    return f"<a href='{escape(address, quote=True)}'>{escape(text)}</a>"
