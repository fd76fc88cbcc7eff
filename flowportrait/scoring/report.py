"""Reports of an evaluation for people: CSV, Markdown, LaTeX and an HTML page with its clips, worst
cases first.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media, player
from flowportrait.errors import DataError, MediaError
from flowportrait.pages import (
    Html,
    csv_text,
    data_url,
    histogram,
    html_table,
    latex_table,
    markdown_rows,
    page,
    short,
)
from flowportrait.records import Score
from flowportrait.scoring import Sample, Scorer
from flowportrait.scoring.evaluate import Evaluation, provenance
from flowportrait.scoring.generators import DIFFERENCE_HEAD, difference_rows, standing_rows

PAGE = "report.html"
CLIPS = "clips"
WORST = 6
THUMB_PX = 120
_STYLE = f".words td,.words th{{text-align:left}}{player.STYLE}"
_NOTE = (
    "Means over the clips that have a score; intervals (95 %) resample samples. p: paired sign-flip"
    " test over the samples that both have, not corrected for the number of comparisons."
)


def write(result: Evaluation, out: Path) -> None:
    """scores.csv, summary.csv, differences.csv, report.md, report.tex, report.html with `clips`,
    provenance.json.
    """
    clips = player.VideoFolder(out / PAGE, CLIPS)
    texts = {
        "scores.csv": _csv(result),
        "summary.csv": _summary_csv(result),
        "differences.csv": _differences_csv(result),
        "report.md": _markdown(result),
        "report.tex": _latex(result),
        PAGE: _page(result, clips),
        "provenance.json": json.dumps(provenance(result), indent=2) + "\n",
    }
    clips.sweep()
    for name, text in texts.items():
        try:
            (out / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{out / name}: cannot be written: {error.strerror}") from error


_COLUMNS = (
    "clip",
    "scorer",
    "value",
    "unit",
    "reason",
    "parts",
    "sha256",
    "truth_sha256",
    "fingerprint",
)
_MORE_COLUMNS = (
    "weights_sha256",
    "settings",
    "frames",
    "fps",
    "looked_at_fps",
    "generator",
    "sample",
)


def _csv(result: Evaluation) -> str:
    """One line a clip and scorer, with its parts and settings as JSON."""
    rows = []
    samples = {sample.id: sample for sample in result.samples}
    for s in result.scores:
        of = samples[s.clip]
        parts, settings = (json.dumps(value, sort_keys=True) for value in (s.parts, s.settings))
        rates = (_plain(s.source.get(name)) for name in ("num_frames", "fps", "looked_at_fps"))
        rows.append(
            [
                s.clip,
                s.scorer,
                "" if s.reason else repr(s.value),
                s.unit,
                s.reason,
                parts,
                s.sha256,
                s.truth_sha256,
                s.fingerprint,
                s.weights_sha256,
                settings,
                *rates,
                of.generator,
                of.item,
            ]
        )
    return csv_text((*_COLUMNS, *_MORE_COLUMNS), rows)


def _summary_csv(result: Evaluation) -> str:
    """One line a generator and scorer or set metric, with everything that is known of it."""
    rows = [
        (
            one.generator,
            one.scorer,
            *map(_exact, (one.mean.value, one.mean.low, one.mean.high)),
            one.scored,
            one.unscored,
            "",
        )
        for one in result.standings
    ]
    for found in result.sets:
        whose = found.generator or result.generators[0]
        lost = len(found.left_out)
        rows.append(
            (
                whose,
                found.set_metric,
                _exact(found.value),
                "",
                "",
                found.num_clips,
                lost,
                found.reason,
            )
        )
    return csv_text(
        ("generator", "scorer", "value", "low", "high", "clips", "unscored", "reason"), rows
    )


def _differences_csv(result: Evaluation) -> str:
    """The differences of generators, in full precision."""
    rows = (
        (
            d.scorer,
            d.a,
            d.b,
            d.samples,
            *map(_exact, d.difference.model_dump().values()),
            _exact(d.p),
            d.better,
        )
        for d in result.differences
    )
    return csv_text(
        ("scorer", "a", "b", "samples", "difference", "low", "high", "p", "better"), rows
    )


def _exact(value: float) -> str:
    if np.isfinite(value):
        return repr(float(value))
    return ""


def _latex(result: Evaluation) -> str:
    """The summary, set metrics below, and the differences where there are several generators."""
    head, rows = standing_rows(result.standings)
    sets = {(found.set_metric, found.generator): found for found in result.sets}
    for name in dict.fromkeys(found.set_metric for found in result.sets):
        own = (sets.get((name, whose)) or sets.get((name, "")) for whose in head[1:])
        rows.append(
            (name, *("—" if found is None or found.reason else short(found.value) for found in own))
        )
    text = latex_table(f"Against {result.truth}. {_NOTE}", head, rows)
    if result.differences:
        text += "\n" + latex_table(
            "Every two generators.", DIFFERENCE_HEAD, difference_rows(result.differences)
        )
    return text


def _plain(value: float | None) -> str:
    """A number without needless digits; nothing for none."""
    if value is None:
        return ""
    if value == int(value):
        return f"{int(value)}"
    return repr(value)


def _summary(result: Evaluation) -> Iterator[tuple[str, ...]]:
    """Cells of one line a scorer and generator: name, mean, standard deviation, median, worst,
    scored, unscored.
    """
    made_by = {sample.id: sample.generator for sample in result.samples}
    for scorer, generator in ((s, g) for s in result.scorers for g in result.generators):
        name = scorer.name if len(result.generators) == 1 else f"{scorer.name}, {generator}"
        scores = [s for s in result.of(scorer.name) if made_by[s.clip] == generator]
        values = np.array([s.value for s in scores if not s.reason])
        lost = str(len(scores) - len(values))
        if not len(values):
            yield (name, scorer.better, "no score", "", "", "", "0", lost)
            continue
        worst = values.min() if scorer.better == "higher" else values.max()
        figures = (values.mean(), values.std(), np.median(values), worst)
        yield (name, scorer.better, *map(short, figures), str(len(values)), lost)


def _markdown(result: Evaluation) -> str:
    lines = [f"# {result.generated} against {result.truth}", ""]
    head = ("scorer", "better", "mean", "std", "median", "worst", "clips", "unscored")
    lines += markdown_rows(head, _summary(result))
    lines += ["", *markdown_rows(*standing_rows(result.standings))]
    if result.differences:
        lines += ["", *markdown_rows(DIFFERENCE_HEAD, difference_rows(result.differences))]
    lines += ["", _NOTE]
    if result.sets:
        lines += ["", *markdown_rows(_SET_HEAD, _set_cells(result))]
        lines += [f"- {warning}" for found in result.sets for warning in found.warnings]
    lines += [f"- not computed: {name}: {why}" for name, why in result.skipped.items()]
    lines += [f"- {line}" for line in result.clip_warnings]
    if lacking := result.without_score:
        lines += ["", f"## Without a score ({len(lacking)})", ""]
        lines += [
            f"- `{' '.join(lack.clip.split())}` by {', '.join(lack.scorers)}: {lack.reason}"
            for lack in lacking
        ]
    return "\n".join(lines) + "\n"


_SET_HEAD = ("set metric", "generator", "value", "clips", "truth", "left out")


def _set_cells(result: Evaluation) -> Iterator[tuple[str, ...]]:
    """Rows of the table of figures about whole sets."""
    for found in result.sets:
        value = found.reason or short(found.value)
        whose = found.generator or result.generators[0]
        yield (
            found.set_metric,
            whose,
            value,
            str(found.num_clips),
            str(found.num_truth),
            str(len(found.left_out)),
        )


def _page(result: Evaluation, clips: player.VideoFolder) -> str:
    """The whole page; everything it shows is inside it but the videos, which lie in `clips` beside
    it.
    """
    parts = [
        (
            f"<h1>{escape(result.generated)} <span class=dim>against"
            f" {escape(result.truth)}</span></h1>"
        ),
        html_table(*standing_rows(result.standings)),
    ]
    if result.differences:
        parts.append(html_table(DIFFERENCE_HEAD, difference_rows(result.differences)))
    parts.append(f"<p class=dim>{escape(_NOTE)}</p>")
    if result.sets:
        parts.append(html_table(_SET_HEAD, _set_cells(result)))
        parts += [
            f"<p class=bad>{escape(warning)}</p>"
            for found in result.sets
            for warning in found.warnings
        ]
    parts += [
        f"<p class=bad>Not computed: {escape(name)}: {escape(why)}</p>"
        for name, why in result.skipped.items()
    ]
    parts += [f"<p class=bad>{escape(line)}</p>" for line in result.clip_warnings]
    thumbs = _Thumbs(result.samples)
    parts.append(_player(result, clips))
    head = ("scorer", "better", "mean", "std", "median", "worst", "clips", "unscored")
    parts += ["<h2>How the scores are spread</h2>", html_table(head, _summary(result))]
    parts += [_section(result, scorer, thumbs, clips) for scorer in result.scorers]
    if lacking := result.without_score:
        rows = ((lack.clip, ", ".join(lack.scorers), lack.reason) for lack in lacking)
        table = html_table(("clip", "by", "reason"), rows)
        parts += [f"<h2>Without a score ({len(lacking)})</h2>", f"<div class=words>{table}</div>"]
    parts += ["<h2>All clips</h2>", _all_clips(result, clips)]
    parts += [f"<h2>Provenance</h2><pre>{escape(json.dumps(provenance(result), indent=1))}</pre>"]
    return page(result.generated, parts, _STYLE)


def _player(result: Evaluation, clips: player.VideoFolder) -> str:
    """All clips, to be played."""
    samples = {sample.id: sample for sample in result.samples}
    scored = ((samples[score.clip], score) for score in result.scores)
    scorers = (player.ShownScorer(scorer.name, scorer.better) for scorer in result.scorers)
    return player.section(result.samples, scored, scorers, clips)


def _section(result: Evaluation, scorer: Scorer, thumbs: _Thumbs, clips: player.VideoFolder) -> str:
    """One scorer: what it measures, how its values are spread, its worst clips."""
    scores = [s for s in result.of(scorer.name) if not s.reason]
    about = (type(scorer).__doc__ or "").strip().split("\n")[0]
    head = (
        f"<h2>{escape(scorer.name)}</h2><p class=dim>{escape(about)} Unit:"
        f" {escape(scorer.unit)}.</p>"
    )
    if not scores:
        return head + "<p>No clip has a score.</p>"
    worst = sorted(
        scores,
        key=lambda s: s.value,
        reverse=scorer.better == "lower",
    )[:WORST]
    cases = "".join(_case(s, thumbs, clips) for s in worst)
    return (
        f"{head}{histogram([s.value for s in scores])}<h3>Worst</h3><div class=cases>{cases}</div>"
    )


def _case(score: Score, thumbs: _Thumbs, clips: player.VideoFolder) -> str:
    """A clip with its picture, its score and what that was made of."""
    parts = ", ".join(f"{name} {short(value)}" for name, value in score.parts.items())
    picture = thumbs.of(score.clip)
    alt = escape(f"First, middle and last frame of {score.clip}", quote=True)
    image = "<p class=bad>no picture</p>"
    if picture:
        image = f"<img alt='{alt}' src='{picture}'>"
    clip = player.link(clips.address(thumbs.clip(score.clip), score.sha256), score.clip)
    words = f"<b>{short(score.value)}</b><span>{clip} <i>{escape(parts)}</i></span>"
    return f"<div class=case>{image}{words}</div>"


def _all_clips(result: Evaluation, clips: player.VideoFolder) -> str:
    names = [scorer.name for scorer in result.scorers]
    values = {(s.clip, s.scorer): s for s in result.scores}

    def cell(clip: str, name: str) -> str:
        score = values.get((clip, name))
        if score is None:
            return ""
        if score.reason:
            return "unscored"
        return short(score.value)

    rows = (
        (
            Html(player.link(clips.address(s.clip, s.sha256), s.id)),
            *(cell(s.id, name) for name in names),
        )
        for s in result.samples
    )
    return html_table(("clip", *names), rows)


class _Thumbs:
    """A strip of each clip's first, middle and last frame, made when it is first shown."""

    def __init__(self, samples: Iterable[Sample]):
        self._samples = {sample.id: sample for sample in samples}
        self._made: dict[str, str] = {}

    def clip(self, clip: str) -> media.Clip:
        """The video of a clip."""
        return self._samples[clip].clip

    def of(self, clip: str) -> str:
        """A data URL; empty for a clip without pictures."""
        if clip not in self._made:
            self._made[clip] = self._strip(self._samples[clip])
        return self._made[clip]

    def _strip(self, sample: Sample) -> str:
        try:
            count = sample.clip.facts.num_frames
            wanted = {0, count // 2, count - 1}
            shown = [
                frame for i, frame in enumerate(media.read_frames(sample.clip.path)) if i in wanted
            ]
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
