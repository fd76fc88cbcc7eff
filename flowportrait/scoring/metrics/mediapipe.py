"""Behaviour of a face: blinks, lips in silence and with the sound, and a constant identity.

Faces are read by MediaPipe's FaceLandmarker (478 points, 52 blendshapes; Apache-2.0). Identity is
OpenCV Zoo's SFace (Apache-2.0). Both files come from their homes by hand or by download; see
`weights.py`.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import Field

from flowportrait.arrays import Array, PerFrame
from flowportrait.config import Frozen
from flowportrait.errors import require
from flowportrait.files import sha256_of
from flowportrait.pretrained import WEIGHTS
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.view import Blocks, Unscorable, View
from flowportrait.sound import SPEECH_HZ

UPPER_LIP = 13
LOWER_LIP = 14
EYE_CORNERS = (33, 263)
EYES_NOSE_MOUTH = (468, 473, 1, 61, 291)
"""Of the 478 points: inner lips, outer corners of the eyes, and the five that SFace is aligned
by.
"""


class FaceOverTime(NamedTuple):
    """A face over time; nan and False where it is not found. Openings are in shares of the distance
    of the eyes.
    """

    found: Array
    lip_opening: Array
    blink: Array
    five_points: Array


class FaceConfig(Frozen):
    """`weights`: file of the landmarker, if it is not in the cache."""

    weights: Path | None = None
    min_found: float = Field(0.5, ge=0, le=1, description="minimum share of frames with a face")


class _FaceMetric(Metric):
    needs = frozenset({"frames", "weights"})
    Config: ClassVar[type[FaceConfig]] = FaceConfig

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS["face-landmarker"].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def seen(self, view: View) -> FaceOverTime:
        """The face of a clip. Raises Unscorable when too few frames show one."""
        seen = view.keep("face", lambda: look(self._file, view.blocks()))
        if seen.found.mean() < self.config.min_found:
            raise Unscorable(f"shows a face in {seen.found.sum()} of {len(seen.found)} frames")
        return seen


def look(weights: Path, blocks: Blocks) -> FaceOverTime:
    """The surest face of each frame by itself: MediaPipe's tracking smooths over time, which delays
    lips and lids.
    """
    mediapipe = require("mediapipe", extra="scorers-faces")
    return _look_with(weights, blocks, mediapipe)


def _look_with(weights: Path, blocks: Blocks, mediapipe) -> FaceOverTime:
    """Looks at every frame with MediaPipe's landmarker."""
    vision = require("mediapipe.tasks.python.vision", extra="scorers-faces")
    base = require("mediapipe.tasks.python", extra="scorers-faces").BaseOptions(
        model_asset_path=str(weights)
    )
    options = vision.FaceLandmarkerOptions(
        base_options=base, running_mode=vision.RunningMode.IMAGE, output_face_blendshapes=True
    )
    rows = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for frame in chain.from_iterable(blocks):
            height, width = frame.shape[:2]
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
            )
            rows.append(_row(landmarker.detect(image), width, height))
    return FaceOverTime(*(np.array(column) for column in zip(*rows, strict=True)))


def _row(result: Any, width: int, height: int) -> tuple[bool, float, float, Array]:
    """Whether there is a face in a frame, how far its mouth is open, its blink and its anchors."""
    if not result.face_landmarks:
        return False, math.nan, math.nan, np.full((5, 2), math.nan)
    points = np.array([(point.x * width, point.y * height) for point in result.face_landmarks[0]])
    eyes = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    opening = np.linalg.norm(points[UPPER_LIP] - points[LOWER_LIP]) / max(eyes, 1e-6)
    shapes = {shape.category_name: shape.score for shape in result.face_blendshapes[0]}
    blink = (shapes["eyeBlinkLeft"] + shapes["eyeBlinkRight"]) / 2
    return True, float(opening), float(blink), points[list(EYES_NOSE_MOUTH)]


def loudness_db(sound: Float[np.ndarray, " s"], num_frames: int, fps: float) -> PerFrame:
    """Level of the 16 kHz sound under each frame, in dB of full scale, at least -80."""
    edges = np.minimum(
        np.round(np.arange(num_frames + 1) / fps * SPEECH_HZ).astype(int), len(sound)
    )
    power = np.array(
        [
            np.square(sound[a:b]).mean() if b > a else 0.0
            for a, b in zip(edges, edges[1:], strict=False)
        ]
    )
    return 10 * np.log10(np.maximum(power, 1e-8))


class MouthInSilence(_FaceMetric):
    """Lip motion in silence divided by lip motion in speech: 0 for a mouth that rests in pauses, 1
    for one that ignores the sound.

    Silence is what lies `below_db` under the clip's loudest tenth.
    """

    name = "mouth-in-silence"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"
    needs = frozenset({"frames", "sound", "weights"})

    class Config(FaceConfig):
        """The level that counts as silence."""

        below_db: float = Field(30.0, gt=0)
        min_silence_s: float = Field(0.25, ge=0)

    def read(self, view: View) -> Reading:
        """Unscorable when there is no pause, no speech, or a mouth that never moves."""
        seen = self.seen(view)
        level = loudness_db(view.sound, len(seen.found), view.fps)
        silent = level < np.quantile(level, 0.9) - self.config.below_db
        # Lips close a little after and open a little before the sound.
        silent = silent[:-1] & silent[1:]
        speed = np.abs(np.diff(seen.lip_opening)) * view.fps
        return self._in_silence(speed, silent, view)

    def _in_silence(self, speed: Array, silent: Array, view: View) -> Reading:
        """Speed of the mouth in silence beside that in speech. Raises Unscorable."""
        known = np.isfinite(speed)
        if (silent & known).sum() < self.config.min_silence_s * view.fps:
            raise Unscorable(
                f"has {silent.sum() / view.fps:.2f} s of silence; {self.config.min_silence_s} s are"
                " needed"
            )
        spoken = speed[~silent & known]
        if not len(spoken) or spoken.mean() < 1e-3:
            raise Unscorable("the mouth does not move during speech")
        quiet = float(speed[silent & known].mean())
        return Reading(
            quiet / float(spoken.mean()), {"in_silence": quiet, "in_speech": float(spoken.mean())}
        )


