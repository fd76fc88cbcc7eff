"""SSIM and PSNR against the truth, and what pictures say by themselves: sharpness, drift of colour.

The first frame of a talking head is the portrait that was given, nearly the truth by construction;
comparisons leave it out unless told otherwise.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flowportrait.arrays import Array, Frames, PerFrame
from flowportrait.config import Frozen
from flowportrait.scoring.metrics.metric import FrameMetric, Reading
from flowportrait.scoring.metrics.view import Unscorable

FramesOfChannels = UInt8[np.ndarray, "f h w c"]

GREY = (9798, 19235, 3735)  # ITU-R BT.601, in parts of 2**15 as OpenCV has them


class PairConfig(Frozen):
    """Settings that comparisons with the truth share."""

    skip_first: bool = True


def ssim(
    made: FramesOfChannels,
    truth: FramesOfChannels,
    window: Literal["uniform", "gaussian"],
) -> PerFrame:
    """Structural similarity of each frame, mean over channels and places (Wang et al. 2004), levels
    0 to 255.

    `uniform`: 7 x 7 windows with the sample covariance, scikit-image's default; `gaussian`: sigma
    1.5 over 11 x 11 with the population covariance, the paper's. Windows that would leave the
    picture do not count. ValueError for pictures smaller than a window.
    """
    size = 7 if window == "uniform" else 11
    if min(made.shape[1:3]) < size:
        raise ValueError(
            f"ssim: got {made.shape[2]}x{made.shape[1]} px; a window has {size}x{size}"
        )
    moments = _uniform_moments if window == "uniform" else _gaussian_moments
    return np.array([_ssim_of(*moments(a, b)) for a, b in zip(made, truth, strict=True)])


def _ssim_of(means: Array, mean_squares: Array, covariance: Array, variances: Array) -> float:
    """`means` the product of both means, `mean_squares` the sum of their squares, `variances` the
    sum of both.
    """
    c1 = (0.01 * 255) ** 2
    c2 = (0.03 * 255) ** 2
    similar = (2 * means + c1) * (2 * covariance + c2) / ((mean_squares + c1) * (variances + c2))
    return float(similar.mean(dtype=np.float64))


def _uniform_moments(a: Array, b: Array) -> tuple[Array, ...]:
    """In whole numbers until the last division: sums over 49 levels and their squares fit 32 bits,
    so all are exact.
    """
    x = np.ascontiguousarray(a.transpose(2, 0, 1), dtype=np.int32)
    y = np.ascontiguousarray(b.transpose(2, 0, 1), dtype=np.int32)
    sum_x = _box_sums(x)
    sum_y = _box_sums(y)
    squares = _box_sums(x * x + y * y)
    products = _box_sums(x * y)
    means = sum_x * sum_y
    mean_squares = sum_x * sum_x + sum_y * sum_y
    count = 49
    covariance = count * products - means
    variances = count * squares - mean_squares
    unbiased = count * (count - 1)
    return means / count**2, mean_squares / count**2, covariance / unbiased, variances / unbiased


def _box_sums(x: Array) -> Array:
    """Sums over all windows of 7 x 7 inside [c, h, w]."""
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 7, axis)
        total = windows[..., 0].copy()
        for i in range(1, 7):
            total += windows[..., i]
        x = total
    return x


def _gaussian_moments(a: Array, b: Array) -> tuple[Array, ...]:
    """Means, variances and covariance under a Gaussian window."""
    # In double: in single precision flat and dark pictures, whose variances are small, are up to
    # 1.6e-5 off.
    x = a.transpose(2, 0, 1).astype(np.float64) - 128
    y = b.transpose(2, 0, 1).astype(np.float64) - 128
    mean_x = _gaussian_means(x)
    mean_y = _gaussian_means(y)
    squares = _gaussian_means(x * x + y * y)
    products = _gaussian_means(x * y)
    covariance = products - mean_x * mean_y
    variances = squares - (mean_x * mean_x + mean_y * mean_y)
    mean_x = mean_x + 128
    mean_y = mean_y + 128
    return mean_x * mean_y, mean_x * mean_x + mean_y * mean_y, covariance, variances


def _gaussian_means(x: Array) -> Array:
    """Means under all windows of 11 x 11 inside [c, h, w], sigma 1.5."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = weights / weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 11, axis)
        total = windows[..., 5] * weights[5]
        for i in range(5):
            total += (windows[..., i] + windows[..., 10 - i]) * weights[i]
        x = total
    return x


