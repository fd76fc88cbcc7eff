"""SSIM and PSNR against the truth, and what pictures say by themselves: sharpness, drift of colour.

The first frame of a talking head is the portrait that was given, nearly the truth by construction; comparisons leave
it out unless told otherwise.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flowportrait.config import Frozen
from flowportrait.scoring.metric import Metric, Reading, Unscorable, View

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


class PairConfig(Frozen):
    """What comparisons with the truth share."""

    skip_first: bool = True


def compared(view: View, config: PairConfig) -> tuple[np.ndarray, np.ndarray]:
    """The frames to compare. Raises Unscorable when none is left."""
    made, truth = (frames[int(config.skip_first) :] for frames in view.pairs)
    if not len(made):
        raise Unscorable("no frame is left behind the first")
    return made, truth


def ssim(
    made: UInt8[np.ndarray, "f h w c"], truth: UInt8[np.ndarray, "f h w c"], window: Literal["uniform", "gaussian"]
) -> Float[np.ndarray, " f"]:
    """Structural similarity of each frame, mean over channels and places (Wang et al. 2004), levels 0 to 255.

    `uniform`: 7 x 7 windows with the sample covariance, scikit-image's default; `gaussian`: sigma 1.5 over 11 x 11 with
    the population covariance, the paper's. Windows that would leave the picture do not count. ValueError for pictures
    smaller than a window.
    """
    size = 7 if window == "uniform" else 11
    if min(made.shape[1:3]) < size:
        raise ValueError(f"ssim: got {made.shape[2]}x{made.shape[1]} px; a window has {size}x{size}")
    moments = _uniform_moments if window == "uniform" else _gaussian_moments
    return np.array([_ssim_of(*moments(a, b)) for a, b in zip(made, truth, strict=True)])


def _ssim_of(means: np.ndarray, mean_squares: np.ndarray, covariance: np.ndarray, variances: np.ndarray) -> float:
    """`means` the product of both means, `mean_squares` the sum of their squares, `variances` the sum of both."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * means + c1) * (2 * covariance + c2) / ((mean_squares + c1) * (variances + c2))
    return float(similar.mean(dtype=np.float64))


def _uniform_moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """In whole numbers until the last division: sums over 49 levels and their squares fit 32 bits, so all are exact."""
    x, y = (np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.int32) for frame in (a, b))
    sum_x, sum_y, squares, products = (_box_sums(part) for part in (x, y, x * x + y * y, x * y))
    means, mean_squares = sum_x * sum_y, sum_x * sum_x + sum_y * sum_y
    count = 49
    covariance, variances = (count * products - means), (count * squares - mean_squares)
    unbiased = count * (count - 1)
    return means / count**2, mean_squares / count**2, covariance / unbiased, variances / unbiased


def _box_sums(x: np.ndarray) -> np.ndarray:
    """Sums over all windows of 7 x 7 inside [c, h, w]."""
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 7, axis)
        total = windows[..., 0].copy()
        for i in range(1, 7):
            total += windows[..., i]
        x = total
    return x


def _gaussian_moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    # Variances do not feel a shift, and squares around the middle keep float32 exact enough.
    x, y = (frame.transpose(2, 0, 1).astype(np.float32) - 128 for frame in (a, b))
    mean_x, mean_y, squares, products = (_gaussian_means(part) for part in (x, y, x * x + y * y, x * y))
    covariance = products - mean_x * mean_y
    variances = squares - (mean_x * mean_x + mean_y * mean_y)
    mean_x, mean_y = mean_x + 128, mean_y + 128
    return mean_x * mean_y, mean_x * mean_x + mean_y * mean_y, covariance, variances