class MouthLoudness(_FaceMetric):
    """Correlation of lip opening with loudness, a coarse measure of lip-sync.

    Sentences read into a fixed camera have 0.4 to 0.7, other real videos about none; a shift of two
    frames hardly lowers it. `best` is the highest within half a second, at `lag` frames (positive:
    the sound is late).
    """

    name = "mouth-loudness"
    unit = "1"
    low = -1.0
    high = 1.0
    better = "higher"
    needs = frozenset({"frames", "sound", "weights"})

    def read(self, view: View) -> Reading:
        """Unscorable when either does not vary."""
        seen = self.seen(view)
        level = np.maximum(loudness_db(view.sound, len(seen.found), view.fps), -60)
        reach = round(view.fps / 2)
        by_lag = {
            lag: correlation(seen.lip_opening, level, lag) for lag in range(-reach, reach + 1)
        }
        if math.isnan(by_lag[0]):
            raise Unscorable("the mouth opening or the loudness is constant")
        best = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)))
        return Reading(by_lag[0], {"best": by_lag[best], "lag": best})


def correlation(lips: PerFrame, level: PerFrame, lag: int) -> float:
    """Pearson's r of lips with the sound `lag` frames later; nan where either stands still or is
    short.
    """
    count = len(lips) - abs(lag)
    a, b = (lips[:count], level[lag:]) if lag >= 0 else (lips[-lag:], level[:count])
    known = np.isfinite(a)
    if known.sum() < 8 or a[known].std() < 1e-4 or b[known].std() < 1e-3:
        return math.nan
    return float(np.corrcoef(a[known], b[known])[0, 1])


class BlinkRate(_FaceMetric):
    """Blinks per minute; people blink 10 to 25 times a minute while talking, which takes more than
    a short clip to measure.

    Higher counts as better, since generated videos lack blinks; far above 25 that is wrong.
    """

    name = "blink-rate"
    unit = "1/min"
    low = 0.0
    high = math.inf
    better = "higher"

    class Config(FaceConfig):
        """When lids count as shut."""

        shut: float = Field(0.5, gt=0, lt=1, description="of the blendshape eyeBlink")
        open: float = Field(0.3, gt=0, lt=1)
        least_s: float = Field(1.0, gt=0, description="shorter clips have no rate")

    def read(self, view: View) -> Reading:
        """A blink is a frame with shut lids after one with open ones."""
        blink = self.seen(view).blink
        seconds = len(blink) / view.fps
        if seconds < self.config.least_s:
            raise Unscorable(
                f"lasts {seconds:.2f} s; a rate of blinks needs {self.config.least_s:g} s"
            )
        count = 0
        shut = True
        for value in blink[np.isfinite(blink)]:
            if shut and value < self.config.open:
                shut = False
            elif not shut and value > self.config.shut:
                count = count + 1
                shut = True
        return Reading(count / seconds * 60, {"blinks": count, "seconds": seconds})


class Identity(_FaceMetric):
    """Cosine similarity of SFace embeddings to the first frame, mean over frames; from 0.363 on it
    is the same person.
    """

    name = "identity"
    unit = "1"
    low = -1.0
    high = 1.0
    better = "higher"

    class Config(FaceConfig):
        """SFace's file, and of how many frames one is looked at."""

        sface: Path | None = None
        every: int = Field(4, ge=1)

    @cached_property
    def _sface(self) -> Path:
        return WEIGHTS["sface"].find(self.config.sface)

    @property
    def weights_sha256(self) -> str:
        """Digests of SFace and of the landmarker."""
        return f"{sha256_of(self._sface)}+{super().weights_sha256}"

    def read(self, view: View) -> Reading:
        """`least` is the frame least like the first."""
        points = self.seen(view).five_points
        cv2 = require("cv2", extra="scorers-faces")
        network = cv2.FaceRecognizerSF.create(str(self._sface), "")
        looked = islice(
            zip(chain.from_iterable(view.blocks()), points, strict=True), 0, None, self.config.every
        )
        faces = [
            _embedded(network, frame, five) for frame, five in looked if np.isfinite(five).all()
        ]
        return _likeness(faces)


def _likeness(faces: list[Array]) -> Reading:
    """Mean cosine of later faces to the first."""
    if len(faces) < 2:
        raise Unscorable(f"shows a face in {len(faces)} of the analysed frames; 2 are needed")
    alike = np.stack(faces[1:]) @ faces[0]
    return Reading(
        float(alike.mean()),
        {
            "least": float(alike.min()),
            "frames": len(faces),
        },
    )


def _embedded(network: Any, frame: Array, points: Array) -> Array:
    """Unit vector of an aligned face; OpenCV wants BGR and a detector's row (box, five points,
    score).
    """
    row = np.concatenate([points.min(0), np.ptp(points, axis=0), points.ravel(), [1.0]]).astype(
        np.float32
    )[None]
    feature = network.feature(network.alignCrop(np.ascontiguousarray(frame[..., ::-1]), row))[0]
    return feature / np.linalg.norm(feature)
