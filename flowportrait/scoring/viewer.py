"""The part of an evaluation's page that plays clips: beside their truth, beside other generators',
in step.

Videos lie in `clips/` beside the page, as links to the same file where the file system allows it
and as copies where it does not, so that the folder works from disk, from a server and after it was
moved.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

from flowportrait.errors import DataError
from flowportrait.media import Clip
from flowportrait.scoring.evaluate import Evaluation

CLIPS = "clips"
_OURS = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,5}")
STYLE = """
.controls,.transport{display:flex;flex-wrap:wrap;gap:.5rem 1.2rem;align-items:center}
.transport{gap:.6rem;margin:.4rem 0}.transport input{flex:1;min-width:8rem}
select,button,input[type=search]{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);
border-radius:6px;padding:.25rem .6rem;max-width:100%}
.item{border-top:1px solid var(--line);padding:.6rem 0 1rem}.item h3{margin:.2rem 0;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(210px,45%),1fr));gap:.8rem}
.row figure{margin:0;min-width:0}.row video{width:100%;display:block;background:#000;border-radius:6px}
figcaption{font-size:.85em}figcaption a,figcaption span{display:block;overflow-wrap:anywhere}
figcaption span{color:var(--dim)}figcaption .chosen{color:var(--ink);font-weight:600}figcaption .bad{color:var(--bad)}
"""


class Media:
    """The videos that a page shows, brought into the folder `clips` of its own."""

    def __init__(self, out: Path):
        self._folder = out / CLIPS
        self._wanted: set[str] = set()

    def address(self, clip: Clip | None, sha256: str) -> str:
        """Where the page finds a video, relative to it; empty for one that is not there. Raises
        DataError.
        """
        if clip is None or not sha256:
            return ""
        name = f"{sha256[:32]}{clip.path.suffix.lower()}"
        target = self._folder / name
        self._wanted.add(name)
        if not target.is_file():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                _link_or_copy(clip.path, target)
            except OSError as error:
                raise DataError(f"{target}: cannot be written: {error.strerror}") from error
        return f"{CLIPS}/{name}"

    def sweep(self) -> None:
        """Takes away videos that an earlier page showed and this one does not."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if _OURS.fullmatch(path.name) and path.name not in self._wanted:
                path.unlink()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        # Another file system, or one without links. A copy that is cut off must not be taken for
        # the video.
        partial = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, partial)
        os.replace(partial, target)


def section(result: Evaluation, media: Media) -> str:
    """The HTML of the player with its data and script."""
    text = json.dumps(_data(result, media), separators=(",", ":")).replace("<", "\\u003c")
    script = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
    return (
        "<h2>Clips</h2><noscript><p>Playing the clips here needs JavaScript; the tables below do"
        " not.</p></noscript><div id=viewer></div><script type='application/json'"
        f" id=clips-data>{text}</script><script>{script}</script>"
    )


def _data(result: Evaluation, media: Media) -> dict[str, Any]:
    """What the script shows: every sample with its truth and its clips, their scores and
    reasons.
    """
    scores: dict[str, dict[str, float]] = {}
    lost: dict[str, dict[str, str]] = {}
    for score in result.scores:
        side = lost if score.reason else scores
        side.setdefault(score.clip, {})[score.scorer] = score.reason or score.value  # type: ignore[assignment]
    items: dict[str, dict[str, Any]] = {}
    for sample in result.samples:
        item = items.setdefault(sample.item or sample.id, {"truth": "", "clips": []})
        item["truth"] = item["truth"] or media.address(sample.truth, sample.truth_sha256)
        item["clips"].append(
            {
                "generator": sample.generator,
                "source": media.address(sample.clip, sample.sha256),
                "scores": scores.get(sample.id, {}),
                "lost": lost.get(sample.id, {}),
            }
        )
    return {
        "generators": result.generators,
        "scorers": [{"name": scorer.name, "better": scorer.better} for scorer in result.scorers],
        "items": [{"name": name, **item} for name, item in items.items()],
    }


def link(address: str, text: str) -> str:
    """An HTML link to a video, or the text alone where there is none."""
    return (
        f"<a href='{escape(address, quote=True)}'>{escape(text)}</a>" if address else escape(text)
    )
