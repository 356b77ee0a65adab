"""From a decoded image to the input of the networks.

`prepare` runs on the host, once per image; `augment`, the random part, on the device, on whole
batches. The networks normalise their input (`nn.preprocess`).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffmic_jax.types import Array


def prepare(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square crop, then an antialiased bilinear resize.

    Args:
        image: [H, W, 3] uint8, or [H, W] gray.
        size: side in pixels.

    Returns:
        [size, size, 3] uint8; an image of that shape is unchanged.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))


def augment(
    images: Array,
    index: Array,
    key: Array,
    *,
    flip: Literal["none", "horizontal", "both"] = "horizontal",
    rotation: float = 30.0,
) -> Array:
    """Each flip with probability one half, then a rotation uniform in +-`rotation` degrees.

    The result depends on the key and the index of the image alone, not on its row or the batch.

    Args:
        images: [B, S, S, 3] uint8.
        index: [B] integers, the images' positions in their part.
        key: of the training step.
        flip: 'horizontal' mirrors half of the images; 'both' also turns half upside down.
        rotation: the largest angle in degrees; 0 for none.

    Returns:
        [B, S, S, 3] uint8. The rotation is bilinear about the centre; pixels from outside of the
        image are black.
    """

    def one(image: Array, index: Array) -> Array:
        # Always three numbers, so that turning one option off leaves the others as they were.
        mirrored, flipped, turn = jax.random.uniform(jax.random.fold_in(key, index), (3,))
        if flip != "none":
            image = jnp.where(mirrored < 0.5, image[:, ::-1], image)
        if flip == "both":
            image = jnp.where(flipped < 0.5, image[::-1], image)
        return rotate(image, jnp.deg2rad(rotation) * (2 * turn - 1)) if rotation else image

    return jax.vmap(one)(images, index)


def rotate(image: Array, angle: Array) -> Array:
    """Turn [S, S, 3] uint8 counter-clockwise by `angle` (radians) about its centre.

    Bilinear between pixel centres; black where the source lies outside of the image.
    """
    size = image.shape[0]
    centred = jnp.arange(size) - (size - 1) / 2
    down, right = centred[:, None], centred[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Where each pixel of the result comes from: y runs down, so the turn looks reversed.
    y = cos * down + sin * right + (size - 1) / 2
    x = cos * right - sin * down + (size - 1) / 2
    top, left = jnp.floor(y), jnp.floor(x)

    def at(row: Array, column: Array) -> Array:
        row, column = (jnp.clip(each.astype(jnp.int32), 0, size - 1) for each in (row, column))
        return image[row, column].astype(jnp.float32)

    across, along = (x - left)[..., None], (y - top)[..., None]
    upper = (1 - across) * at(top, left) + across * at(top, left + 1)
    lower = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1)
    # A pixel reaches half its width beyond its centre.
    inside = (jnp.minimum(x, y) >= -0.5) & (jnp.maximum(x, y) < size - 0.5)
    mixed = jnp.round((1 - along) * upper + along * lower)
    return jnp.where(inside[..., None], mixed, 0).astype(jnp.uint8)