def squared_error(made: FramesOfChannels, truth: FramesOfChannels) -> PerFrame:
    """Mean squared difference of each frame, in levels squared."""
    differences = (np.subtract(a, b, dtype=np.int16) for a, b in zip(made, truth, strict=True))
    return np.array([np.square(difference, dtype=np.int32).mean() for difference in differences])


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB for levels 0 to 255; infinite for 0."""
    if mean_squared_error:
        return 10 * math.log10(255**2 / mean_squared_error)
    return math.inf


def grey(frames: Frames) -> UInt8[np.ndarray, "f h w 1"]:
    """Luma, rounded to 8 bits to the level as OpenCV's `cvtColor` does; other libraries differ in
    0.1 % of pixels.
    """
    return ((frames @ np.array(GREY, np.int32) + 2**14) >> 15).astype(np.uint8)[..., None]


class Ssim(FrameMetric):
    """Structural similarity to the truth, mean over frames."""

    name = "ssim"
    unit = "1"
    low = -1.0
    high = 1.0
    better = "higher"
    needs = frozenset({"frames", "truth"})
    version = 2

    class Config(PairConfig):
        """`uniform` is scikit-image's default, `gaussian` Wang's."""

        window: Literal["uniform", "gaussian"] = "uniform"
        grey: bool = False

    def __init__(self, config: Any = None):
        super().__init__(config)
        if self.config.window == "gaussian":
            self.version = 3  # in double since then; the uniform window was exact before

    def values(self, made: Array, truth: Array) -> Array:
        if min(made.shape[1:3]) < 11:
            raise Unscorable(f"is {made.shape[2]}x{made.shape[1]} px; ssim needs 11x11")
        if self.config.grey:
            made = grey(made)
            truth = grey(truth)
        return ssim(made, truth, self.config.window)

    def conclude(self, values: Array) -> Reading:
        return Reading(float(values.mean()), {"frames": len(values)})


class Psnr(FrameMetric):
    """Peak signal-to-noise ratio against the truth."""

    name = "psnr"
    unit = "dB"
    low = 0.0
    high = math.inf
    better = "higher"
    needs = frozenset({"frames", "truth"})

    class Config(PairConfig):
        """`frames`: the mean of the frames' own, those without any error left out; `mse`: that of
        the mean error.
        """

        aggregate: Literal["frames", "mse"] = "frames"

    def values(self, made: Array, truth: Array) -> Array:
        return squared_error(made, truth)

    def conclude(self, errors: Array) -> Reading:
        differing = errors[errors > 0]
        if not len(differing):
            raise Unscorable("is identical to its truth, so the PSNR is infinite")
        whole = psnr_db(float(errors.mean()))
        if self.config.aggregate == "mse":
            value = whole
        else:
            value = float(np.mean([psnr_db(e) for e in differing]))
        return Reading(
            value,
            {
                "frames": len(errors),
                "identical": len(errors) - len(differing),
                "of_mean_mse": whole,
            },
        )


def sized(frames: Frames, height: int, width: int) -> UInt8[np.ndarray, "f height width 3"]:
    """Frames of another size, by bicubic interpolation with antialiasing."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack(
        [
            np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC))
            for f in frames
        ]
    )


def sharpness(frames: Frames) -> PerFrame:
    """Variance of each frame's Laplacian, in levels squared; falls with blur, rises with grain."""
    return np.array([_sharpness(frame) for frame in frames])


def _sharpness(frame: Array) -> float:
    """Variance of the Laplacian."""
    light = frame.mean(axis=-1, dtype=np.float32)
    centre = light[1:-1, 1:-1]
    around = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    return float((around - 4 * centre).var())


def mean_colours(frames: Frames) -> Float[np.ndarray, "f 3"]:
    """The mean colour of each frame, in levels."""
    return np.array([frame.mean((0, 1)) for frame in frames])


class Sharpness(FrameMetric):
    """Variance of the Laplacian; `to_first` is its ratio to the first frame, which models copy."""

    name = "sharpness"
    unit = "levels^2"
    low = 0.0
    high = math.inf
    better = "higher"

    def values(self, made: Array) -> Array:
        return sharpness(made)

    def conclude(self, values: Array) -> Reading:
        value = float(values.mean())
        first = float(values[0])
        return Reading(
            value, {"to_first": value / first if first else math.nan, "frames": len(values)}
        )


class ColourDrift(FrameMetric):
    """Change of the mean colour from the first to the last quarter of a clip."""

    name = "colour-drift"
    unit = "levels"
    low = 0.0
    high = 255 * math.sqrt(3)
    better = "lower"
    version = 2

    def values(self, made: Array) -> Array:
        return mean_colours(made)

    def conclude(self, values: Array) -> Reading:
        count = max(1, len(values) // 4)
        drift = values[-count:].mean(0) - values[:count].mean(0)
        return Reading(float(np.linalg.norm(drift)), {"frames": len(values)})
