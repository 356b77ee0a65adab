"""Link functions: exactly one class per image (softmax), or any number of classes (sigmoid)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffmic_jax.diffusion import losses
from diffmic_jax.types import Array

PROBABILITY_FLOOR = 1e-6
"""Smallest guidance probability that enters a logarithm."""
TIE_BREAK = 1e-3
"""Largest relative difference between classes that clipping made equal; tables show six digits."""


class Link(NamedTuple):
    """The link function between logits and class probabilities, and the losses that go with it."""

    activate: Callable[[Array], Array]
    """Logits [..., C] -> probabilities [..., C]."""
    logits: Callable[[Array], Array]
    """The inverse of `activate` up to a constant, finite for every probability [..., C]."""
    project: Callable[[Array], Array]
    """Any real vector [..., C] -> the probabilities that its entries estimate, [..., C]."""
    loss: Callable[[Array, Array], Array]
    """(logits [..., C], labels [..., C]) -> negative log-likelihood [...]."""
    likelihood: Callable[[Array, Array], Array]
    """(logits [..., C], labels [..., C]) -> probability of the true label [...]."""


def _log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p, PROBABILITY_FLOOR))


def _clip(y: Array) -> Array:
    """Each entry is the probability of a class of its own."""
    return jnp.clip(y, 0, 1)


def _clip_and_normalise(y: Array) -> Array:
    """Clip to [0, 1] and normalise to sum 1; uniform where no entry is positive.

    Clipping makes equals of all entries above 1, and of all entries where none is positive, and the
    first class would be predicted. Of such equals, an entry has more by its rank: the largest
    stays the most probable class.
    """
    clipped = jnp.clip(y, 0, 1)
    above = (y[..., :, None] > y[..., None, :]) & (clipped[..., :, None] == clipped[..., None, :])
    some = (clipped > 0).any(axis=-1, keepdims=True)
    weight = jnp.where(some, clipped, 1) * (1 + TIE_BREAK * above.mean(axis=-1))
    return weight / weight.sum(axis=-1, keepdims=True)


SOFTMAX = Link(jax.nn.softmax, _log, _clip_and_normalise, losses.cross_entropy, losses.likelihood)
SIGMOID = Link(
    jax.nn.sigmoid,
    lambda p: _log(p) - _log(1 - p),
    _clip,
    losses.binary_cross_entropy,
    losses.binary_likelihood,
)
