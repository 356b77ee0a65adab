"""From a decoded image to the input of the networks.

`prepare` runs on the host, once per image; `augment`, the random part, on the device, on whole
batches. The networks normalise their input (`nn.preprocess`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffmic_jax.config import Data
from diffmic_jax.data import operations, warp
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


def augment(images: Array, index: Array, key: Array, own: Data) -> Array:
    """Flips, a rotation, a crop and, if asked for, one operation more, at random.

    Each flip has probability one half, the rotation is uniform in +-`rotation` degrees, the crop is
    that of `warp.crop`. The result depends on the key and the index of the image alone, not on its
    row or the batch.

    Args:
        images: [B, S, S, 3] uint8.
        index: [B] integers, the images' positions in their part.
        key: of the training step.
        own: `flip`, `rotation`, `crop` and `augmentation` are used.

    Returns:
        [B, S, S, 3] uint8. With flips and rotation alone, pixels from outside of the image are
        black, as in the published training; with a crop or an operation they mirror the inside.
    """
    plain = own.crop == 1 and own.augmentation == "basic"

    def one(image: Array, index: Array) -> Array:
        key_of_image = jax.random.fold_in(key, index)
        # Always three numbers, so that turning one option off leaves the others as they were.
        mirrored, flipped, turn = jax.random.uniform(key_of_image, (3,))
        mirrored, flipped = mirrored < 0.5, flipped < 0.5
        angle = jnp.deg2rad(own.rotation) * (2 * turn - 1)
        if plain:
            if own.flip != "none":
                image = jnp.where(mirrored, image[:, ::-1], image)
            if own.flip == "both":
                image = jnp.where(flipped, image[::-1], image)
            return rotate(image, angle) if own.rotation else image
        base = warp.mirror(flipped & (own.flip == "both"), mirrored & (own.flip != "none"))
        return _warped(image, [base, warp.turn(angle)], jax.random.fold_in(key_of_image, 1), own)

    return jax.vmap(one)(images, index)


@lru_cache(maxsize=16)
def augmenting(own: Data) -> Callable[[Array, Array, Array], Array]:
    """`augment` with these options: (images, index, key) -> images, one function for equal ones."""
    return partial(augment, own=own)


def _warped(image: Array, parts: list[Array], key: Array, own: Data) -> Array:
    """Crop and operation of one image [S, S, 3] uint8, after the maps `parts` of `warp`.

    All maps become one, so that every pixel is interpolated once, and the colours are rounded once.
    """
    numbers = jax.random.uniform(key, (8,))
    crop = warp.crop(own.crop, numbers[:4])
    if own.augmentation == "basic":
        return warp.as_bytes(warp.warp(image, [*parts, crop]))
    amount = operations.choose(numbers[4], numbers[5])
    pixels = warp.warp(image, [*parts, operations.move(amount), crop])
    pixels = operations.recolour(pixels, amount)
    return warp.as_bytes(operations.cut_out(pixels, amount["cutout"], numbers[6:]))


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
    # A pixel reaches half its width beyond its centre.
    inside = (jnp.minimum(x, y) >= -0.5) & (jnp.maximum(x, y) < size - 0.5)
    mixed = jnp.round(warp.bilinear(image, y, x))
    return jnp.where(inside[..., None], mixed, 0).astype(jnp.uint8)
