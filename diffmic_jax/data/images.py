"""Image files: their pixels as eight-bit RGB.

A file becomes [H, W, 3] uint8 or an `InputError`. Its content decides how it is read, not its name.
Files may be damaged or hostile: the size in a header is checked before memory is allocated for it,
and no exception of a decoder is passed on as it is.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import unicodedata
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from diffmic_jax.config import Data
from diffmic_jax.data.dicom import decode_dicom
from diffmic_jax.data.pixels import (
    MOST_FRAMES,
    Decoded,
    Refused,
    bits_in_use,
    check_frames,
    check_ratio,
    check_scans,
    check_size,
    scale_floats,
    scale_integers,
    stack,
    turn,
)
from diffmic_jax.data.scan import ACCEPTED
from diffmic_jax.errors import InputError

MAX_PIXELS = Data.max_pixels
"""Width times height that `decode` accepts by default."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_DICOM_EXTENSIONS = (".dcm", ".dicom")
_ORIENTATION = 0x0112  # the EXIF tag
_PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT = 262, 322, 323  # TIFF tags
# TIFF compressions without a limit to how far they shrink.
_DENSE = ("group3", "group4", "tiff_ccitt", "lzma", "zstd", "webp")

# `max_pixels` is the limit that counts: it is checked before pixels are decoded, it can be raised
# in the configuration, and Pillow's own limit is one for the whole process.
Image.MAX_IMAGE_PIXELS = None
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs what it raises as well


def decode(
    file: Path | BinaryIO, name: str = "", max_pixels: int = MAX_PIXELS, gray_bits: int = 0
) -> Decoded:
    """Decode an image to eight-bit RGB, upright.

    A file with 'DICM' at byte 128, or with the extension of DICOM, is read as DICOM: with its
    modality and display tables or windows, or from its darkest to its brightest pixel if it has
    none. The format of any other file is recognised by its content. Alpha is dropped.

    Gray pictures of more than eight bits become eight-bit ones on the scale of `gray_bits`. Many
    devices store 8, 10 or 12 bits in 16; scaled from 16 bits, their images would be nearly black.
    The images of one data set have to be on one scale, see `cache.cached`; 0 takes the smallest of
    `GRAY_BITS` that holds this image. Colours of 16 bits keep the upper eight. Pixels in floating
    point have to lie in [0, 1].

    Args:
        file: a regular file, or an open one that can seek; it is read from its start.
        name: in messages; default `str(file)`.
        max_pixels: the largest accepted width times height. Memory and time are bounded by it and
            by the size of the file.
        gray_bits: of the scale of gray pictures of more than eight bits.

    Raises:
        InputError: the file is missing, damaged, too large, of another kind, or holds several
            frames; its gray values do not fit `gray_bits`; or it is DICOM and pydicom is not
            installed. The message is one line.
    """
    _silence_decoders()
    try:
        data = _read(file, max_pixels)
        suffixes = {os.path.splitext(text)[1].lower() for text in (name, str(file))}
        if data[128:132] == b"DICM" or not suffixes.isdisjoint(_DICOM_EXTENSIONS):
            return decode_dicom(data, max_pixels)
        return _decode_picture(data, max_pixels, gray_bits)
    except Exception as error:  # damaged data can make a decoder raise anything
        raise InputError(_message(name or str(file), error)) from error


# Messages and warnings.


def _message(name: str, error: Exception) -> str:
    fix = error.fix if isinstance(error, Refused) else "replace or remove it"
    return f"{_one_line(name)}: cannot be read ({_reason(error)}); {fix}"


def _reason(error: Exception) -> str:
    """The text of an exception, on one line of at most 200 characters."""
    text = _one_line(" ".join((getattr(error, "strerror", None) or str(error)).split()))
    if not isinstance(error, (Refused, OSError, SyntaxError, ValueError)):
        text = f"damaged, {type(error).__name__} {text}".rstrip()  # a KeyError is just '5'
    return text if len(text) <= 200 else f"{text[:200]}..."


