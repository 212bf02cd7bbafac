"""Image files to pixels: every kind of file is converted by a rule, or refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.sources.base import Sample, Skipped
from data.sources.image_files import BadImageError, pixels, sample
from data.sources.layouts import Folder

CAP = 10_000


def read(path: Path, channels: int = 3, fit: str = "squash", sixteen_bits: str = "refuse") -> np.ndarray:
    return pixels(path, channels, fit, sixteen_bits, CAP)


def save_image(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def grey(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def test_grey_and_rgb_become_each_other(tmp_path: Path) -> None:
    path = save_image(tmp_path, grey([[0, 100], [200, 255]]))
    assert read(path).tolist() == [[[0, 100], [200, 255]]] * 3
    assert read(path, channels=1).tolist() == [[[0, 100], [200, 255]]]
    colour = save_image(tmp_path, Image.new("RGB", (1, 1), (255, 100, 10)))
    assert read(colour).tolist() == [[[255]], [[100]], [[10]]]
    assert read(colour, channels=1).tolist() == [[[round(255 * 0.299 + 100 * 0.587 + 10 * 0.114)]]]


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    assert read(save_image(tmp_path, Image.new("1", (2, 1), 1)), channels=1).tolist() == [[[255, 255]]]


def test_a_palette_is_expanded(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    for name in ("image.png", "image.gif", "image.bmp"):
        assert read(save_image(tmp_path, image, name)).tolist() == [[[10, 40]], [[20, 50]], [[30, 60]]]


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_alpha_is_laid_over_black(kind: str, tmp_path: Path) -> None:
    if kind == "palette":
        image = Image.new("P", (3, 1))
        image.putpalette([200, 200, 200] * 3)
        image.putdata([0, 1, 2])
        path = save_image(tmp_path, image, transparency=bytes((255, 128, 0)))
    else:
        values = [(*(200,) * (len(kind) - 1), alpha) for alpha in (255, 128, 0)]
        path = save_image(tmp_path, Image.fromarray(np.array([values], np.uint8), kind))
    assert read(path, channels=1).tolist() == [[[200, 100, 0]]]


def test_the_orientation_in_exif_is_applied(tmp_path: Path) -> None:
    image = grey([[0, 100, 200]])
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    assert read(save_image(tmp_path, image, exif=exif), channels=1).tolist() == [[[0], [100], [200]]]


def test_what_is_not_square_is_kept_or_cropped_to_its_centre(tmp_path: Path) -> None:
    wide = save_image(tmp_path, grey([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]))
    assert read(wide, channels=1).shape == (1, 2, 5)
    assert read(wide, channels=1, fit="crop").tolist() == [[[2, 3], [7, 8]]]
    tall = save_image(tmp_path, grey([[1], [2], [3]]))
    assert read(tall, channels=1, fit="crop").tolist() == [[[2]]]


def test_sixteen_bits_are_refused_or_scaled_over_their_whole_range(tmp_path: Path) -> None:
    path = save_image(tmp_path, Image.fromarray(np.array([[0, 257, 32_768, 65_535]], np.uint16)))
    with pytest.raises(BadImageError, match="16 bits: convert it to 8 bits, or set sixteen_bits: scale"):
        read(path)
    assert read(path, channels=1, sixteen_bits="scale").tolist() == [[[0, 1, 128, 255]]]
    assert read(path, sixteen_bits="scale").shape == (3, 1, 4)


def png(width: int, height: int, depth: int, kind: int, content: bytes) -> bytes:
    """Return the bytes of a PNG that Pillow itself cannot write."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(content)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def encode_animation() -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "GIF", save_all=True, append_images=[Image.new("L", (2, 2), 255)])
    return file.getvalue()


def encode_blank(mode: str, kind: str, size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


NOISE = np.random.RandomState(0).randint(0, 256, (40, 40), np.uint8)


def encode_noise(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind)
    return file.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is not an image, or an image of an unknown kind"),
    "text": (lambda: b"<!DOCTYPE html>", "is not an image, or an image of an unknown kind"),
    "truncated JPEG": (lambda: encode_noise("JPEG")[:-300], "truncated"),
    "truncated PNG": (lambda: encode_noise("PNG")[:-300], "truncated"),
    "truncated in the head": (lambda: encode_noise("PNG")[:20], "cannot be read: Truncated File Read"),
    "bit flip": (lambda: encode_noise("PNG")[:100] + b"\x00" + encode_noise("PNG")[101:], "cannot be read|is damaged"),
    "CMYK": (lambda: encode_blank("CMYK", "JPEG"), "colour mode CMYK: convert it to grey or RGB"),
    "floats": (lambda: encode_blank("F", "TIFF"), "colour mode F"),
    "LAB": (lambda: encode_blank("LAB", "TIFF"), "colour mode LAB"),
    "RGB of 16 bits": (lambda: png(1, 1, 16, 2, bytes(7)), "has 16 bits per channel: convert it to 8 bits"),
    "animation": (encode_animation, "has 2 frames, but a file must have one image"),
    "too large": (lambda: encode_blank("1", "PNG", (101, 100)), "has 101 x 100 pixels, more than max_pixels: 10,000"),
    "bomb": (lambda: png(50_000, 50_000, 8, 0, b""), "more pixels than max_pixels: 10,000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_error_or_one_skip_that_says_why(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    path = tmp_path / "ünicode 'image'.png"
    path.write_bytes(content())
    layout = Folder(root=str(tmp_path), max_pixels=CAP)
    fields: dict[str, Any] = {"label": 0, "source": path.name, "split": "all", "sample_id": "7"}
    with pytest.raises(DataError, match=message) as caught:
        sample(path, layout, False, **fields)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).count(path.name) == 1
    assert str(caught.value).endswith("data.on_bad: skip")
    skipped = sample(path, layout, True, **fields)
    assert isinstance(skipped, Skipped)
    assert skipped.source == path.name and skipped.reason in str(caught.value)


def test_a_file_that_is_not_there_is_bad(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.png")


def test_a_pipe_is_bad_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImageError, match="is not a regular file"):
        read(tmp_path / "pipe.png")


def test_what_would_run_a_program_to_be_read_is_no_image(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "image.png", "EPS")
    with pytest.raises(BadImageError, match="is not an image, or an image of an unknown kind"):
        read(tmp_path / "image.png")


def test_a_photograph_with_previews_is_read(tmp_path: Path) -> None:
    photograph = Image.new("RGB", (2, 2), (255, 255, 255))
    path = save_image(tmp_path, photograph, "image.jpg", format="MPO", save_all=True, append_images=[photograph])
    assert read(path).min() > 250


def test_a_good_file_becomes_a_sample_with_what_the_layout_says(tmp_path: Path) -> None:
    path = save_image(tmp_path, Image.new("RGB", (6, 4)))
    layout = Folder(root=str(tmp_path), channels=1, fit="crop")
    found = sample(path, layout, False, label=1, source="a/b.png", split="test", sample_id="a/b.png", group="g")
    assert isinstance(found, Sample)
    assert found.image.shape == (1, 4, 4) and found.image.flags.c_contiguous
    assert found[1:] == (1, "a/b.png", "test", "a/b.png", "g")
