"""Image files to arrays: every kind of file is either converted by a rule, which the manifest records, or refused.

Converted: palettes are expanded; transparent images are laid over black; grey and RGB are converted into each other,
RGB to grey by ITU-R 601-2 luma; the orientation in EXIF is applied.

Refused, because a guess would change the image: CMYK and other colour spaces, whose conversion needs a colour profile;
16 bits, unless the user chose to scale their whole range; floating point; several frames.  Images with more pixels than
the limit are refused too, because they could fill the memory.
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
ONE_OF_SEVERAL = ("MPO",)  # a photograph with previews of itself: the first frame is the photograph
KINDS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow may run programs for other kinds, such as EPS

# `max_pixels` is a stricter limit than Pillow's warning, and raises an error of its own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImageError(ValueError):
    """A file that cannot be used as an image; the message gives the reason without the file's name."""


def sample(path: Path, layout: ImageFiles, skip_bad: bool, **fields: Any) -> Sample | Skipped:
    """Read an image file as a sample.

    Args:
        path: path of the file.
        layout: layout whose keys decide how images are read.
        skip_bad: True to return `Skipped` for a bad file instead of raising.
        fields: all fields of the sample except the image.

    Raises:
        DataError: if the file is bad and `skip_bad` is False.
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
    """Read an image file in its own size.

    Args:
        path: path of the file.
        layout: layout whose keys decide how images are read.
        skip_bad: True to return `Skipped` for a bad file instead of raising.
        source: name of the file in `Skipped`.
        fit: as in `pixels`.
        shape: height and width that the image must have; None for any.

    Returns:
        uint8 [C, H, W], or `Skipped`.

    Raises:
        DataError: if the file is bad and `skip_bad` is False.
    """
    try:
        image = pixels(path, layout.channels, fit, layout.sixteen_bits, layout.max_pixels)
        if shape is not None and image.shape[1:] != shape:
            raise BadImageError("must be turned according to its EXIF data, but its annotation may not be turned")
        return image
    except BadImageError as bad:
        if skip_bad:
            return Skipped(source, str(bad))
        raise DataError(f"{path}: {bad}; fix or remove it, or go on without such images: data.on_bad: skip") from None


def parameters(layout: Layout) -> dict[str, Plain]:
    """Return the rules by which images are read, for the manifest."""
    return {
        "channels": layout.channels,
        **({"fit": layout.fit} if isinstance(layout, ImageFiles) else {}),
        "sixteen_bits": layout.sixteen_bits,
        "alpha": "over black",
        "orientation": "EXIF applied",
        "grey": "ITU-R 601-2 luma",
    }


def pixels(path: Path, channels: int, fit: str, sixteen_bits: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image file in its own size.

    Args:
        path: path of the file.
        channels: 1 for grey, 3 for RGB.
        fit: "crop" for the largest square about the centre, "squash" for the whole image.
        sixteen_bits: "refuse", or "scale" to map grey of 16 bits from 0-65535 to 0-255.
        max_pixels: images with more pixels are refused before anything is decoded.

    Returns:
        uint8 [C, H, W].

    Raises:
        BadImageError: if the file cannot be read, or there is no rule for its kind of image.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadImageError("is not a regular file")  # reading a pipe could wait forever
        with Image.open(path, formats=KINDS) as image:
            _refuse(image, sixteen_bits, max_pixels)
            image.load()
            upright = ImageOps.exif_transpose(image)
            decoded = _eight_bits(upright, channels)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("is not an image, or an image of an unknown kind") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"has more pixels than max_pixels: {max_pixels:,}") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
        raise BadImageError(f"is damaged: {type(error).__name__}: {error}") from None
    if fit == "crop":
        side = min(decoded.shape[1:])
        top, left = ((length - side) // 2 for length in decoded.shape[1:])
        decoded = decoded[:, top : top + side, left : left + side]
    return np.ascontiguousarray(decoded)


def _refuse(image: Image.Image, sixteen_bits: str, max_pixels: int) -> None:
    """Refuse an image by the header of its file, before its pixels are decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError(f"has {width:,} x {height:,} pixels, more than max_pixels: {max_pixels:,}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_OF_SEVERAL:
        raise BadImageError(f"has {frames} frames, but a file must have one image")
    if _is_sixteen_bits(image):
        if not image.mode.startswith("I;16"):
            raise BadImageError("has 16 bits per channel: convert it to 8 bits")
        if sixteen_bits != "scale":
            raise BadImageError(
                "is grey with 16 bits: convert it to 8 bits, or set sixteen_bits: scale to divide its pixels by 257"
            )
    elif image.mode not in EIGHT_BITS:
        raise BadImageError(f"has colour mode {image.mode}: convert it to grey or RGB of 8 bits")


def _is_sixteen_bits(image: Image.Image) -> bool:
    """Return True if the file has 16 bits per channel.

    Pillow opens RGB of 16 bits with the mode of 8 bits; only the raw mode that it unpacks shows the difference.
    """
    raw = [tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0] for tile in getattr(image, "tile", [])]
    return image.mode.startswith("I;16") or any(";16" in str(mode) for mode in raw)


def _eight_bits(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """Convert an image to uint8 [C, H, W]."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image).astype(np.uint16) / 257).astype(np.uint8))
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", alpha.size, "black"), alpha).convert("RGB")
    planes = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return planes.reshape(*planes.shape[:2], channels).transpose(2, 0, 1)
