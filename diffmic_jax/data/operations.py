"""TrivialAugment (Mueller and Hutter 2021): one operation per image, of uniformly random strength.

The operations are those of the paper that leave a medical image plausible. Inverting, solarizing,
posterizing and equalizing are left out: they make colours that no device records. Gamma, zoom and
cutout come in.

Every operation is computed for every image, with an amount of 0 where it was not chosen: on devices
that is cheaper than a branch for each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp

from diffmic_jax.data import warp
from diffmic_jax.types import Array

LARGEST: Mapping[str, float] = MappingProxyType(
    {
        "identity": 0.0,
        "brightness": 0.3,  # part of every value that is added or taken away
        "contrast": 0.4,  # the same of the distance to the mean
        "saturation": 0.4,  # of the distance to gray
        "sharpness": 1.0,  # of the distance to the smoothed image
        "stretch": 1.0,  # on the way to the full range of values
        "gamma": math.log(1.6),  # logarithm of the exponent
        "shear_x": 0.3,
        "shear_y": 0.3,
        "translate_x": 0.2,  # sides of the image
        "translate_y": 0.2,
        "rotate": math.radians(30),
        "zoom": math.log(1.3),  # logarithm of the magnification
        "cutout": 0.3,  # side of the square, in sides of the image
    }
)
"""The operations and the amount of each at full strength."""
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in the brightness that is seen (ITU-R BT.601)."""


def choose(operation: Array, strength: Array) -> dict[str, Array]:
    """The amount of every operation, 0 for all but one.

    Args:
        operation: uniform in [0, 1): which one.
        strength: uniform in [0, 1): from the largest amount to one side to that to the other.
    """
    chosen = jnp.floor(operation * len(LARGEST))
    signed = 2 * strength - 1
    return {
        name: jnp.where(chosen == i, largest * signed, 0.0)
        for i, (name, largest) in enumerate(LARGEST.items())
    }


def move(amount: Mapping[str, Array]) -> Array:
    """The map (see `warp`) of the operations that move pixels."""
    scale = jnp.exp(-amount["zoom"])
    sheared = warp.affine(
        [
            [scale, amount["shear_y"], amount["translate_y"]],
            [amount["shear_x"], scale, amount["translate_x"]],
        ]
    )
    return jnp.matmul(warp.turn(amount["rotate"]), sheared, precision="highest")


def recolour(pixels: Array, amount: Mapping[str, Array]) -> Array:
    """The operations that change values, [S, S, 3] in 0..255 -> the same."""
    red, green, blue = (pixels[..., i : i + 1] for i in range(3))
    gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    low, high = pixels.min(), pixels.max()
    # One range for all channels, so that the hue stays.
    stretched = (pixels - low) * (255 / jnp.maximum(high - low, 1))
    pixels = jnp.clip(
        pixels
        + amount["brightness"] * pixels
        + amount["contrast"] * (pixels - gray.mean())
        + amount["saturation"] * (pixels - gray)
        + amount["sharpness"] * (pixels - smoothed(pixels))
        + jnp.abs(amount["stretch"]) * (stretched - pixels),
        0,
        255,
    )
    # On a CPU a third of the time of a power.
    logarithm = jnp.log(jnp.maximum(pixels, 1e-3) / 255)
    curved = 255 * jnp.exp(jnp.exp(amount["gamma"]) * logarithm)
    return jnp.where(amount["gamma"] == 0, pixels, curved)


def smoothed(pixels: Array) -> Array:
    """Each pixel with its neighbours, weights 1 2 1 along both axes; the border counts twice."""
    # Rows of 3 S numbers: channels as an axis of their own cost a CPU five times as much.
    rows, step = pixels.reshape(len(pixels), -1), pixels.shape[-1]
    above, below = jnp.concatenate([rows[:1], rows[:-1]]), jnp.concatenate([rows[1:], rows[-1:]])
    rows = (above + 2 * rows + below) / 4
    left = jnp.concatenate([rows[:, :step], rows[:, :-step]], axis=1)
    right = jnp.concatenate([rows[:, step:], rows[:, -step:]], axis=1)
    return ((left + 2 * rows + right) / 4).reshape(pixels.shape)


def cut_out(pixels: Array, side: Array, numbers: Array) -> Array:
    """A square in the mean colour (DeVries and Taylor 2017).

    Args:
        pixels: [S, S, 3].
        side: of the square, in sides of the image; of a negative number the size counts.
        numbers: [2] uniform in [0, 1): its centre.
    """
    size = pixels.shape[0]
    places = (jnp.arange(size) + 0.5) / size
    down, right = (jnp.abs(places - centre) < jnp.abs(side) / 2 for centre in numbers)
    hidden = (down[:, None] & right[None, :])[..., None]
    return jnp.where(hidden, pixels.mean(axis=(0, 1)), pixels)
