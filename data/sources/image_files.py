"""Image files to arrays: for every kind of file a rule, which the manifest records, or a refusal.

Converted: palettes are expanded; alpha is laid over black; grey and RGB become each other, RGB to grey by
ITU-R 601-2 luma; the orientation in EXIF is applied.  Refused, because a guess would change what an image
shows: CMYK and other colour spaces, whose conversion needs a colour profile; 16 bits, unless told to scale
their whole range; floating point; several frames; more pixels than the cap, which would fill the memory.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import DataError
from data.sources.base import Plain, Sample, Skipped
from data.sources.layouts import ImageFiles, Layout

EIGHT_BITS = ("1", "L", "P", "RGB", "LA", "PA", "La", "RGBA", "RGBa", "RGBX")
ONE_OF_SEVERAL = ("MPO",)  # a photograph with previews of itself: the first is it
KINDS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may run programs, as EPS does

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the cap is below, and is told of


class BadImageError(ValueError):
    """A file that is not read; the message says why, without its name."""


def sample(path: Path, layout: ImageFiles, skip_bad: bool, **fields: Any) -> Sample | Skipped:
    """The image of a file as a sample; a bad one is `Skipped` if the user chose so.

    Args:
        path: of the file.
        layout: says how it is read.
        skip_bad: what becomes of a bad one.
        fields: of the sample, but for the image.

    Raises:
        DataError: for a bad one otherwise.
    """
    image = read(path, layout, skip_bad, source=str(fields["source"]), fit=layout.fit)
    return image if isinstance(image, Skipped) else Sample(image=image, **fields)


def read(
    path: Path,
    layout: Layout,
    skip_bad: bool,
    *,
    source: str,
    fit: str = "squash",
    shape: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8] | Skipped:
    """An image file as uint8 [C, H, W], of its own size; a bad one is `Skipped` if the user chose so.

    Args:
        path: of the file.
        layout: says how it is read.
        skip_bad: what becomes of a bad one.
        source: its name where it is skipped.
        fit: as `pixels` has it.
        shape: height and width that it must have; None for any.

    Raises:
        DataError: for a bad one otherwise.
    """
    try:
        image = pixels(path, layout.channels, fit, layout.sixteen_bits, layout.max_pixels)
        if shape is not None and image.shape[1:] != shape:
            raise BadImageError("is to be shown turned, as its EXIF data say: what is known of it may not be turned")
        return image
    except BadImageError as bad:
        if skip_bad:
            return Skipped(source, str(bad))
        raise DataError(f"{path}: {bad}; fix or remove it, or go on without such images: data.on_bad: skip") from None


def parameters(layout: Layout) -> dict[str, Plain]:
    """How images are read, for the manifest."""
    return {
        "channels": layout.channels,
        **({"fit": layout.fit} if isinstance(layout, ImageFiles) else {}),
        "sixteen_bits": layout.sixteen_bits,
        "alpha": "over black",
        "orientation": "EXIF applied",
        "grey": "ITU-R 601-2 luma",
    }


def pixels(path: Path, channels: int, fit: str, sixteen_bits: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    """An image file as uint8 [C, H, W], of its own size.

    Args:
        path: of the file.
        channels: 1 for grey, 3 for RGB.
        fit: "crop" for the largest square about the centre, "squash" for all of it.
        sixteen_bits: "refuse", or "scale" for grey of 16 bits from 0-65535 to 0-255.
        max_pixels: before anything is decoded, more are refused.

    Raises:
        BadImageError: if it cannot be read, or there is no rule for what it is.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadImageError("is no regular file")  # a pipe would be waited for
        with Image.open(path, formats=KINDS) as image:
            _refuse(image, sixteen_bits, max_pixels)
            image.load()
            upright = ImageOps.exif_transpose(image)
            found = _eight_bits(upright, channels)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("is no image, or of an unknown kind") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"has more pixels than max_pixels: {max_pixels:,}") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
        raise BadImageError(f"is damaged: {type(error).__name__}: {error}") from None
    if fit == "crop":
        side = min(found.shape[1:])
        top, left = ((length - side) // 2 for length in found.shape[1:])
        found = found[:, top : top + side, left : left + side]
    return np.ascontiguousarray(found)


def _refuse(image: Image.Image, sixteen_bits: str, max_pixels: int) -> None:
    """Judges by the head of the file, before its pixels are decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError(f"has {width:,} x {height:,} pixels, more than max_pixels: {max_pixels:,}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_OF_SEVERAL:
        raise BadImageError(f"has {frames} frames: one image a file is read")
    if _is_sixteen_bits(image):
        if not image.mode.startswith("I;16"):
            raise BadImageError("has 16 bits a channel: make it 8 bits")
        if sixteen_bits != "scale":
            raise BadImageError("is grey of 16 bits: make it 8 bits, or say sixteen_bits: scale to divide it by 257")
    elif image.mode not in EIGHT_BITS:
        raise BadImageError(f"has colour mode {image.mode}: make it grey or RGB of 8 bits")


def _is_sixteen_bits(image: Image.Image) -> bool:
    """Pillow opens RGB of 16 bits as if it had 8; what it unpacks it from tells."""
    raw = [tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0] for tile in getattr(image, "tile", [])]
    return image.mode.startswith("I;16") or any(";16" in str(mode) for mode in raw)


def _eight_bits(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """uint8 [C, H, W]."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image).astype(np.uint16) / 257).astype(np.uint8))
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", alpha.size, "black"), alpha).convert("RGB")
    planes = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return planes.reshape(*planes.shape[:2], channels).transpose(2, 0, 1)
