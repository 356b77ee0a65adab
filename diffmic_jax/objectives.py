"""What the logits of the guidance mean, what it is trained for, and how draws are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffmic_jax.diffusion import losses
from diffmic_jax.types import Array, Guidance


@dataclasses.dataclass(frozen=True)
class Link:
    """What the guidance's logits mean."""

    activate: Callable[[Array], Array]
    """Logits [B, C] -> probabilities [B, C]."""
    loss: Callable[[Array, Array], Array]
    """(logits [B, C], labels [B, C]) -> [B]."""
    likelihood: Callable[[Array, Array], Array]
    """(logits [B, C], labels [B, C]) -> probability of the truth [B]."""


SINGLE_LABEL = Link(jax.nn.softmax, losses.cross_entropy, losses.likelihood)
MULTI_LABEL = Link(jax.nn.sigmoid, losses.binary_cross_entropy, losses.binary_likelihood)


def softmax_readout(y0_hat: Array, link: Link) -> Array:
    """Softmax (multi-label: sigmoid) of the mean draw (public v1): [S, B, C] -> [B, C]."""
    return link.activate(y0_hat.mean(axis=0))


def clip_readout(y0_hat: Array, link: Link) -> Array:
    """Mean draw clipped to [0, 1] and, unless multi-label, renormalised: [S, B, C] -> [B, C].

    The mean of y0_hat estimates the class posterior, so no squashing is wanted. An answer without
    any positive entry carries no information and becomes uniform.
    """
    mean = jnp.clip(y0_hat.mean(axis=0), 0, 1)
    if link is MULTI_LABEL:
        return mean
    total = mean.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, mean / jnp.where(total > 0, total, 1), 1 / mean.shape[-1])


Counts = tuple[int, ...]
"""[C] training images of each class."""


def fused_loss(guidance: Guidance, target: Array, link: Link, counts: Counts = ()) -> Array:
    """Loss of the averaged logits (v1): [B]."""
    del counts
    return link.loss(guidance.fused, target)


def branches_loss(guidance: Guidance, target: Array, link: Link, counts: Counts = ()) -> Array:
    """Mean loss of the two branches, each on its own (v2): [B]."""
    del counts
    return (link.loss(guidance.global_, target) + link.loss(guidance.local, target)) / 2


def focal_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Focal loss of the averaged logits: [B]."""
    del link, counts
    return losses.focal_loss(guidance.fused, target)


def ohem_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Loss of the averaged logits on the hardest images of the batch: [B]."""
    del counts
    return losses.hard_examples(link.loss(guidance.fused, target))


def logit_adjusted_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Cross-entropy of the averaged logits, adjusted by the classes' frequencies: [B]."""
    del link
    return losses.logit_adjusted(guidance.fused, target, counts)


def ldam_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Loss with a larger margin for rarer classes: [B]."""
    del link
    return losses.ldam(guidance.fused, target, counts, COSINE_SCALE)


def uniform_weight(guidance: Guidance, target: Array, link: Link) -> Array:
    """Every image counts the same: ones [B]."""
    del link
    return jnp.ones_like(guidance.fused, shape=target.shape[:1])


def focal_weight(guidance: Guidance, target: Array, link: Link) -> Array:
    """What the guidance is unsure of counts more (v2): [B]."""
    return losses.focal_weight(link.likelihood(guidance.fused, target))


READOUTS = {"softmax": softmax_readout, "clip": clip_readout}
COSINE_SCALE = 30.0
"""Of the classifier that LDAM trains."""
GUIDANCE_LOSSES: dict[str, Callable[..., Array]] = {
    "fused": fused_loss,
    "branches": branches_loss,
    "focal": focal_loss,
    "ohem": ohem_loss,
    "logit_adjusted": logit_adjusted_loss,
    "ldam": ldam_loss,
}
FOR_ONE_LABEL = ("focal", "logit_adjusted", "ldam")
"""Losses without a meaning for images of several labels."""
WEIGHTS = {"uniform": uniform_weight, "focal": focal_weight}