def _one_line(text: str) -> str:
    """The text with all but spaces and printable characters, such as line breaks, as escapes."""
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


_SILENT = r"(PIL|pydicom)(\.|$)"
_SILENT_FILTER = ("ignore", None, Warning, re.compile(_SILENT), 0)


def _silence_decoders() -> None:
    """Ignore warnings from inside the decoders, in all threads and from now on.

    They report damage that does not matter, such as a broken EXIF block, or that an exception
    reports as well; where warnings are errors, they would stop readable images.
    `warnings.catch_warnings` cannot do this: it swaps the filters of the whole process, and two
    threads that enter and leave it in turn would restore the wrong ones.
    """
    if warnings.filters[:1] != [_SILENT_FILTER]:  # another filter precedes or replaced it
        warnings.filterwarnings("ignore", module=_SILENT)


# Reading.


def _read(file: Path | BinaryIO, max_pixels: int) -> bytes:
    """The whole content.

    Decoders get bytes in memory: no name to judge by, no file to map that another process may
    truncate, and no read of a length that only a header states.
    """
    if not isinstance(file, (str, os.PathLike)):
        return _content(file, max_pixels)
    if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe would wait for a writer
        raise Refused("not a regular file")
    with open(file, "rb") as opened:
        return _content(opened, max_pixels)


def _content(file: BinaryIO, max_pixels: int) -> bytes:
    size = file.seek(0, io.SEEK_END)
    if not size:
        raise Refused("the file is empty")
    if size > 8 * max_pixels + 2**26:  # four channels of 16 bits, and room for metadata
        raise Refused(
            f"{size} bytes are more than an image of {max_pixels} pixels needs",
            "shrink it or raise config.data.max_pixels",
        )
    file.seek(0)
    return file.read()


# Pictures.


def _decode_picture(data: bytes, max_pixels: int, gray_bits: int) -> Decoded:
    image = _open(data)
    mode = image.mode
    _check_header(image, data, max_pixels)
    check_frames(_count_frames(image))
    image.load()
    orientation = _orientation(image)
    pixels, bits = _to_rgb(image, gray_bits)
    return Decoded(turn(pixels, orientation), mode, bits)


def _open(data: bytes) -> Image.Image:
    """Read the header."""
    if data.startswith(b"GIF8"):
        raise Refused("it is a GIF", f"convert it to {ACCEPTED}")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            # Phones append further pictures (MPO); this opens the first and ignores their index.
            return JpegImageFile(io.BytesIO(data))
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, SyntaxError) as error:  # their texts do not help
        raise Refused(f"not a {ACCEPTED} image, or damaged") from error


def _count_frames(image: Image.Image) -> int:
    """Frames of an animation or pages of a TIFF, `MOST_FRAMES` at most."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    # Pillow's count takes time quadratic in the pages, and a page may be six bytes.
    for count in range(1, MOST_FRAMES):
        try:
            image.seek(count)
        except EOFError:
            return count
    return MOST_FRAMES


def _check_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse sizes in the header that the file cannot hold, before memory is allocated."""
    sizes = [image.size]
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        sizes += [(int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_HEIGHT, 1)))]
    dense = image.format == "WEBP" or image.info.get("compression") in _DENSE
    for width, height in sizes:
        check_size(width, height, max_pixels)
        if not dense:
            check_ratio(width, height, data)
    if image.format == "JPEG":
        check_scans(data)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as in `decode`; a broken EXIF block does not stop a readable picture
        return 1


def _to_rgb(image: Image.Image, gray_bits: int) -> tuple[np.ndarray, int]:
    """Loaded pixels of any mode as [H, W, 3] uint8; the bits in use of gray with more than 8."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        bits = 0 if image.mode == "F" else bits_in_use(values)
        scaled = scale_integers(values, bits, gray_bits) if bits else scale_floats(values)
        return stack(255 - scaled if _is_negative(image) else scaled), bits
    if image.mode == "L":
        return stack(np.asarray(image)), 0
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), 0


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF; Pillow inverts those of up to eight bits, and only those."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
