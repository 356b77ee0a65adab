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
    """Clip to [0, 1] and normalise to sum 1; uniform where no entry is positive."""
    clipped = jnp.clip(y, 0, 1)
    total = clipped.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, clipped / jnp.where(total > 0, total, 1), 1 / y.shape[-1])


SOFTMAX = Link(jax.nn.softmax, _log, _clip_and_normalise, losses.cross_entropy, losses.likelihood)
SIGMOID = Link(
    jax.nn.sigmoid,
    lambda p: _log(p) - _log(1 - p),
    _clip,
    losses.binary_cross_entropy,
    losses.binary_likelihood,
)
