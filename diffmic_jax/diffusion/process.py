"""The forward process, its inversion and its posterior, around a prior mean.

With `m` the prior mean, the noisy label is

    y_t = sqrt(ab_t) y_0 + (1 - sqrt(ab_t)) m + sqrt(1 - ab_t) eps            (v1, Eq. 2)

which is plain DDPM on the residual `y - m`. v2 has m = 0. Labels are arrays [B, *L, C] with
L = () in v1 and (K, K) in v2; a timestep is a scalar or an array [B, *L].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, PRNGKeyArray

from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.types import Array, Timestep

Mean: TypeAlias = Float[Array, "..."] | float
"""A prior mean: [B, *L, C] or anything that broadcasts to it."""
Weight: TypeAlias = Float[np.ndarray, "*n"] | np.floating[Any]
"""One number for each of some timesteps."""

LABEL_STD = 0.3
"""Standard deviation s of a label around its prior mean, per class: sqrt(p (1 - p)) of a guidance
prediction that is right nine times in ten."""


class Coefficients(NamedTuple):
    """Weights of a reverse step, on the host in the schedule's precision, scalars or [n]."""

    y0_hat: Weight
    y_t: Weight
    prior_mean: Weight
    variance: Weight


def _gather(table: np.ndarray, t: Timestep, like: Array) -> jax.Array:
    """`table[t]` in the dtype of `like`, with a class axis added so that it broadcasts."""
    values = jnp.asarray(table, jnp.result_type(like, jnp.float32))[t]
    return values[..., None] if values.ndim else values


def q_sample(
    schedule: Schedule,
    y0: Float[Array, "*#s c"],
    t: Timestep,
    eps: Float[Array, "*#s c"],
    prior_mean: Mean,
) -> Float[Array, "*#s c"]:
    """Noisy label y_t at timestep t (v1, Eq. 2).

    Args:
      schedule: the noise schedule.
      y0: [B, *L, C] clean label.
      t: scalar or [B, *L] int, 0..T-1.
      eps: [B, *L, C] standard normal noise.
      prior_mean: [B, *L, C] or anything that broadcasts to it.
    """
    signal = _gather(np.sqrt(schedule.alpha_bar), t, y0)
    noise = _gather(np.sqrt(1 - schedule.alpha_bar), t, y0)
    return signal * y0 + (1 - signal) * prior_mean + noise * eps


def predict_y0(
    schedule: Schedule,
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    eps_hat: Float[Array, "b *l c"],
    prior_mean: Mean,
) -> Float[Array, "b *l c"]:
    """The clean label that `eps_hat` implies: `q_sample` solved for y0. Shapes as there."""
    signal = _gather(np.sqrt(schedule.alpha_bar), t, y_t)
    noise = _gather(np.sqrt(1 - schedule.alpha_bar), t, y_t)
    return (y_t - (1 - signal) * prior_mean - noise * eps_hat) / signal


def predict_eps(
    schedule: Schedule,
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    y0_hat: Float[Array, "b *l c"],
    prior_mean: Mean,
) -> Float[Array, "b *l c"]:
    """The noise that `y0_hat` implies: `q_sample` solved for eps. Shapes as there."""
    signal = _gather(np.sqrt(schedule.alpha_bar), t, y_t)
    noise = _gather(np.sqrt(1 - schedule.alpha_bar), t, y_t)
    return (y_t - signal * y0_hat - (1 - signal) * prior_mean) / noise


def alpha_bar_at(schedule: Schedule, t: Integer[np.ndarray, "*n"]) -> Weight:
    """alpha_bar at host timesteps, with 1 at the clean end t = -1."""
    table = np.append(schedule.alpha_bar, schedule.alpha_bar.dtype.type(1))
    return cast(Weight, table[t])


