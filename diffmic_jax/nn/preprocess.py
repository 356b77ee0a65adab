"""The first operation of every network: bytes become normalised floats.

A trunk has the normalisation that it was trained with as its attribute `preprocess`; one without
it takes ImageNet's. Images are normalised once, for the guidance's trunk; another trunk that takes
others changes them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from diffmic_jax.types import Array

Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How the images of a trunk's training were prepared."""

    mean: Triple
    """Of each channel, in units of 255."""
    std: Triple
    """Of each channel, in units of 255."""
    size: int = 224
    """Side of the images, in pixels; a trunk takes others as well."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How they were resized; ours are always resized bilinearly."""

    def normalise(
        self, images: UInt8[Array, "*s 3"] | Float[Array, "*s f"]
    ) -> Float[Array, "*s f"]:
        """Bytes [..., 3] to float32 of the same shape: to [0, 1], then by mean and std.

        Floats are taken to be normalised already.
        """
        if images.dtype != jnp.uint8:
            return images
        return (images.astype(jnp.float32) / 255 - _row(self.mean)) / _row(self.std)

    def change(self, images: Float[Array, "*s 3"], new: Preprocess) -> Float[Array, "*s 3"]:
        """Images [..., 3] that are normalised like this, normalised as `new` does."""
        if (self.mean, self.std) == (new.mean, new.std):
            return images
        scale = _row(self.std) / _row(new.std)
        shift = (_row(self.mean) - _row(new.mean)) / _row(new.std)
        changed: Array = images * scale.astype(images.dtype) + shift.astype(images.dtype)
        return changed


IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET_BICUBIC = dataclasses.replace(IMAGENET, interpolation="bicubic")


def of(trunk: Any) -> Preprocess:
    """What a trunk takes."""
    found: Preprocess = getattr(trunk, "preprocess", IMAGENET)
    return found


def _row(values: Triple) -> np.ndarray:
    return np.array(values, np.float32)
