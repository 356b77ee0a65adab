"""What decoders of images share: limits to the sizes in a header, and scaling to bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Deflate shrinks about 1000 times at most, LZW a little more, and a pixel has at least one bit.
_MOST_PIXELS_PER_BYTE = 2**14
MOST_FRAMES = 100  # that are counted one by one
_MOST_SCANS = 200  # of a JPEG; encoders make about ten
_BLOCK = 2**16  # pixels that are scaled at once


class Decoded(NamedTuple):
    """An image in the form that the models take."""

    pixels: np.ndarray
    """[H, W, 3] uint8; gray images have three equal channels."""
    mode: str
    """How it was stored: Pillow's mode ('L', 'RGB', 'I;16', 'CMYK', 'P', ...), or DICOM's
    photometric interpretation ('MONOCHROME2', 'RGB', ...)."""


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