def posterior_coefficients(
    schedule: Schedule, t: Integer[np.ndarray, "*n"], t_prev: Integer[np.ndarray, "*n"]
) -> Coefficients:
    """Weights of y0_hat, y_t and the prior mean in q(y_t_prev | y_t, y_0), and its variance.

    The steps may be strided: any t_prev < t is valid, and t_prev = -1 is the clean end, where
    y0_hat has weight 1 and the variance is 0. The three weights sum to 1.

    Raises:
      ValueError: if some t_prev is not below its t, or a timestep lies outside the schedule.
    """
    if np.any(t_prev >= t) or np.any(t_prev < -1) or np.any(t >= schedule.num_train_steps):
        raise ValueError(
            f"a reverse step needs -1 <= t_prev < t < {schedule.num_train_steps}, "
            f"not t={t} and t_prev={t_prev}"
        )
    ab, ab_prev = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_prev)
    # Not ab / ab_prev: where alpha_bar was rounded, 1 - a would lose most of its digits.
    product = np.append(np.cumprod(schedule.alpha, dtype=np.float64), 1.0)
    a = (product[t] / product[t_prev]).astype(ab.dtype)
    prior_mean = 1 + (np.sqrt(ab) - 1) * (np.sqrt(a) + np.sqrt(ab_prev)) / (1 - ab)
    return Coefficients(
        y0_hat=(1 - a) * np.sqrt(ab_prev) / (1 - ab),
        y_t=(1 - ab_prev) * np.sqrt(a) / (1 - ab),
        # Its terms cancel; at the clean end exactly, which rounding would spoil.
        prior_mean=np.where(t_prev < 0, 0, prior_mean),
        variance=(1 - ab_prev) / (1 - ab) * (1 - a),
    )


def posterior(
    schedule: Schedule,
    y0_hat: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Integer[np.ndarray, "*n"] | int | np.integer,
    t_prev: Integer[np.ndarray, "*n"] | int | np.integer,
    prior_mean: Mean,
) -> tuple[Float[Array, "b *l c"], Float[Array, "*_"]]:
    """Mean [B, *L, C] and variance of y_t_prev given y_t and y0_hat.

    Args:
      schedule: the noise schedule.
      y0_hat: [B, *L, C] estimate of the clean label.
      y_t: [B, *L, C] the current state.
      t: concrete timestep, scalar or [B, *L]; not traced, so that float64 tables apply.
      t_prev: concrete, below t; -1 is the clean end, with variance 0.
      prior_mean: [B, *L, C] or anything that broadcasts to it.

    Returns:
      The mean, and the variance as a scalar or [B, *L, 1].
    """
    weights = posterior_coefficients(schedule, np.asarray(t), np.asarray(t_prev))
    dtype = jnp.result_type(y_t, jnp.float32)
    g0, g1, g2, variance = (
        jnp.asarray(np.expand_dims(w, -1) if w.ndim else w, dtype) for w in weights
    )
    return g0 * y0_hat + g1 * y_t + g2 * prior_mean, variance


def antithetic_timesteps(
    key: PRNGKeyArray, shape: tuple[int, ...], num_train_steps: int
) -> Integer[Array, " b *l"]:
    """Random timesteps [B, *L] whose second half of images mirrors the first, t -> T-1-t.

    Pairs of early and late steps steady the loss from batch to batch (authors' v1 code).
    """
    half = jax.random.randint(key, (shape[0] // 2 + 1, *shape[1:]), 0, num_train_steps)
    return jnp.concatenate([half, num_train_steps - 1 - half])[: shape[0]]


def uniform_timesteps(
    key: PRNGKeyArray, shape: tuple[int, ...], num_train_steps: int
) -> Integer[Array, " b *l"]:
    """Independent random timesteps [B, *L]: every cell of a map has its own (v2)."""
    return jax.random.randint(key, shape, 0, num_train_steps)


TIMESTEPS: dict[str, Callable[..., Array]] = {
    "antithetic": antithetic_timesteps,
    "uniform": uniform_timesteps,
}
"""(key, [B, *L], T) -> training timesteps [B, *L]."""
