"""Colours of stills: whatever Pillow opens, as 8-bit sRGB."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

NEUTRAL_GREY = (128, 128, 128)
"""What shines through the transparent parts of a portrait."""


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit sRGB; its transparent parts show NEUTRAL_GREY. Any mode of Pillow's is taken."""
    if image.mode.startswith(("I", "F")):
        image = _as_8_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*NEUTRAL_GREY, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
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
        scale = 1 / 257 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
