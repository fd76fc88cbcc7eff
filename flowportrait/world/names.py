"""The names every part of the world shares: face shapes, visemes, parts of a mesh."""

ARKIT = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft",
    "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight",
    "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower",
    "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 face shapes of ARKit, in the order of the ground truth."""

SHAPE = {name: index for index, name in enumerate(ARKIT)}
"""Index of each face shape."""

VISEMES = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "I", "O", "U")
"""The 15 visemes, in the order of the ground truth."""

VISEME = {name: index for index, name in enumerate(VISEMES)}
"""Index of each viseme."""

SKIN, SOCKET, GUM, TEETH, EYE_LEFT, EYE_RIGHT, MOUTH, TONGUE = range(8)
"""Parts of a mesh; MOUTH is the inner lining, LEFT the side of the person's left hand (positive
x).
"""

NUM_PARTS = 8


def weights(**shapes: float) -> dict[int, float]:
    """A face as {index: weight}; a name without side, such as mouthSmile, stands for both sides."""
    face: dict[int, float] = {}
    for name, value in shapes.items():
        sides = (name,) if name in SHAPE else (f"{name}Left", f"{name}Right")
        face.update({SHAPE[side]: value for side in sides})
    return face
