"""Losses of the guidance and of the denoiser, per example where a batch allows it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from diffmic_jax.types import Array


def noise_mse(eps: Array, eps_hat: Array) -> Array:
    """Mean squared error of the predicted noise per image, [B] from [B, *L, C]."""
    return jnp.square(eps - eps_hat).reshape(eps.shape[0], -1).mean(axis=1)


def gaussian_kernel(a: Array, b: Array) -> Array:
    """k(a, b) = exp(-mean_d((a - b)^2) / C) between all pairs, [N, M] from [N, C] and [M, C]."""
    squared = jnp.square(a[:, None] - b[None]).mean(axis=-1)
    return jnp.exp(-squared / a.shape[-1])


def mmd(n: Array, m: Array) -> Array:
    """Biased squared maximum mean discrepancy of two samples [N, C] and [M, C] (v1, Eq. 4).

    Diagonal pairs are counted, as the authors do; the value is a scalar of the batch.
    """
    return (
        gaussian_kernel(n, n).mean()
        + gaussian_kernel(m, m).mean()
        - 2 * gaussian_kernel(n, m).mean()
    )


def focal_weight(confidence: Array, gamma: float = 1.0, alpha: float = 10.0) -> Array:
    """Weight per image, [B], from the guidance's confidence in the true label, [B] (v2).

    1 + alpha (1 - p)^gamma: what the guidance gets wrong counts more.
    """
    return 1 + alpha * (1 - confidence) ** gamma


def likelihood(logits: Array, target: Array) -> Array:
    """Softmax probability of the true class, [B], from logits and one-hot [B, C]."""
    return (jax.nn.softmax(logits) * target).sum(axis=-1)


def binary_likelihood(logits: Array, target: Array) -> Array:
    """Mean probability of the C right answers, [B], from logits and answers 0 or 1, [B, C]."""
    return jax.nn.sigmoid(jnp.where(target > 0.5, logits, -logits)).mean(axis=-1)


def cross_entropy(logits: Array, target: Array) -> Array:
    """Cross-entropy per image, [B], of logits [B, C] against a distribution [B, C]."""
    return -(target * jax.nn.log_softmax(logits)).sum(axis=-1)


def binary_cross_entropy(logits: Array, target: Array) -> Array:
    """Mean over the C yes-or-no questions per image, [B], of logits [B, C] and answers [B, C]."""
    losses = target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return -losses.mean(axis=-1)
