"""What decoders of images share: limits to the sizes in a header, and scaling to bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Deflate shrinks about 1000 times at most, LZW a little more, and a pixel has at least one bit.
_MOST_PIXELS_PER_BYTE = 2**14
MOST_FRAMES = 100  # that are counted one by one
_MOST_SCANS = 200  # of a JPEG; encoders make about ten
GRAY_BITS = (8, 10, 12, 16)
"""Of devices: the scale of a gray picture that is stored in more than eight bits."""
_BLOCK = 2**16  # pixels that are scaled at once


class Decoded(NamedTuple):
    """An image in the form that the models take."""

    pixels: np.ndarray
    """[H, W, 3] uint8; gray images have three equal channels."""
    mode: str
    """How it was stored: Pillow's mode ('L', 'RGB', 'I;16', 'CMYK', 'P', ...), or DICOM's
    photometric interpretation ('MONOCHROME2', 'RGB', ...)."""
    bits: int = 0
    """That a gray picture of more than eight bits uses, one of `GRAY_BITS`; 0: another image."""
    note: str = ""
    """What was done about a flaw that did not stop it; '' for none."""


class Refused(Exception):
    """A file cannot be used; it has the reason, and what to do about it."""

    def __init__(self, reason: str, fix: str = "replace or remove it"):
        super().__init__(reason)
        self.fix = fix


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image without pixels or with too many."""
    if width < 1 or height < 1:
        raise Refused(f"its size is {width} x {height}")
    if width * height > max_pixels:
        raise Refused(
            f"{width} x {height} pixels are above the limit of {max_pixels}, perhaps a"
            " decompression bomb",
            "shrink it or raise config.data.max_pixels",
        )


def check_ratio(width: int, height: int, data: bytes) -> None:
    """Refuse a size that no compression with a limit gets into that many bytes."""
    if width * height > 2**20 + _MOST_PIXELS_PER_BYTE * len(data):
        raise Refused(f"truncated, {len(data)} bytes cannot hold {width} x {height} pixels")


def check_frames(count: int) -> None:
    """Refuse animations and stacks, since any frame might be meant."""
    if count > 1:
        many = f"at least {count}" if count == MOST_FRAMES else str(count)
        raise Refused(f"it holds {many} frames", "save the one to use as an image of its own")


def check_scans(data: bytes) -> None:
    """Refuse a JPEG of many scans, each of which costs a pass over the image but only few bytes."""
    scans = data.count(b"\xff\xda")
    if scans > _MOST_SCANS + len(data) // 2**15:  # phones append films, which contain it by chance
        raise Refused(f"a JPEG of {scans} scans")


def stack(gray: np.ndarray) -> np.ndarray:
    """[H, W] to three equal channels, [H, W, 3]."""
    return np.repeat(gray[..., None], 3, axis=-1)


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high linearly to 0..255 and clip the rest; a step up beyond `low` if they are equal.

    Args:
        values: finite, of any shape and type.
        low: the value of black.
        high: the value of white; may be the smaller one.
    """
    if not np.isfinite([low, high, high - low]).all():
        raise Refused(f"its range of values, {low:g} to {high:g}, is too wide")

    def to_bytes(block: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # of what is clipped anyway
            unit = (block - low) / (high - low) if high != low else block > low
        return np.rint(255 * np.clip(unit, 0, 1))

    return blockwise(to_bytes, values, np.uint8)


def blockwise(function: Callable, values: np.ndarray, dtype: Any) -> np.ndarray:
    """An element-wise function of the values as float64, a block at a time to save memory."""
    flat = values.reshape(-1)
    results = np.empty(flat.size, dtype)
    for start in range(0, flat.size, _BLOCK):
        results[start : start + _BLOCK] = function(flat[start : start + _BLOCK].astype(np.float64))
    return results.reshape(values.shape)


def bits_in_use(values: np.ndarray) -> int:
    """The smallest of `GRAY_BITS` that holds all values."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Refused(
            f"its values, from {low} to {high}, are not 16-bit ones", "rescale them to 0..65535"
        )
    return next(bits for bits in GRAY_BITS if high < 2**bits)


def scale_integers(values: np.ndarray, bits: int, gray_bits: int) -> np.ndarray:
    """Gray that uses so many bits as uint8, on the scale of `gray_bits`, or of its own bits."""
    if gray_bits and bits > gray_bits:
        raise Refused(
            f"its values reach {values.max()}, but the other images use {gray_bits} bits",
            "rescale it as they are",
        )
    return scale(values, 0, 2 ** (gray_bits or bits) - 1)


def scale_floats(values: np.ndarray) -> np.ndarray:
    """Gray in [0, 1] as uint8."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:  # NaN is not, either
        raise Refused(
            f"its values, from {low:g} to {high:g}, are not all in [0, 1]", "rescale them to [0, 1]"
        )
    return scale(values, 0, 1)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation; unknown ones are ignored."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr,
        3: lambda image: np.rot90(image, 2),
        4: np.flipud,
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    turn = turns.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
