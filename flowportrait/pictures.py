"""Reading of portraits, upright and as 8-bit sRGB, with Pillow."""

import struct
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from flowportrait.arrays import Array
from flowportrait.colours import as_rgb
from flowportrait.container import one_line, readable_file
from flowportrait.errors import MediaError

MAX_PORTRAIT_SIDE_PX = 4096
_DARK_LEVEL = 64.0
PICTURE_KINDS = "a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")  # others run programs: EPS, Ghostscript
_FORMATS_OF_SOME_PILLOWS = ("AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

# What Pillow's decoders raise on damaged files; each format has its own habit.
_PICTURE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, ArithmeticError, LookupError,
    TypeError, MemoryError,
)  # fmt: skip


def read_portrait(path: str | Path, max_px: int | None = None) -> Array:
    """The picture upright, uint8 [h, w, 3], longest side at most 4096 px.

    EXIF orientation and colour profile are applied, transparency lies on neutral grey, an animation
    gives its first frame. Raises MediaError for what is missing, empty, damaged, no picture, or
    says that it has over `max_px` pixels, which is looked at before any is decoded.
    """
    path = readable_file(path, PICTURE_KINDS)
    try:
        with warnings.catch_warnings():
            # Pillow warns at 90 and refuses at 180 megapixels; only the refusal concerns the user.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                if max_px and image.width * image.height > max_px:
                    raise MediaError(
                        f"{path}: over {max_px / 1e6:.0f} megapixels; downscale the picture"
                    )
                # A JPEG can be decoded at 1/2, 1/4 or 1/8 size, which bounds time and memory.
                image.draft(None, (MAX_PORTRAIT_SIDE_PX, MAX_PORTRAIT_SIDE_PX))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{path}: {_unknown(path)}; give {PICTURE_KINDS}") from error
    except Image.DecompressionBombError as error:
        megapixels = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise MediaError(f"{path}: over {megapixels} megapixels; downscale the picture") from error
    except _PICTURE_ERRORS as error:
        raise MediaError(f"{path}: a damaged picture ({one_line(error)}); give another") from error
    image.thumbnail((MAX_PORTRAIT_SIDE_PX, MAX_PORTRAIT_SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(as_rgb(image))


def exposure_warnings(pixels: Array) -> list[str]:
    """Warnings of a face's square, uint8 [h, w, 3], that is so dark that hardly anything is seen in
    it.
    """
    luma = pixels.reshape(-1, 3) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    bright = 0.0
    if luma.size:
        bright = float(np.percentile(luma, 95))
    if bright >= _DARK_LEVEL:
        return []
    return [
        f"portrait: underexposed, 95 % of it are below level {bright:.0f} of 255; "
        "give a brighter picture"
    ]


def _formats() -> list[str]:
    """Those that this Pillow reads; HEIC is a matter of the package pi-heif, or of pillow-heif."""
    for name in ("pi_heif", "pillow_heif"):
        with suppress(ImportError):
            import_module(name).register_heif_opener()
            break
    Image.init()
    return [name for name in (*_FORMATS, *_FORMATS_OF_SOME_PILLOWS) if name in Image.OPEN]


def _unknown(path: Path) -> str:
    """The reason why Pillow does not know a file."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS:
        return "a HEIC picture, which needs the package pi-heif: pip install pi-heif"
    return "not a supported picture format"
