"""The first operation of every network: bytes become normalised floats."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from diffmic_jax.types import Array

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise(images: UInt8[Array, "*s 3"] | Float[Array, "*s 3"]) -> Float[Array, "*s 3"]:
    """Bytes [..., 3] to float32 of the same shape: to [0, 1], then by ImageNet's mean and std.

    Floats are taken to be normalised already.
    """
    if images.dtype != jnp.uint8:
        return images
    return (images.astype(jnp.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
