"""The offline judge: three aspects from 1 to 5 by signals computed here, for people without any
language model.

Signals become scores by a table that was fitted to ladders of known damage (`python -m
bench.offline_judge`, kept in offline_calibration.json; docs/offline-judge.md says how far to trust
it). A clip is as good in an aspect as the worst of its signals says; where its face is hard to
follow the score keeps to the middle. The judge sees damage, not quality, and answers as
`offline:signals`, never under a model's name.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from flowportrait.faces.landmarker import LANDMARKER_SHA256
from flowportrait.files import JsonObject, file_digest
from flowportrait.media import Clip
from flowportrait.scoring import Sample, digest_of
from flowportrait.scoring.metrics.blendshapes import TABLE
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.signals import SHOWN, SIGNALS, trust
from flowportrait.scoring.metrics.sync_small import SyncSmall
from flowportrait.scoring.metrics.tracking import FPS
from flowportrait.scoring.metrics.view import Unscorable, View

CALIBRATION = Path(__file__).with_name("offline_calibration.json")
VERSION = 2
"""Raised when the same tables and weights give other numbers than before."""
_KEPT_CLIPS = 4


@lru_cache(maxsize=1)
def calibration() -> dict[str, dict[str, list[list[float]]]]:
    """Calibration by aspect and signal: knots [value, score] with rising values, between which
    scores are interpolated.
    """
    return json.loads(CALIBRATION.read_text())["aspects"]


def score_of(value: float, knots: list[list[float]]) -> float:
    """The score of one signal's value; beyond the outermost knots theirs."""
    values, scores = np.array(knots).T
    return float(np.interp(value, values, scores))


def rate(view: View, aspect: str) -> Reading:
    """An aspect's score in [1, 5] with the signals it was read from. Raises Unscorable where they
    cannot be had.
    """
    table = calibration()[aspect]
    signals = {name: SIGNALS[name](view) for name in (*table, *SHOWN[aspect])}
    sure = trust(view)
    return Reading(combined(signals, table, sure), signals | {"trust": sure})


def combined(
    signals: Mapping[str, float], table: Mapping[str, list[list[float]]], sure: float
) -> float:
    """The worst score of the signals in the table, nearer to 3 the less the face's track is to be
    trusted.
    """
    worst = min(score_of(signals[name], knots) for name, knots in table.items())
    return 3 + sure * (worst - 3)


class SignalJudge:
    """`judge.backend = {type = "offline", name = "signals"}`; see
    `backends.offline.OfflineJudge`.
    """

    def __init__(self):
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def version(self) -> str:
        """Digest of the tables and of the networks it reads."""
        return _digest()

    def rate(self, aspect: str, clip: Clip) -> float:
        """A score in [1, 5], nan where the clip cannot be rated. A clip is decoded once for its
        three aspects.
        """
        try:
            return rate(self._view(clip), aspect).value
        except Unscorable:
            return math.nan

    def _view(self, clip: Clip) -> View:
        """The view of a clip, shared by all who ask while it is among the last few."""
        key = file_digest(clip.path) or str(clip.path)
        with self._lock:
            view = self._views.setdefault(key, View(Sample(str(clip.path), clip)))
            self._views.move_to_end(key)
            while len(self._views) > _KEPT_CLIPS:
                self._views.popitem(last=False)
            return view


class _AspectScorer(Metric):
    """One aspect of the offline judge as a scorer and reward: unrounded, with its signals."""

    unit = "1-5 (offline)"
    low = 1.0
    high = 5.0
    better = "higher"
    aspect: ClassVar[str]
    looks_at_fps = FPS

    @cached_property
    def fingerprint(self) -> str:
        """Digest of tables and networks."""
        return digest_of(self.name, self.version, _digest())

    @property
    def weights_sha256(self) -> str:
        """Digests of both networks."""
        return f"{SyncSmall().weights_sha256}+{LANDMARKER_SHA256}"

    def provenance(self) -> JsonObject:
        """See `Metric`; with the label that these are no model's opinions."""
        return {**super().provenance(), "judge": "offline:signals, no language model"}

    def read(self, view: View) -> Reading:
        return rate(view, self.aspect)


class OfflineLipSync(_AspectScorer):
    """Lip-sync by `sync-small`, together with the amount of mouth motion."""

    name = "offline-lip-sync"
    aspect = "lip_sync"
    needs = frozenset({"frames", "sound"})


class OfflineExpressiveness(_AspectScorer):
    """Motion of brows and eyelids, and the rate of blinks."""

    name = "offline-expressiveness"
    aspect = "expressiveness"
    needs = frozenset({"frames"})


class OfflineMotion(_AspectScorer):
    """Amount and smoothness of the face's motion."""

    name = "offline-motion"
    aspect = "motion"
    needs = frozenset({"frames"})


def _digest() -> str:
    tables = file_digest(CALIBRATION), file_digest(TABLE)
    return digest_of(VERSION, *tables, SyncSmall().weights_sha256, LANDMARKER_SHA256)