def _gaussian_means(x: np.ndarray) -> np.ndarray:
    """Means under all windows of 11 x 11 inside [c, h, w], sigma 1.5."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 11, axis)
        total = windows[..., 5] * weights[5]
        for i in range(5):
            total += (windows[..., i] + windows[..., 10 - i]) * weights[i]
        x = total
    return x


def squared_error(made: UInt8[np.ndarray, "f h w c"], truth: UInt8[np.ndarray, "f h w c"]) -> Float[np.ndarray, " f"]:
    """Mean squared difference of each frame, in levels squared."""
    differences = (np.subtract(a, b, dtype=np.int16) for a, b in zip(made, truth, strict=True))
    return np.array([np.square(difference, dtype=np.int32).mean() for difference in differences])


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB for levels 0 to 255; infinite for 0."""
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


def grey(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f h w 1"]:
    """Luma, rounded to 8 bits as image libraries do."""
    return np.rint(frames @ np.array(GREY)).astype(np.uint8)[..., None]


class Ssim(Metric):
    """Structural similarity to the truth, mean over frames."""

    name, unit, low, high, better = "ssim", "1", -1.0, 1.0, "higher"
    needs = frozenset({"frames", "truth"})

    class Config(PairConfig):
        """`uniform` is scikit-image's default, `gaussian` Wang's."""

        window: Literal["uniform", "gaussian"] = "uniform"
        grey: bool = False

    def read(self, view: View) -> Reading:
        made, truth = compared(view, self.config)
        if min(made.shape[1:3]) < 11:
            raise Unscorable(f"is {made.shape[2]}x{made.shape[1]} px; ssim needs 11x11")
        if self.config.grey:
            made, truth = grey(made), grey(truth)
        return Reading(float(ssim(made, truth, self.config.window).mean()), {"frames": len(made)})


class Psnr(Metric):
    """Peak signal-to-noise ratio against the truth."""

    name, unit, low, high, better = "psnr", "dB", 0.0, math.inf, "higher"
    needs = frozenset({"frames", "truth"})

    class Config(PairConfig):
        """`frames`: the mean of the frames' own, those without any error left out; `mse`: that of the mean error."""

        aggregate: Literal["frames", "mse"] = "frames"

    def read(self, view: View) -> Reading:
        made, truth = compared(view, self.config)
        errors = squared_error(made, truth)
        differing = errors[errors > 0]
        if not len(differing):
            raise Unscorable("every frame is the truth's own: its PSNR is infinite")
        whole = psnr_db(float(errors.mean()))
        value = whole if self.config.aggregate == "mse" else float(np.mean([psnr_db(e) for e in differing]))
        return Reading(value, {"frames": len(made), "identical": len(errors) - len(differing), "of_mean_mse": whole})


def sized(frames: UInt8[np.ndarray, "f h w 3"], height: int, width: int) -> UInt8[np.ndarray, "f height width 3"]:
    """Frames of another size, by bicubic interpolation with antialiasing."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])


def sharpness(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Variance of the Laplacian, mean over frames, in levels squared; falls with blur, rises with grain."""
    light = frames.mean(axis=-1, dtype=np.float32)
    centre = light[:, 1:-1, 1:-1]
    around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    return float((around - 4 * centre).var(axis=(1, 2)).mean())


def colour_drift(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Distance of the mean colours of the first and of the last quarter, in levels."""
    count = max(1, len(frames) // 4)
    first, last = (part.astype(np.float32).mean((0, 1, 2)) for part in (frames[:count], frames[-count:]))
    return float(np.linalg.norm(last - first))


class Sharpness(Metric):
    """Variance of the Laplacian; `to_first` is that of all frames over that of the first, which a generator copies."""

    name, unit, low, high, better = "sharpness", "levels^2", 0.0, math.inf, "higher"

    def read(self, view: View) -> Reading:
        value, first = sharpness(view.frames), sharpness(view.frames[:1])
        return Reading(value, {"to_first": value / first if first else math.nan, "frames": len(view.frames)})


class ColourDrift(Metric):
    """How far the mean colour wanders from the first to the last quarter of a clip."""

    name, unit, low, high, better = "colour-drift", "levels", 0.0, 255 * math.sqrt(3), "lower"

    def read(self, view: View) -> Reading:
        return Reading(colour_drift(view.frames), {"frames": len(view.frames)})
