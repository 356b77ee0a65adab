"""Losses of the guidance and of the denoiser, per example where a batch allows it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from diffmic_jax.diffusion.process import LABEL_STD
from diffmic_jax.types import Array

MIN_SNR = 5.0
"""Largest weight of a label's squared error under `min_snr` (Hang et al. 2023)."""
TIMESTEP_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": np.ones_like,
    "label": lambda snr: 1 / snr,
    "min_snr": lambda snr: np.minimum(snr, MIN_SNR) / snr,
    "edm": lambda snr: 1 + 1 / (LABEL_STD**2 * snr),
}
"""Signal-to-noise ratios ab / (1 - ab) -> weights of the squared error of eps_hat.

That is this ratio times the squared error of y0_hat, which `label` therefore weighs alike at all
timesteps. With `edm` it is the output of that parameterization whose error counts everywhere the
same (Karras et al. 2022)."""


def noise_mse(
    eps: Float[Array, "b *l c"], eps_hat: Float[Array, "b *l c"], weight: Array | float = 1.0
) -> Float[Array, " b"]:
    """Mean squared error of the predicted noise per image, [B] from [B, *L, C].

    Args:
      eps: the noise.
      eps_hat: its estimate.
      weight: of each timestep, [B, *L], or one for all.
    """
    weight = jnp.expand_dims(jnp.asarray(weight), -1)
    return (weight * jnp.square(eps - eps_hat)).reshape(eps.shape[0], -1).mean(axis=1)


def gaussian_kernel(a: Float[Array, "n c"], b: Float[Array, "m c"]) -> Float[Array, "n m"]:
    """k(a, b) = exp(-mean_d((a - b)^2) / C) between all pairs, [N, M] from [N, C] and [M, C]."""
    squared = jnp.square(a[:, None] - b[None]).mean(axis=-1)
    return jnp.exp(-squared / a.shape[-1])


def mmd(n: Float[Array, "n c"], m: Float[Array, "m c"]) -> Float[Array, ""]:
    """Biased squared maximum mean discrepancy of two samples [N, C] and [M, C] (v1, Eq. 5).

    Diagonal pairs are counted, as in the authors' code; the value is a scalar of the batch.
    """
    return (
        gaussian_kernel(n, n).mean()
        + gaussian_kernel(m, m).mean()
        - 2 * gaussian_kernel(n, m).mean()
    )


def focal_weight(
    confidence: Float[Array, " b"], gamma: float = 1.0, alpha: float = 10.0
) -> Float[Array, " b"]:
    """Weight per image, [B], from the guidance's confidence in the true label, [B] (v2).

    1 + alpha (1 - p)^gamma: images that the guidance is less sure of have more weight.
    """
    return 1 + alpha * (1 - confidence) ** gamma


def likelihood(logits: Float[Array, "*s c"], target: Real[Array, "*s c"]) -> Float[Array, "*s"]:
    """Softmax probability of the true class, [...], from logits and one-hot [..., C]."""
    return (jax.nn.softmax(logits) * target).sum(axis=-1)


def binary_likelihood(
    logits: Float[Array, "*s c"], target: Real[Array, "*s c"]
) -> Float[Array, "*s"]:
    """Mean probability of the C true labels, [...], from logits and labels 0 or 1, [..., C].

    Labels of NaN are not known, and left out; 0 where none is known.
    """
    return _mean_known(jax.nn.sigmoid(jnp.where(target > 0.5, logits, -logits)), target)


def cross_entropy(logits: Float[Array, "*s c"], target: Real[Array, "*s c"]) -> Float[Array, "*s"]:
    """Cross-entropy, [...], of logits [..., C] against a distribution [..., C]."""
    return -(target * jax.nn.log_softmax(logits)).sum(axis=-1)


def binary_cross_entropy(
    logits: Float[Array, "*s c"], target: Real[Array, "*s c"]
) -> Float[Array, "*s"]:
    """Mean binary cross-entropy of the C classes, [...], of logits and labels [..., C].

    Labels of NaN are not known, and left out; 0 where none is known.
    """
    label = jnp.nan_to_num(target)
    losses = label * jax.nn.log_sigmoid(logits) + (1 - label) * jax.nn.log_sigmoid(-logits)
    return -_mean_known(losses, target)


def _mean_known(values: Float[Array, "*s c"], target: Real[Array, "*s c"]) -> Float[Array, "*s"]:
    """Mean of the values of labels that are not NaN, [...] from [..., C]; 0 if there are none."""
    known = ~jnp.isnan(target)
    return jnp.where(known, values, 0).sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
