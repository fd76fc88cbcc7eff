"""MediaPipe's face mesh: 478 points of a face, irises included, in torch alone.

Weights: `face_landmarks_detector.tflite` of Google's Face Landmarker bundle (Apache-2.0), float16
as published; `bench/convert_face_mesh.py` makes the file. The network sees a square of 256 px in
which the eyes are level, and gives points in pixels of that square. As MediaPipe does when it
tracks, the square is laid around the points of the look before, here of the same picture, until it
rests.
"""

import math
from dataclasses import replace
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flowportrait.arrays import Frames, Picture
from flowportrait.faces.centerface import Pointwise
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.mesh import NUM_POINTS, Mesh, turn
from flowportrait.faces.shipped import read_shipped
from flowportrait.registry import MODELS_DIR
from flowportrait.tensors import Maps, PerClip

WEIGHTS = MODELS_DIR / "face-mesh" / "model.safetensors"
WEIGHTS_SHA256 = "9d589c7643576c87bd0a3631d72138e4469ea13e8dc1b5b4fa012ec62a8489af"

SIDE_PX = 256
_STAGES = (16, 32, 64, 128, 128, 128, 128)
"""Channels of the stages, whose grids are 128, 64, 32, 16, 8, 4 and 2 cells wide."""
_BLOCKS = 4
_MAX_LOOKS = 5
_AT_REST = 0.0025
_RESTLESS = 0.02
"""Largest movement of a point between two looks, in sides of the square: at most the first ends the
looks, more than the second discredits them."""
_CERTAIN = 1 - 1e-5
"""Presence of a mesh that is not doubted: upright faces give more, most faces upside down less."""
PRESENT = 0.5
"""Presence from which on a mesh is that of a face."""
_TURNS = 12
_TRIED = 3
"""Turns around the circle for a doubtful mesh, and how many are looked at more than once."""
_SCALE = 1.5
"""Side of the square over the longer side of the box of face or points."""


class Narrowed(nn.Module):
    """Keeps its grid: half the channels, filter each, widen again; added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.narrow = nn.Sequential(Pointwise(channels, half), nn.PReLU(half))
        self.filter = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.widen = Pointwise(half, channels)
        self.activation = nn.PReLU(channels)

    @no_type_check  # as in `Pointwise`
    def forward(self, x: Maps) -> Maps:
        return self.activation(x + self.widen(self.filter(self.narrow(x))))


class Halved(nn.Module):
    """Halves its grid; the path around it takes maxima and fills new channels with zeros."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        half = channels // 2
        self.narrow = nn.Sequential(nn.Conv2d(channels_in, half, 2, stride=2), nn.PReLU(half))
        self.filter = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.widen = Pointwise(half, channels)
        self.activation = nn.PReLU(channels)
        self.new_channels = channels - channels_in

    @no_type_check  # as in `Pointwise`
    def forward(self, x: Maps) -> Float[Tensor, "b d h//2 w//2"]:
        past = functional.pad(functional.max_pool2d(x, 2), (0, 0, 0, 0, 0, self.new_channels))
        return self.activation(past + self.widen(self.filter(self.narrow(x))))


