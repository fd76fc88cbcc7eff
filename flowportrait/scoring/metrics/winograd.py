"""Convolutions by windows of 3 x 3 with a quarter of the multiplications (Winograd; Lavin and Gray
2016, F(4x4, 3x3)).

Tiles of 6 x 6 are turned into 36 numbers in which a convolution is a plain product, so that it
becomes 36 products of matrices. Exact in real numbers. With the points used here rounding costs
about twice what it costs a direct sum; the usual points 1 and 2 cost seven times as much.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.tensors import Maps

_TILES_AT_ONCE = 128
"""As many as leave everything in a processor's cache."""


def _of_points(a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of pixels, weights and results that interpolate at 0, a, -a, b, -b and
    infinity.
    """
    points = torch.tensor([0.0, a, -a, b, -b], dtype=torch.float64)
    powers = points[:, None] ** torch.arange(6)
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(5)]
    scales = torch.stack(
        [(point - rest).prod() for point, rest in zip(points, others, strict=True)]
    )
    results = torch.cat([powers[:, :4], torch.tensor([[0.0, 0, 0, 1]])]).T
    weights = torch.cat([powers[:, :3] / scales[:, None], torch.tensor([[0.0, 0, 1]])])
    pixels = torch.zeros(6, 6, dtype=torch.float64)
    for i, rest in enumerate(others):
        pixels[i, :5] = _polynomial(rest)
    pixels[5] = _polynomial(points)
    return pixels, weights, results


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the product of (x - root), lowest first."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found


_PIXELS, _WEIGHTS, _RESULTS = _of_points(0.75, 1.5)
_TILE = torch.kron(_PIXELS, _PIXELS).float()
_WINDOW = torch.kron(_RESULTS, _RESULTS).float()


def turned_weights(weight: Float[Tensor, "k c 3 3"]) -> Float[Tensor, "36 c k"]:
    """Weights as tiles are multiplied with them."""
    points = _WEIGHTS.to(weight.device)
    turned = torch.einsum("ai,bj,kcij->abck", points, points, weight.double())
    return turned.flatten(0, 1).float().contiguous()


def results_of(products: Float[Tensor, "36 n k"]) -> Float[Tensor, "16 n k"]:
    """The 4 x 4 results of every tile."""
    window = _WINDOW.to(products.device)
    return (window @ products.flatten(1)).view(16, products.shape[1], -1)


class TiledPictures:
    """Pictures that are written as results of tiles, and read as tiles for the next convolution, in
    place.

    What lies around the pictures, and between them and the end of the last tiles, is zero.
    """

    def __init__(
        self, batch: int, height: int, width: int, channels: int, device: torch.device | str = "cpu"
    ):
        self.rows = -(-height // 4)
        self.columns = -(-width // 4)
        shape = batch, 4 * self.rows + 2, 4 * self.columns + 2, channels
        self.padded = torch.zeros(shape, device=device)
        self._tile = _TILE.to(device)
        self.pixels = self.padded[:, 1 : height + 1, 1 : width + 1]
        over, down, right, _ = self.padded.stride()
        grid = batch, self.rows, self.columns, channels
        steps = down, right, over, 4 * down, 4 * right, 1
        self._read = self.padded.as_strided((6, 6, *grid), steps)
        self._written = self.padded.as_strided((4, 4, *grid), steps, down + right)
        self._below = self.padded[:, height + 1 :]
        self._beside = self.padded[:, :, width + 1 :]

    def turned(self, rows: slice) -> Float[Tensor, "36 n c"]:
        """Some rows of tiles, ready to be multiplied with weights."""
        return (self._tile @ self._read[:, :, :, rows].reshape(36, -1)).view(
            36, -1, self.padded.shape[-1]
        )

    def write(
        self, rows: slice, results: Float[Tensor, "16 n c"], channels: slice = slice(None)
    ) -> None:
        """Results of some rows of tiles."""
        place = self._written[:, :, :, rows, :, channels]
        place.copy_(results.view(place.shape))

    def clear_ends(self) -> None:
        """Zero again what the last tiles wrote beyond the pictures."""
        self._below.zero_()
        self._beside.zero_()

    def results(self, rows: slice) -> Float[Tensor, "16 n c"]:
        """The pictures themselves as results of some rows of tiles."""
        return self._written[:, :, :, rows].reshape(16, -1, self.padded.shape[-1])

    def chunks(self) -> list[slice]:
        """Rows of tiles that are worked on at a time."""
        step = max(1, _TILES_AT_ONCE // (self.columns * len(self.padded)))
        return [slice(start, min(start + step, self.rows)) for start in range(0, self.rows, step)]


class Convolution3x3:
    """A convolution of stride 1 that keeps height and width; pixels have their channels side by
    side.
    """

    def __init__(self, weight: Float[Tensor, "k c 3 3"], bias: Float[Tensor, " k"] | None = None):
        self.bias = bias
        self.weight = turned_weights(weight)

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Convolution3x3:
        """A layer's."""
        return cls(layer.weight.detach(), layer.bias)

    def __call__(self, x: Maps) -> Float[Tensor, "b k h w"]:
        height, width = x.shape[-2:]
        down = -height % 4
        right = -width % 4
        if len(x) > 1 and len(x) * (width + right) // 4 > _TILES_AT_ONCE:
            return torch.cat([self(one) for one in x.split(1)])
        pixels = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + right, 1, 1 + down))
        rows = (height + down) // 4
        columns = (width + right) // 4
        step = max(1, _TILES_AT_ONCE // (columns * len(x)))
        parts = [
            self._rows(pixels[:, 4 * i : 4 * min(i + step, rows) + 2], columns)
            for i in range(0, rows, step)
        ]
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        found = found[:, :height, :width]
        return (found if self.bias is None else found.add_(self.bias)).permute(0, 3, 1, 2)

    def _rows(self, pixels: Tensor, columns: int) -> Tensor:
        """Of some rows of tiles, [b, 4 rows + 2, 4 columns + 2, c]."""
        batch, height, _, channels = pixels.shape
        rows, (over, down, right, _) = (height - 2) // 4, pixels.stride()
        shape = 6, 6, batch, rows, columns, channels
        tiles = pixels.as_strided(
            shape, (down, right, over, 4 * down, 4 * right, 1), pixels.storage_offset()
        )
        tile = _TILE.to(pixels.device)
        window = _WINDOW.to(pixels.device)
        turned = (tile @ tiles.reshape(36, -1)).view(36, -1, channels)
        products = torch.bmm(turned, self.weight)
        back = (window @ products.flatten(1)).view(4, 4, batch, rows, columns, -1)
        return back.permute(2, 3, 0, 4, 1, 5).reshape(
            batch,
            4 * rows,
            4 * columns,
            -1,
        )
