"""Readouts: from the samples of y0_hat to class probabilities."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float

from diffmic_jax.diffusion.link import Link
from diffmic_jax.types import Array


def softmax(y0_hat: Float[Array, "s b c"], link: Link) -> Float[Array, "b c"]:
    """The link function of the mean sample (the authors' v1 code): [S, B, C] -> [B, C]."""
    return link.activate(y0_hat.mean(axis=0))


def clip(y0_hat: Float[Array, "s b c"], link: Link) -> Float[Array, "b c"]:
    """The mean sample, clipped to [0, 1] and for single labels normalised: [S, B, C] -> [B, C].

    The mean of y0_hat estimates the class posterior, so no squashing is wanted. A vector without
    any positive entry becomes nearly uniform. The most probable class is that of the largest entry.
    """
    return link.project(y0_hat.mean(axis=0))


READOUTS: dict[str, Callable[..., Array]] = {"softmax": softmax, "clip": clip, "chain": clip}
"""(samples [S, B, C], link) -> probabilities [B, C].

For `chain` a sample is the mean of y0_hat over the steps of its chain."""
