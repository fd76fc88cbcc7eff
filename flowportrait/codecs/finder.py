"""Where the 68 points and the irises are in framed pictures, as the face mesh sees them."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from flowportrait.codecs.eyes import EYES
from flowportrait.faces.facemesh import PRESENT, FaceMesh
from flowportrait.faces.framing import Square, face_in_square
from flowportrait.tensors import Crops

LOST = 0.1
"""Share of frames without a sure face from which a clip's mesh is not trusted."""


class Sight(NamedTuple):
    """Observations of a face in n frames, in coordinates of the square: 68 points [n, 68, 2] and
    the centres of the right and the left iris [n, 2, 2].
    """

    points: Tensor
    irises: Tensor

    def gaze_since(self, portrait: Sight) -> Float[Tensor, "n 2"]:
        """How far the irises are from where the portrait (n = 1) has them, in half widths of the
        eye: x along it to the right and y down, the mean of both eyes.
        """
        return self._iris_places() - portrait._iris_places()

    def _iris_places(self) -> Float[Tensor, "n 2"]:
        """Where the irises stand between the corners of their eyes, the mean of both; in
        half-widths of an eye.
        """
        places = []
        for eye, iris in zip(EYES, self.irises.unbind(1), strict=True):
            start = self.points[:, eye.start]
            stop = self.points[:, eye.start + 3]
            along = (stop - start) / 2
            offset = (iris - (start + stop) / 2) / along.norm(dim=-1, keepdim=True).square()
            across = torch.stack([-along[:, 1], along[:, 0]], -1)
            places.append(torch.stack([(offset * along).sum(-1), (offset * across).sum(-1)], -1))
        return (places[0] + places[1]) / 2


def mesh_sight(frames: Crops) -> Sight | None:
    """Observations of the face mesh in successive frames in [-1, 1]; None where the first frame or
    over a tenth of all shows no face that it is sure of. Other frames without one have what was
    seen in the frame before.
    """
    pixels = (frames.float() + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    pictures = rearrange(pixels, "f c h w -> f h w c").cpu().numpy()
    side = pictures.shape[1]
    meshes = _face_mesh().follow(pictures, face_in_square(Square(0, 0, side)))
    sure = np.array([mesh.presence >= PRESENT for mesh in meshes])
    if not sure[0] or (~sure).mean() > LOST:
        return None
    last = np.maximum.accumulate(np.where(sure, np.arange(len(sure)), 0))
    seen = [meshes[index] for index in last]

    def in_square(points: list[np.ndarray]) -> Tensor:
        places = (np.stack(points) + 0.5) * 2 / side - 1  # pixel centres lie at whole numbers
        return torch.from_numpy(places.astype(np.float32)).to(frames.device)

    points = [mesh.landmarks68 for mesh in seen]
    irises = [mesh.irises for mesh in seen]
    return Sight(in_square(points), in_square(irises))


@cache
def _face_mesh() -> FaceMesh:
    return FaceMesh()
