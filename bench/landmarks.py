"""The independent landmarker that the bench measures with: MediaPipe FaceLandmarker, mapped to 68
points.

It is no part of the product and no loss is computed from it, so a model cannot learn to please it.
The .task file (3.8 MB, Apache-2.0) is Google's `face_landmarker` with blendshapes; its path is an
argument.
"""

from dataclasses import dataclass
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from flowportrait.faces.mesh import landmarks68

ARKIT_NAMES = (
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "noseSneerLeft",
    "noseSneerRight",
    "tongueOut",
)
"""ARKit's 52 face units, alphabetical."""

RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)
OUTER_LIPS = slice(48, 60)
INNER_UPPER_LIP = (61, 62, 63)
INNER_LOWER_LIP = (67, 66, 65)


@dataclass(frozen=True)
class FaceTrack:
    """What the landmarker saw in each of n frames; rows without a face hold nan and `valid`
    False.
    """

    landmarks68: np.ndarray  # float32 [n, 68, 2], px of the frames given
    arkit: np.ndarray  # float32 [n, 52] in [0, 1], columns as in ARKIT_NAMES
    valid: np.ndarray  # bool [n]


class FaceLandmarker:
    """MediaPipe's landmarker in image mode.

    Video mode smooths landmarks over time, which delays them. Lags are measured here, so frames
    stand alone.
    """

    def __init__(self, model: Path):
        if not model.is_file():
            raise FileNotFoundError(
                f"{model}: no such file; give the path of MediaPipe's face_landmarker.task with"
                " --landmarker"
            )
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=1,
            output_face_blendshapes=True,
        )
        self._landmarker = vision.FaceLandmarker.create_from_options(options)

    def track(self, frames: np.ndarray) -> FaceTrack:
        """Landmarks of `frames` uint8 [n, h, w, 3] RGB.

        Small frames need no enlarging: the landmarker scales the face to its own 256 px anyway.
        """
        num, height, width = frames.shape[:3]
        landmarks = np.full((num, 68, 2), np.nan, np.float32)
        arkit = np.full((num, len(ARKIT_NAMES)), np.nan, np.float32)
        for i, frame in enumerate(frames):
            result = self._detect(frame)
            if not result.face_landmarks:
                continue
            mesh = np.array([(p.x, p.y) for p in result.face_landmarks[0]], np.float32)
            landmarks[i] = landmarks68(mesh) * (width, height)
            scores = {
                category.category_name: category.score for category in result.face_blendshapes[0]
            }
            arkit[i] = [
                scores.get(name, 0.0) for name in ARKIT_NAMES
            ]  # MediaPipe knows no tongueOut
        return FaceTrack(landmarks, arkit, ~np.isnan(landmarks[:, 0, 0]))

    def _detect(self, frame: np.ndarray):
        image = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
        )
        return self._landmarker.detect(image)


def eye_distance(landmarks68: np.ndarray) -> np.ndarray:
    """Distance of the eye centres [n], in the unit of `landmarks68` [n, 68, 2]."""
    right = landmarks68[:, RIGHT_EYE].mean(1)
    left = landmarks68[:, LEFT_EYE].mean(1)
    return np.linalg.norm(left - right, axis=-1)


def lip_opening(landmarks68: np.ndarray) -> np.ndarray:
    """Inner-lip opening [n] of `landmarks68` [n, 68, 2], in eye distances; nan where there is no
    face.

    The eye distance is the clip's median: blinks and small turns must not look like speech.
    """
    landmarks68 = landmarks68.astype(np.float32)
    gap = landmarks68[:, INNER_LOWER_LIP] - landmarks68[:, INNER_UPPER_LIP]
    return np.linalg.norm(gap, axis=-1).mean(1) / np.nanmedian(eye_distance(landmarks68))


def mouth_width(landmarks68: np.ndarray) -> np.ndarray:
    """Distance of the mouth's corners [n] of `landmarks68` [n, 68, 2], in eye distances as
    `lip_opening`.
    """
    landmarks68 = landmarks68.astype(np.float32)
    span = np.linalg.norm(landmarks68[:, 54] - landmarks68[:, 48], axis=-1)
    return span / np.nanmedian(eye_distance(landmarks68))
