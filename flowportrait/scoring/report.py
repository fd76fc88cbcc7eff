"""What an evaluation leaves for people: CSV, Markdown and one self-contained HTML page, worst cases first."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.errors import DataError, MediaError
from flowportrait.pages import csv_text, data_url, histogram, html_table, markdown_rows, page, short
from flowportrait.records import Score
from flowportrait.scoring import Sample, Scorer
from flowportrait.scoring.evaluate import Evaluation, provenance

WORST = 6
THUMB_PX = 120
_STYLE = ".words td,.words th{text-align:left;overflow-wrap:anywhere}"


def write(result: Evaluation, out: Path) -> None:
    """scores.csv, report.md, report.html and provenance.json beside the records."""
    texts = {
        "scores.csv": _csv(result), "report.md": _markdown(result), "report.html": _page(result),
        "provenance.json": json.dumps(provenance(result), indent=2) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        try:
            (out / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{out / name}: cannot be written: {error.strerror}") from error


_COLUMNS = ("clip", "scorer", "value", "unit", "reason", "parts", "sha256", "truth_sha256", "fingerprint")
_MORE_COLUMNS = ("weights_sha256", "settings", "frames", "fps", "looked_at_fps")


def _csv(result: Evaluation) -> str:
    """One line a clip and scorer, with its parts and settings as JSON."""
    rows = []
    for s in result.scores:
        parts, settings = (json.dumps(value, sort_keys=True) for value in (s.parts, s.settings))
        rates = (_plain(s.source.get(name)) for name in ("num_frames", "fps", "looked_at_fps"))
        rows.append(
            [s.clip, s.scorer, "" if s.reason else repr(s.value), s.unit, s.reason, parts, s.sha256, s.truth_sha256,
             s.fingerprint, s.weights_sha256, settings, *rates]
        )  # fmt: skip
    return csv_text((*_COLUMNS, *_MORE_COLUMNS), rows)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{int(value)}" if value == int(value) else repr(value)


def _summary(result: Evaluation) -> Iterator[tuple[str, ...]]:
    """Cells of one line a scorer: name, mean, standard deviation, median, worst, scored, unscored."""
    for scorer in result.scorers:
        scores = result.of(scorer.name)
        values = np.array([s.value for s in scores if not s.reason])
        lost = str(len(scores) - len(values))
        if not len(values):
            yield (scorer.name, scorer.better, "no score", "", "", "", "0", lost)
            continue
        worst = values.min() if scorer.better == "higher" else values.max()
        figures = (values.mean(), values.std(), np.median(values), worst)
        yield (scorer.name, scorer.better, *map(short, figures), str(len(values)), lost)


def _markdown(result: Evaluation) -> str:
    lines = [f"# {result.generated} against {result.truth}", ""]
    head = ("scorer", "better", "mean", "std", "median", "worst", "clips", "unscored")
    lines += markdown_rows(head, _summary(result))
    if result.sets:
        lines += ["", *markdown_rows(("set metric", "value", "clips", "truth", "left out"), _set_cells(result))]
        lines += [f"- {warning}" for found in result.sets for warning in found.warnings]
    lines += [f"- {line}" for line in result.clip_warnings]
    if lacking := result.without_score:
        lines += ["", f"## Without a score ({len(lacking)})", ""]
        lines += [f"- `{' '.join(lack.clip.split())}` by {', '.join(lack.scorers)}: {lack.reason}" for lack in lacking]
    return "\n".join(lines) + "\n"


def _set_cells(result: Evaluation) -> Iterator[tuple[str, ...]]:
    for found in result.sets:
        value = found.reason or short(found.value)
        yield (found.set_metric, value, str(found.num_clips), str(found.num_truth), str(len(found.left_out)))


def _page(result: Evaluation) -> str:
    """The whole page; everything it shows is inside it."""
    parts = [
        f"<h1>{escape(result.generated)} <span class=dim>against {escape(result.truth)}</span></h1>",
        html_table(("scorer", "better", "mean", "std", "median", "worst", "clips", "unscored"), _summary(result)),
    ]
    if result.sets:
        parts.append(html_table(("set metric", "value", "clips", "truth", "left out"), _set_cells(result)))
        parts += [f"<p class=bad>{escape(warning)}</p>" for found in result.sets for warning in found.warnings]
    parts += [f"<p class=bad>{escape(line)}</p>" for line in result.clip_warnings]
    thumbs = _Thumbs(result.samples)
    parts += [_section(result, scorer, thumbs) for scorer in result.scorers]
    if lacking := result.without_score:
        rows = ((lack.clip, ", ".join(lack.scorers), lack.reason) for lack in lacking)
        table = html_table(("clip", "by", "reason"), rows)
        parts += [f"<h2>Without a score ({len(lacking)})</h2>", f"<div class=words>{table}</div>"]
    parts += ["<h2>All clips</h2>", _all_clips(result)]
    parts += [f"<h2>Provenance</h2><pre>{escape(json.dumps(provenance(result), indent=1))}</pre>"]
    return page(result.generated, parts, _STYLE)


def _section(result: Evaluation, scorer: Scorer, thumbs: _Thumbs) -> str:
    """One scorer: what it measures, how its values are spread, its worst clips."""
    scores = [s for s in result.of(scorer.name) if not s.reason]
    about = (type(scorer).__doc__ or "").strip().split("\n")[0]
    head = f"<h2>{escape(scorer.name)}</h2><p class=dim>{escape(about)} Unit: {escape(scorer.unit)}.</p>"
    if not scores:
        return head + "<p>No clip has a score.</p>"
    worst = sorted(scores, key=lambda s: s.value, reverse=scorer.better == "lower")[:WORST]
    cases = "".join(_case(s, thumbs) for s in worst)
    return f"{head}{histogram([s.value for s in scores])}<h3>Worst</h3><div class=cases>{cases}</div>"


def _case(score: Score, thumbs: _Thumbs) -> str:
    parts = ", ".join(f"{name} {short(value)}" for name, value in score.parts.items())
    picture = thumbs.of(score.clip)
    image = f"<img alt='' src='{picture}'>" if picture else "<p class=bad>no picture</p>"
    words = f"<b>{short(score.value)}</b><span>{escape(score.clip)} <i>{escape(parts)}</i></span>"
    return f"<div class=case>{image}{words}</div>"


def _all_clips(result: Evaluation) -> str:
    names = [scorer.name for scorer in result.scorers]
    values = {(s.clip, s.scorer): s for s in result.scores}

    def cell(clip: str, name: str) -> str:
        score = values.get((clip, name))
        return "" if score is None else "unscored" if score.reason else short(score.value)

    return html_table(("clip", *names), ((s.id, *(cell(s.id, name) for name in names)) for s in result.samples))


class _Thumbs:
    """A strip of each clip's first, middle and last frame, made when it is first shown."""

    def __init__(self, samples: Iterable[Sample]):
        self._samples = {sample.id: sample for sample in samples}
        self._made: dict[str, str] = {}

    def of(self, clip: str) -> str:
        """A data URL; empty for a clip without pictures."""
        if clip not in self._made:
            self._made[clip] = self._strip(self._samples[clip])
        return self._made[clip]

    def _strip(self, sample: Sample) -> str:
        try:
            count = sample.clip.facts.num_frames
            wanted = {0, count // 2, count - 1}
            shown = [frame for i, frame in enumerate(media.read_frames(sample.clip.path)) if i in wanted]
        except MediaError:
            return ""
        pictures = [Image.fromarray(frame) for frame in shown]
        for picture in pictures:
            picture.thumbnail((THUMB_PX, THUMB_PX))
        strip = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)))
        left = 0
        for picture in pictures:
            strip.paste(picture, (left, 0))
            left += picture.width
        data = io.BytesIO()
        strip.save(data, "JPEG", quality=80)
        return data_url(data.getvalue(), "image/jpeg")
