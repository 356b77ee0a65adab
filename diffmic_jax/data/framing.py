"""What of a picture becomes the square that the networks see.

`frame` makes the picture whose centre square is taken: unchanged, padded to a square, or stretched
to one; before that, dark surroundings can be cut away, as of a retina's disc on black.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from diffmic_jax.config import Data
from diffmic_jax.errors import InputError

DARK = 0.06
"""Share of full brightness up to which a pixel is dark."""
FILLED = 0.02
"""Share of a row or column that is not dark where the picture begins; less is noise or print."""
LARGEST = 2**28
"""Pixels of the square around a picture, which its own size does not bound."""
WORDS = {
    "none": "",
    "crop": "",
    "disc": "without its dark surroundings; ",
    "letterbox": "padded with black to a square; ",
    "stretch": "stretched to a square; ",
}


class Framing(NamedTuple):
    """How pictures are framed; fields of the same names in `Data`."""

    fit: str = "crop"
    trim: str = "none"

    @classmethod
    def of(cls, data: Data) -> Framing:
        """That of a configuration."""
        return cls(data.fit, data.trim)

    @property
    def words(self) -> str:
        """What is said before 'the centre square'."""
        return WORDS[self.trim] + WORDS[self.fit]

    def frame(self, pixels: np.ndarray, name: str = "an image") -> np.ndarray:
        """The picture whose centre square the networks see, [H, W, 3] uint8 -> [H', W', 3].

        Raises:
          InputError: the square around an image, which is named, would take too much memory.
        """
        if self.trim == "disc":
            top, bottom, left, right = bright_box(pixels)
            pixels = pixels[top:bottom, left:right]
        height, width = pixels.shape[:2]
        if self.fit == "crop" or height == width:
            return pixels
        if self.fit == "stretch":
            side = min(height, width)
            stretched = Image.fromarray(np.ascontiguousarray(pixels)).resize(
                (side, side), Image.Resampling.BILINEAR
            )
            return np.asarray(stretched)
        side = max(height, width)
        if side**2 > max(LARGEST, 2 * height * width):
            raise InputError(
                f"{name}: a square around its {width} x {height} pixels takes too much memory; "
                "crop it"
            )
        square = np.zeros((side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = pixels
        return square


def bright_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is not dark in a picture [H, W, 3]; all of a dark one."""
    bright = pixels.max(axis=-1) > 255 * DARK
    rows = np.flatnonzero(bright.mean(axis=1) > FILLED)
    columns = np.flatnonzero(bright.mean(axis=0) > FILLED)
    if not (rows.size and columns.size):
        return 0, pixels.shape[0], 0, pixels.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
