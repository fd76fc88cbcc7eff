"""Colours: whatever Pillow opens as 8-bit sRGB, and frames of high dynamic range as a screen of
standard range.
"""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from flowportrait.arrays import Array

NEUTRAL_GREY = (128, 128, 128)
"""What shines through the transparent parts of a portrait."""


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit sRGB; its transparent parts show NEUTRAL_GREY. Any mode of Pillow's is
    taken.
    """
    if image.mode.startswith(("I", "F")):
        image = _as_8_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*NEUTRAL_GREY, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return _by_its_profile(image)


def _by_its_profile(image: Image.Image) -> Image.Image:
    """The picture in sRGB by its own colour profile."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            return ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            # A broken profile costs a shade of colour, not the picture.
            return image.convert("RGB")
    return image.convert("RGB")


def _as_8_bit(image: Image.Image) -> Image.Image:
    """8-bit grey; integers beyond 255 are taken as 16-bit, floats within [0, 1] as that range."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode.startswith("F"):
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    else:
        scale = 1.0
        if image.mode.startswith("I;16") or values.max(initial=0) > 255:
            scale = 1 / 257
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


# ------------------------------------------------------------------------------------ high dynamic
# range

PQ, HLG = 16, 18  # in H.273's table of transfer characteristics
HDR_TRANSFERS = (PQ, HLG)
"""What `hdr_to_sdr` knows."""

_WHITE_NITS = 203.0  # of diffuse white in both (BT.2408), which becomes white
_HLG_NITS = 1000.0  # of the screen that HLG is defined for, with a gamma of 1.2
_KNEE = (
    0.8  # of white: what is darker stays as it is, what is brighter is drawn together below white
)
_SDR_GAMMA = 2.4  # of a screen of standard range (BT.1886)
# BT.2020's primaries as BT.709's (BT.2087).
_TO_BT709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    np.float32,
)
_LEVELS = 65536


def hdr_to_sdr(pixels: Array, transfer: int) -> Array:
    """uint16 [h, w, 3] of BT.2020 with the transfer PQ or HLG as uint8 [h, w, 3] of BT.709.

    Diffuse white of 203 nits becomes white, highlights are drawn together below it.
    """
    light = _light(transfer)[pixels]  # 1 is diffuse white
    if transfer == HLG:
        # The screen brightens what is bright as a whole: BT.2100's OOTF with its gamma of 1.2.
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= (np.maximum(luminance, 1e-6) ** 0.2)[..., None] * (_HLG_NITS / _WHITE_NITS)
    peak = light.max(axis=-1, keepdims=True)
    room = 1 - _KNEE
    drawn = _KNEE + room * (1 - np.exp(-(peak - _KNEE) / room))
    light *= np.where(peak > _KNEE, drawn / np.maximum(peak, 1e-6), 1)
    light = np.clip(light @ _TO_BT709.T, 0, 1)
    return _shown()[(light * (_LEVELS - 1) + 0.5).astype(np.uint16)]


@lru_cache
def _light(transfer: int) -> Array:
    """Linear light of every 16-bit level, float32: of the screen where 1 is diffuse white (PQ), of
    the scene (HLG).
    """
    signal = np.arange(65536) / 65535
    if transfer == HLG:
        a = 0.17883277
        b = 0.28466892
        c = 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(
            np.float32
        )
    m1 = 2610 / 16384
    m2 = 2523 / 32
    c1 = 3424 / 4096
    c2 = 2413 / 128
    c3 = 2392 / 128
    root = signal ** (1 / m2)
    nits = 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return (nits / _WHITE_NITS).astype(np.float32)


@lru_cache
def _shown() -> Array:
    """The 8-bit level of every step of linear light."""
    return np.rint(255 * (np.arange(_LEVELS) / (_LEVELS - 1)) ** (1 / _SDR_GAMMA)).astype(np.uint8)