class FaceMeshNetwork(nn.Module):
    """The network. Input RGB in 0..1, 256 x 256 px.

    | part     | grid          | what                                                        |
    |----------|---------------|-------------------------------------------------------------|
    | stem     | 128           | convolution 3 x 3, stride 2, 16 channels, PReLU             |
    | stage 0  | 128           | 4 blocks `Narrowed`, 16 channels                            |
    | stage 1- | 64, 32, ... 2 | `Halved`, 4 `Narrowed`: 32, 64, 128, 128, 128, 128 channels |
    | heads    | 1             | convolutions 2 x 2: 478 points (x, y, z), presence          |
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, _STAGES[0], 3, stride=2), nn.PReLU(_STAGES[0]))
        self.stages = nn.ModuleList()
        before = None
        for channels in _STAGES:
            first = [] if before is None else [Halved(before, channels)]
            self.stages.append(nn.Sequential(*first, *(Narrowed(channels) for _ in range(_BLOCKS))))
            before = channels
        self.presence = nn.Conv2d(before, 1, 2)
        self.points = nn.Conv2d(before, 3 * NUM_POINTS, 2)

    def forward(
        self, image: Float[Tensor, "b 3 256 256"]
    ) -> tuple[Float[Tensor, "b 478 3"], PerClip]:
        """Points (x, y, z) in px of the input, z away from the viewer; presence in [0, 1].

        Presence is float64, because meshes are ranked by it and float32 ends at 1 - 6e-8.
        """
        x = self.stem(functional.pad(image, (0, 1, 0, 1)))
        for stage in self.stages:
            x = stage(x)
        points = rearrange(self.points(x), "b (n d) 1 1 -> b n d", d=3)
        return points, torch.sigmoid(self.presence(x).double()).flatten()


class Region(NamedTuple):
    """The square that the network sees: centre and side in px of the picture, turn in radians."""

    x: float
    y: float
    side: float
    roll: float


class FaceMesh:
    """Finds the mesh of a face whose box is known, whichever way up the head is."""

    def __init__(self):
        self.network = FaceMeshNetwork().eval().to(memory_format=torch.channels_last)
        weights = read_shipped(WEIGHTS, WEIGHTS_SHA256, owner="face mesh")
        self.network.load_state_dict({name: value.float() for name, value in weights.items()})

    def find(self, image: Picture, face: FaceBox) -> Mesh:
        """The mesh of the face in the box; where there is none, a mesh whose `presence` is low.

        The head is first taken to be upright. Turns around the circle are tried only when the mesh
        that is found so is doubtful, which takes about seven times as long.
        """
        upright = region_of(face)
        mesh, doubtful = self._settle(image, upright)
        if not doubtful:
            return mesh
        turned = [upright._replace(roll=turn * math.tau / _TURNS) for turn in range(_TURNS)]
        looks = sorted(self._look(image, turned), key=lambda look: look.presence, reverse=True)
        settled = [self._settle(image, region_around(look)) for look in looks[:_TRIED]]
        certain = [mesh for mesh, doubtful in settled if not doubtful]
        return max(certain or [mesh, *(one for one, _ in settled)], key=lambda one: one.presence)

    def follow(self, frames: Frames, face: FaceBox) -> list[Mesh]:
        """The meshes of a face in successive frames; it is in the box in the first. Each frame is
        looked at once, in the square around the points of the one before, and searched only where
        no face is seen there.
        """
        meshes = [self.find(frames[0], face)]
        for frame in frames[1:]:
            [mesh] = self._look(frame, [region_around(meshes[-1])])
            meshes.append(mesh if mesh.presence >= PRESENT else self.find(frame, face))
        return meshes

    def _settle(self, image: Picture, region: Region) -> tuple[Mesh, bool]:
        """The mesh at which looking again changes nothing, and whether it is doubtful.

        Its presence is the lowest that was seen after the first look, whose region was a guess:
        what is no face may look like one once, hardly each time.
        """
        [mesh], lowest = self._look(image, [region]), 1.0
        for _ in range(_MAX_LOOKS - 1):
            region = region_around(mesh)
            before, [mesh] = mesh, self._look(image, [region])
            lowest = min(lowest, mesh.presence)
            moved = float(np.abs(mesh.points - before.points).max()) / region.side
            if moved < _AT_REST:
                break
        return replace(mesh, presence=lowest), moved > _RESTLESS or lowest < _CERTAIN

    @torch.inference_mode()
    def _look(self, image: Picture, regions: list[Region]) -> list[Mesh]:
        """One evaluation of the network for each of the regions, all at once."""
        squares = torch.stack([_cut(image, region) for region in regions])
        points, presence = self.network(squares.contiguous(memory_format=torch.channels_last))
        found = zip(regions, points.numpy(), presence.tolist(), strict=True)
        return [_placed(*one) for one in found]


def region_of(face: FaceBox) -> Region:
    """The upright square around a face's box."""
    side = _SCALE * max(face.x1 - face.x0, face.y1 - face.y0)
    return Region(
        (face.x0 + face.x1) / 2,
        (face.y0 + face.y1) / 2,
        side,
        0.0,
    )


def region_around(mesh: Mesh) -> Region:
    """The square around a mesh in which its eyes are level, from the box of its points in it."""
    level = mesh.points @ turn(mesh.roll)
    low = level.min(0)
    high = level.max(0)
    x, y = (low + high) / 2 @ turn(-mesh.roll)
    return Region(
        float(x),
        float(y),
        max(1.0, _SCALE * float((high - low).max())),
        mesh.roll,
    )


def _cut(image: Picture, region: Region) -> Float[Tensor, "3 256 256"]:
    """The region's pixels in 0..1, the first at its corner; beyond the picture its edge goes on.

    Bilinear without averaging, as MediaPipe reads its pictures.
    """
    step = region.side / SIDE_PX
    offset = torch.arange(SIDE_PX, dtype=torch.float32) * step - region.side / 2
    cosine = math.cos(region.roll)
    sine = math.sin(region.roll)
    x = region.x + offset[None, :] * cosine - offset[:, None] * sine
    y = region.y + offset[None, :] * sine + offset[:, None] * cosine
    x0, x1 = _span(x, image.shape[1])
    y0, y1 = _span(y, image.shape[0])
    near = np.ascontiguousarray(image[y0:y1, x0:x1], dtype=np.float32)
    pixels = rearrange(torch.from_numpy(near), "h w c -> 1 c h w")
    columns = (2 * (x - x0) + 1) / (x1 - x0) - 1
    rows = (2 * (y - y0) + 1) / (y1 - y0) - 1
    grid = torch.stack((columns, rows), dim=-1)[None]
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)[0] / 255


def _span(places: Tensor, length: int) -> tuple[int, int]:
    """The pixels [start, end) of a picture's side that are needed around `places`, at least one."""
    start = min(max(math.floor(float(places.min())), 0), length - 1)
    return start, min(max(math.floor(float(places.max())) + 2, start + 1), length)


def _placed(region: Region, points: Float[np.ndarray, "478 3"], presence: float) -> Mesh:
    """The network's points of a region as a mesh in pixels of the picture."""
    scale = region.side / SIDE_PX
    flat = (points[:, :2] * scale - region.side / 2) @ turn(-region.roll)
    return Mesh(
        flat + np.float32((region.x, region.y)),
        points[:, 2] * scale,
        presence,
    )
