"""Losses from the literature on long-tailed classes, which diffusion is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.link import Link
from diffmic_jax.types import Array, Guidance

Counts = tuple[int, ...]
"""[C] training images of each class."""


def focal_loss(
    logits: Float[Array, "b c"], target: Real[Array, "b c"], gamma: float = 2.0
) -> Float[Array, " b"]:
    """Cross-entropy times (1 - p)^gamma, [B]: less weight for easy images (Lin et al. 2017)."""
    log_p = (target * jax.nn.log_softmax(logits)).sum(axis=-1)
    return -((1 - jnp.exp(log_p)) ** gamma) * log_p


def hard_examples(loss: Float[Array, " b"], share: float = 0.7) -> Float[Array, " b"]:
    """The losses [B] of a batch's hardest images, the others 0 (OHEM, Shrivastava et al. 2016).

    Scaled so that the mean over the batch is the mean over the hardest images.
    """
    count = max(1, round(share * loss.shape[0]))
    hard = jax.lax.stop_gradient(loss >= jnp.sort(loss)[-count])
    return jnp.where(hard, loss, 0) * (loss.shape[0] / hard.sum())


def logit_adjusted(
    logits: Float[Array, "*s c"],
    target: Real[Array, "*s c"],
    counts: Sequence[int],
    tau: float = 1.0,
) -> Float[Array, "*s"]:
    """Cross-entropy of logits [..., C] plus tau log prior, [...] (Menon et al. 2021, Eq. 10).

    The prior of a class without images is that of a class with one.
    """
    images = np.maximum(counts, 1)
    prior = images / images.sum()
    return losses.cross_entropy(logits + tau * np.log(prior).astype(np.float32), target)


def ldam(
    cosine: Float[Array, "b c"],
    target: Real[Array, "b c"],
    counts: Sequence[int],
    scale: float = 30.0,
    most: float = 0.5,
) -> Float[Array, " b"]:
    """Label-distribution-aware margin loss, [B] (Cao et al. 2019, Eqs. 12 and 13).

    Args:
      cosine: [B, C] cosines times `scale`, the logits of a normalised classifier.
      target: [B, C] one-hot.
      counts: [C] training images of each class; the margin falls with their fourth root. A class
        without any, which is no image's label, does not change the other margins.
      scale: factor of the cosines.
      most: margin of the rarest class.
    """
    margin = np.maximum(counts, 1.0) ** -0.25
    margin = (most * margin / margin[np.asarray(counts) > 0].max()).astype(np.float32)
    return losses.cross_entropy(cosine - scale * margin * target, target)


def prototype_contrast(
    features: Float[Array, "b f"],
    cosine: Float[Array, "b c"],
    target: Real[Array, "b c"],
    temperature: float = 0.1,
) -> Float[Array, " b"]:
    """Supervised contrast with class prototypes, where every class has the same weight, [B].

    With z the features at length 1, p_c the prototypes, and M(c) the other images of class c
    together with p_c, image i of class y has

        -mean_{m in M(y)} log(exp(z_i . m / T) / sum_c mean_{k in M(c)} exp(z_i . k / T))

    (balanced contrastive learning, Zhu et al. 2022). A class without another image in the batch is
    represented by its prototype.

    Args:
      features: [B, F].
      cosine: [B, C] z_i . p_c.
      target: [B, C] one-hot.
      temperature: T.
    """
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    z = features * jax.lax.rsqrt(jnp.square(features).sum(axis=-1, keepdims=True) + 1e-12)
    others = 1 - jnp.eye(len(z))
    between, own = z @ z.T / temperature, cosine / temperature
    size = others @ target + 1  # [B, C] of M(c) for image i
    mean = ((others * jnp.exp(between)) @ target + jnp.exp(own)) / size
    same = others * (target @ target.T)
    positive = ((same * between).sum(axis=-1) + (own * target).sum(axis=-1)) / (size * target).sum(
        axis=-1
    )
    return jnp.log(mean.sum(axis=-1)) - positive


def class_weights(counts: Sequence[int], beta: float = 0.9999) -> Float[np.ndarray, " c"]:
    """Weights [C] by the effective number of images (Cui et al. 2019, Eq. 2).

    Their mean is 1 over the classes that have images; the weight of the others is 0.
    """
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1.0))
    weights *= np.asarray(counts) > 0
    scaled: np.ndarray = weights * np.count_nonzero(weights) / weights.sum()
    return scaled.astype(np.float32)


COSINE_SCALE = 30.0
"""Of the cosines that the losses in `NORMALISED` take as logits."""


def _focal(guidance: Guidance, target: Array, *, link: Link, counts: Counts) -> Array:
    del link, counts
    return focal_loss(guidance.fused, target)


def _ohem(guidance: Guidance, target: Array, *, link: Link, counts: Counts) -> Array:
    del counts
    return hard_examples(link.loss(guidance.fused, target))


def _logit_adjusted(guidance: Guidance, target: Array, *, link: Link, counts: Counts) -> Array:
    del link
    return logit_adjusted(guidance.fused, target, counts)


def _ldam(guidance: Guidance, target: Array, *, link: Link, counts: Counts) -> Array:
    del link
    return ldam(guidance.fused, target, counts, COSINE_SCALE)


def _prototype(guidance: Guidance, target: Array, *, link: Link, counts: Counts) -> Array:
    """Adjusted cross-entropy, and the contrast of the features with the class vectors."""
    del link
    assert guidance.features is not None, "a plain classifier has features"
    contrast = prototype_contrast(guidance.features, guidance.fused / COSINE_SCALE, target)
    return logit_adjusted(guidance.fused, target, counts) + contrast


GUIDANCE_LOSSES: dict[str, Callable[..., Array]] = {
    "focal": _focal,
    "ohem": _ohem,
    "logit_adjusted": _logit_adjusted,
    "ldam": _ldam,
    "prototype": _prototype,
}
"""(guidance prediction, labels [B, C], *, link, counts [C]) -> loss of each image [B]."""
NORMALISED = ("ldam", "prototype")
"""Losses of logits that are cosines between features and class vectors."""
SINGLE_LABEL_ONLY = ("focal", "logit_adjusted", *NORMALISED)
"""Losses without a meaning for images of several labels."""
