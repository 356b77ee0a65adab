"""What the logits of the guidance mean, what it is trained for, and how draws are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.process import predict_eps, predict_y0
from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.method import longtail
from diffmic_jax.types import Array, Guidance, Prior


@dataclasses.dataclass(frozen=True)
class Link:
    """What the guidance's logits mean."""

    activate: Callable[[Array], Array]
    """Logits [B, C] -> probabilities [B, C]."""
    loss: Callable[[Array, Array], Array]
    """(logits [B, C], labels [B, C]) -> [B]."""
    likelihood: Callable[[Array, Array], Array]
    """(logits [B, C], labels [B, C]) -> probability of the truth [B]."""
    logits: Callable[[Array], Array]
    """The inverse of `activate`, finite for every probability."""


LEAST = 1e-6
"""No class is held to be less likely than this by what the guidance tells the denoiser."""


def _log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p, LEAST))


SINGLE_LABEL = Link(jax.nn.softmax, losses.cross_entropy, losses.likelihood, _log)
MULTI_LABEL = Link(
    jax.nn.sigmoid,
    losses.binary_cross_entropy,
    losses.binary_likelihood,
    lambda p: _log(p) - _log(1 - p),
)


class Denoised(NamedTuple):
    """What the denoiser's output says of a noisy label."""

    eps_hat: Array
    """[B, *L, C]."""
    logits: Array
    """[B, *L, C] of the clean label."""
    certainty: Array
    """Scalar or [B, *L]: how much these count in the label's loss."""


def denoise_noise(
    output: Array, y_t: Array, t: Array, prior: Prior, *, link: Link, schedule: Schedule
) -> Denoised:
    """The output is eps_hat (DiffMIC); y0_hat counts by alpha_bar, the signal that is in it."""
    del link
    certainty = jnp.asarray(schedule.alpha_bar, output.dtype)[t]
    return Denoised(output, predict_y0(schedule, y_t, t, output, prior.mean), certainty)


def denoise_posterior(
    output: Array, y_t: Array, t: Array, prior: Prior, *, link: Link, schedule: Schedule
) -> Denoised:
    """The output corrects the posterior that Bayes' rule gives for the guess alone.

    With the guess m as the prior of y0 and the forward process as the likelihood, the class c has

        log p(c | y_t) = log m_c + sqrt(ab) / (1 - ab) (y_t - (1 - sqrt(ab)) m - sqrt(ab) / 2)_c

    up to a constant. The output is added to it, and y0_hat is the posterior's mean: its
    probabilities. An output of zero is the best that can be said without looking at the image.
    """
    ab = schedule.alpha_bar
    signal, evidence = (
        jnp.expand_dims(jnp.asarray(table, output.dtype)[t], -1)
        for table in (np.sqrt(ab), np.sqrt(ab) / (1 - ab))
    )
    seen = y_t - (1 - signal) * prior.mean - signal / 2
    logits = link.logits(prior.mean) + evidence * seen + output
    eps_hat = predict_eps(schedule, y_t, t, link.activate(logits), prior.mean)
    return Denoised(eps_hat, logits, jnp.ones((), output.dtype))


DENOISED: dict[str, Callable[..., Denoised]] = {
    "noise": denoise_noise,
    "posterior": denoise_posterior,
}


def softmax_readout(y0_hat: Array, link: Link) -> Array:
    """Softmax (multi-label: sigmoid) of the mean draw (public v1): [S, B, C] -> [B, C]."""
    return link.activate(y0_hat.mean(axis=0))


def vote_readout(y0_hat: Array, link: Link) -> Array:
    """The share of the draws that call each class: [S, B, C] -> [B, C]."""
    if link is MULTI_LABEL:
        return (y0_hat > 0.5).mean(axis=0)
    return jax.nn.one_hot(y0_hat.argmax(axis=-1), y0_hat.shape[-1]).mean(axis=0)


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
    return longtail.focal_loss(guidance.fused, target)


def ohem_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Loss of the averaged logits on the hardest images of the batch: [B]."""
    del counts
    return longtail.hard_examples(link.loss(guidance.fused, target))


def logit_adjusted_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Cross-entropy of the averaged logits, adjusted by the classes' frequencies: [B]."""
    del link
    return longtail.logit_adjusted(guidance.fused, target, counts)


def label_loss(logits: Array, label: Array, link: Link, counts: Counts, balance: float) -> Array:
    """Loss of the denoised label, [B, *L] from logits and labels [B, *L, C].

    With a balance of tau, the logits are those of a world where class c is count_c^(1 - tau) as
    common (logit adjustment, Menon et al. 2021).
    """
    if balance:  # which only labels of one class can have
        return longtail.logit_adjusted(logits, label, counts, balance)
    return link.loss(logits, label)


def ldam_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Loss with a larger margin for rarer classes: [B]."""
    del link
    return longtail.ldam(guidance.fused, target, counts, COSINE_SCALE)


def prototype_loss(guidance: Guidance, target: Array, link: Link, counts: Counts) -> Array:
    """Adjusted cross-entropy, and the contrast of the features with the class vectors: [B]."""
    del link
    contrast = longtail.prototype_contrast(guidance.features, guidance.fused / COSINE_SCALE, target)
    return longtail.logit_adjusted(guidance.fused, target, counts) + contrast


def uniform_weight(guidance: Guidance, target: Array, link: Link) -> Array:
    """Every image counts the same: ones [B]."""
    del link
    return jnp.ones_like(guidance.fused, shape=target.shape[:1])


def focal_weight(guidance: Guidance, target: Array, link: Link) -> Array:
    """What the guidance is unsure of counts more (v2): [B]."""
    return losses.focal_weight(link.likelihood(guidance.fused, target))


READOUTS = {"softmax": softmax_readout, "clip": clip_readout, "vote": vote_readout}
COSINE_SCALE = 30.0
"""Of the cosines in `NORMALISED`."""
GUIDANCE_LOSSES: dict[str, Callable[..., Array]] = {
    "fused": fused_loss,
    "branches": branches_loss,
    "focal": focal_loss,
    "ohem": ohem_loss,
    "logit_adjusted": logit_adjusted_loss,
    "ldam": ldam_loss,
    "prototype": prototype_loss,
}
NORMALISED = ("ldam", "prototype")
"""Losses of logits that are cosines between features and class vectors."""
FOR_ONE_LABEL = ("focal", "logit_adjusted", *NORMALISED)
"""Losses without a meaning for images of several labels."""
WEIGHTS = {"uniform": uniform_weight, "focal": focal_weight}
