"""Images of a batch mixed in pairs, and their labels with them.

The partner of an image is the next one in its batch; since batches are in random order, that is any
other. On several devices only the images at their borders have to move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from diffmic_jax.types import Array

Mixed: TypeAlias = tuple[Array, Array]
"""Images and labels of the same shapes as before."""


def mixup(image: Float[Array, "b ..."], target: Float[Array, "b c"], key: Array) -> Mixed:
    """Weighted sums of two images (Zhang et al. 2018), the weight from Beta(0.2, 0.2).

    Args:
      image: [B, ...] images, or features.
      target: [B, C] labels.
      key: random key.
    """
    share = jax.random.beta(key, 0.2, 0.2, image.shape[:1], image.dtype)
    return _blend(image, share), _blend(target, share)


def cutmix(image: Float[Array, "b h w f"], target: Float[Array, "b c"], key: Array) -> Mixed:
    """A rectangle of every image is its partner's (Yun et al. 2019).

    Its share of the area is uniform, its centre anywhere, and what lies outside of the image is cut
    off. The label has the share of what is left of each image.

    Args:
      image: [B, H, W, F].
      target: [B, C] labels.
      key: random key.
    """
    batch, *sides = image.shape[:3]
    area, *centres = jax.random.uniform(key, (3, batch))
    inside = []
    for side, centre in zip(sides, centres, strict=True):
        half = jnp.sqrt(area) / 2
        low, high = (jnp.round(side * jnp.clip(centre + end, 0, 1)) for end in (-half, half))
        position = jnp.arange(side)
        inside.append((position >= low[:, None]) & (position < high[:, None]))
    cut = (inside[0][:, :, None] & inside[1][:, None])[..., None]
    left = 1 - cut.mean((1, 2, 3), dtype=target.dtype)
    return jnp.where(cut, jnp.roll(image, -1, axis=0), image), _blend(target, left)


def both(image: Float[Array, "b h w f"], target: Float[Array, "b c"], key: Array) -> Mixed:
    """One of the two for the whole batch, each with probability one half."""
    which, own = jax.random.split(key)
    mixed: Mixed = jax.lax.cond(
        jax.random.bernoulli(which), mixup, cutmix, jnp.asarray(image), target, own
    )
    return mixed


MIXES: dict[str, Callable[[Array, Array, Array], Mixed] | None] = {
    "none": None,
    "mixup": mixup,
    "cutmix": cutmix,
    "both": both,
}
"""(images [B, ...], labels [B, C], key) -> images and labels."""


def _blend(x: Array, share: Array) -> Array:
    """Rows of x, `share` [B] of each and the rest of the next one."""
    share = share.reshape(-1, *(1 for _ in x.shape[1:]))
    blended: Array = share * x + (1 - share) * jnp.roll(x, -1, axis=0)
    return blended
