"""Moving the pixels of an image: affine maps that become one, and one interpolation.

A map is a matrix [3, 3] that takes a point of the result to the point of the image that it comes
from. Points are (row, column, 1), from the centre, in sides of the image: the image has
[-1/2, 1/2] of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp

from diffmic_jax.types import Array

LARGEST_RATIO = 4 / 3
"""Of the sides of a random crop."""


def affine(rows: Sequence[Sequence[Array | float]]) -> Array:
    """The map of two rows of three numbers."""
    return jnp.stack(
        [jnp.stack([jnp.asarray(x, jnp.float32) for x in row]) for row in rows]
        + [jnp.array([0, 0, 1], jnp.float32)]
    )


def mirror(flipped: Array, mirrored: Array) -> Array:
    """Upside down, if `flipped`, and left to right, if `mirrored`."""
    down, right = jnp.where(flipped, -1, 1), jnp.where(mirrored, -1, 1)
    return affine([[down, 0, 0], [0, right, 0]])


def turn(angle: Array) -> Array:
    """Counter-clockwise by `angle` (radians): rows run down, so the map looks reversed."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return affine([[cos, sin, 0], [-sin, cos, 0]])


def crop(smallest: float, numbers: Array) -> Array:
    """A random crop, resized to the whole (Szegedy et al. 2015, section 6).

    Its area is uniform in [`smallest`, 1] of the image's. The ratio of its sides is log-uniform in
    [3/4, 4/3], or in what of that still fits into the image. Its place is uniform.

    Args:
        smallest: share of the area; 1 for the whole image.
        numbers: [4] uniform in [0, 1).
    """
    area, ratio, down, right = numbers
    area = smallest + (1 - smallest) * area
    limit = jnp.minimum(math.log(LARGEST_RATIO), -jnp.log(area))
    ratio = jnp.exp(limit * (2 * ratio - 1))
    height, width = jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)
    down, right = (1 - height) * (down - 0.5), (1 - width) * (right - 0.5)
    return affine([[height, 0, down], [0, width, right]])


def warp(image: Array, maps: Sequence[Array]) -> Array:
    """The image after maps, the first one first.

    Outside of the image its mirror image goes on. Black would give training images dark corners
    that no image has at prediction, and batch normalisation statistics that do not fit; the last
    row or column repeated makes stripes; a mirror image keeps brightness and texture.

    Args:
        image: [S, S, 3] uint8.
        maps: of the kind above.

    Returns:
        [S, S, 3] float32 in 0..255.
    """
    size = image.shape[0]
    centred = (jnp.arange(size) - (size - 1) / 2) / size
    down, right = centred[:, None], centred[None, :]
    # Coordinates need all digits, also on devices that multiply matrices with fewer.
    whole = reduce(partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST), maps)
    y, x = (a * down + b * right + c + 0.5 for a, b, c in whole[:2])
    return bilinear(image, size * _reflected(y) - 0.5, size * _reflected(x) - 0.5)


def _reflected(position: Array) -> Array:
    """Positions in an image of [0, 1] that goes on as its mirror images."""
    position = position - 2 * jnp.floor(position / 2)
    return jnp.minimum(position, 2 - position)


def bilinear(image: Array, y: Array, x: Array) -> Array:
    """Pixels between the centres of pixels.

    Args:
        image: [S, S, 3].
        y: [...] rows, 0 at the centre of the first; beyond the border, those of the border.
        x: [...] columns.

    Returns:
        [..., 3] float32.
    """
    size = image.shape[0]
    top, left = jnp.floor(y), jnp.floor(x)

    def at(row: Array, column: Array) -> Array:
        row, column = (jnp.clip(each.astype(jnp.int32), 0, size - 1) for each in (row, column))
        return image[row, column].astype(jnp.float32)

    across, along = (x - left)[..., None], (y - top)[..., None]
    upper = (1 - across) * at(top, left) + across * at(top, left + 1)
    lower = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1)
    return (1 - along) * upper + along * lower


def as_bytes(pixels: Array) -> Array:
    """Rounded to uint8."""
    return jnp.round(jnp.clip(pixels, 0, 255)).astype(jnp.uint8)
