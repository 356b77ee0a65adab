"""Reverse samplers: from noise around the prior mean to a label, one `lax.scan` each.

Both go through a descending list of timesteps that is known when the program is traced, so every
coefficient comes from the float64 tables. The noise is an argument, so that the same noise gives
the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from diffmic_jax.diffusion.process import (
    Mean,
    alpha_bar_at,
    posterior_coefficients,
    predict_eps,
    predict_y0,
)
from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.types import Array

EpsFn = Callable[[Array, Array], Array]
"""eps_fn(y_t [B, *L, C], t scalar index) -> eps_hat [B, *L, C]."""


def timesteps(
    schedule: Schedule,
    num_steps: int,
    start: str = "full",
) -> Integer[np.ndarray, " {num_steps}"]:
    """The timesteps of the reverse steps, [num_steps] descending.

    Args:
      schedule: the noise schedule, of T steps.
      num_steps: 1..T.
      start: `full` spreads them from T-1 to 0; `truncated` takes the first `num_steps` of
        the chain, as the authors' v1 code does; `leading` takes multiples of T // num_steps.

    Raises:
      ValueError: for a `start` or a number of steps that the schedule does not have, or a start
        where no signal is left to divide by.
    """
    total = schedule.num_train_steps
    if not 1 <= num_steps <= total:
        raise ValueError(f"the number of sampling steps must be 1..{total}, not {num_steps}")
    match start:
        case "full":
            steps = np.rint(np.linspace(total - 1, 0, num_steps)).astype(int)
        case "truncated":
            steps = np.arange(num_steps)[::-1]
        case "leading":
            steps = total // num_steps * np.arange(num_steps)[::-1]
        case _:
            raise ValueError(f"start {start!r} is unknown; choose full, truncated or leading")
    if schedule.alpha_bar[steps[0]] < 1e-12:
        raise ValueError(f"the schedule keeps no signal at t={steps[0]}; start below it")
    return steps


def _scan(
    step: Callable[..., Any],
    y_init: Array,
    steps: np.ndarray,
    rows: tuple[Any, ...],
    return_states: bool,
    average: bool,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Run `step(y, t, *rows) -> next y, y0_hat`; after the last step both are the same."""
    dtype = jnp.result_type(y_init, jnp.float32)
    # float64 rounds to the compute dtype here, once.
    rows = tuple(jnp.asarray(row, dtype) for row in rows)

    def body(carry: tuple[jax.Array, jax.Array], row: Any) -> tuple[Any, Any]:
        y, total = carry
        y, y0_hat = step(y, *row)
        return (y, total + y0_hat if average else y0_hat), y if return_states else None

    y_init = jnp.asarray(y_init, dtype)
    start = y_init, jnp.zeros_like(y_init)
    (_, y0_hat), states = jax.lax.scan(body, start, (jnp.asarray(steps), *rows))
    y0_hat = y0_hat / len(steps) if average else y0_hat
    return (y0_hat, jnp.concatenate([y_init[None], states])) if return_states else y0_hat


def ancestral(
    eps_fn: EpsFn,
    schedule: Schedule,
    y_init: Float[Array, "b *l c"],
    prior_mean: Mean,
    timesteps: Integer[np.ndarray, " n"],
    noise: Float[Array, "n b *l c"],
    *,
    return_states: bool = False,
    average: bool = False,
) -> Float[Array, "b *l c"] | tuple[Float[Array, "b *l c"], Float[Array, "n+1 b *l c"]]:
    """Ancestral (DDPM) sampling by the posterior of each step.

    Args:
      eps_fn: the denoiser with everything but the state and the timestep bound.
      schedule: the noise schedule.
      y_init: [B, *L, C] start state at `timesteps[0]`.
      prior_mean: [B, *L, C] or anything that broadcasts to it.
      timesteps: [n] descending host integers.
      noise: [n, B, *L, C] standard normal; row i goes with `timesteps[i]`, the last is unused.
      return_states: also return the n+1 states, [n+1, B, *L, C].
      average: return the mean of y0_hat over all steps, not that of the last one. Each of them
        estimates the mean of the label, and it varies less than the last.

    Returns:
      y0_hat [B, *L, C], and with `return_states` the states.
    """
    steps = np.asarray(timesteps)
    weights = posterior_coefficients(schedule, steps, np.append(steps[1:], -1))

    def step(
        y: Array, t: Array, g0: Array, g1: Array, g2: Array, std: Array, z: Array
    ) -> tuple[Array, Array]:
        y0_hat = predict_y0(schedule, y, t, eps_fn(y, t), prior_mean)
        return g0 * y0_hat + g1 * y + g2 * prior_mean + std * z, y0_hat

    rows = (weights.y0_hat, weights.y_t, weights.prior_mean, np.sqrt(weights.variance), noise)
    return _scan(step, y_init, steps, rows, return_states, average)


def ddim(
    eps_fn: EpsFn,
    schedule: Schedule,
    y_init: Float[Array, "b *l c"],
    prior_mean: Mean,
    timesteps: Integer[np.ndarray, " n"],
    noise: Float[Array, "n b *l c"] | None = None,
    *,
    eta: float = 0.0,
    clip: tuple[float, ...] | None = None,
    rederive_eps: bool = False,
    return_states: bool = False,
    average: bool = False,
) -> Float[Array, "b *l c"] | tuple[Float[Array, "b *l c"], Float[Array, "n+1 b *l c"]]:
    """DDIM sampling (Song et al. 2021), shifted to the prior mean.

    Args:
      eps_fn: as in `ancestral`.
      schedule: as in `ancestral`.
      y_init: as in `ancestral`.
      prior_mean: as in `ancestral`.
      timesteps: as in `ancestral`.
      noise: as in `ancestral`; may be None when eta is 0.
      eta: 0 is deterministic, 1 adds as much noise as ancestral sampling.
      clip: range that y0_hat is clipped to before it is used, or None (or empty).
      rederive_eps: replace eps_hat by the noise that the clipped y0_hat implies, so that the next
        state is one of the forward process; otherwise eps_hat stays raw (the authors' v2 code).
      return_states: as in `ancestral`.
      average: as in `ancestral`; of y0_hat as it is used.

    Raises:
      ValueError: if eta is above 0 and there is no noise.
    """
    if eta and noise is None:
        raise ValueError("ddim with eta above 0 needs noise")
    steps = np.asarray(timesteps)
    previous = np.append(steps[1:], -1)
    std = eta * np.sqrt(posterior_coefficients(schedule, steps, previous).variance)
    ab_prev = alpha_bar_at(schedule, previous)
    toward = np.sqrt(np.maximum(1 - ab_prev - std**2, 0))
    z_rows = np.zeros(len(steps)) if noise is None else noise

    def step(
        y: Array, t: Array, signal: Array, toward: Array, std: Array, z: Array
    ) -> tuple[Array, Array]:
        eps_hat = eps_fn(y, t)
        y0_hat = predict_y0(schedule, y, t, eps_hat, prior_mean)
        if clip:
            y0_hat = jnp.clip(y0_hat, *clip)
            if rederive_eps:
                eps_hat = predict_eps(schedule, y, t, y0_hat, prior_mean)
        y = signal * y0_hat + (1 - signal) * prior_mean + toward * eps_hat + std * z
        return y, y0_hat

    rows = (np.sqrt(ab_prev), toward, std, z_rows)
    return _scan(step, y_init, steps, rows, return_states, average)


SAMPLERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "ancestral": (ancestral, ()),
    "ddim": (ddim, ("clip", "rederive_eps")),
}
"""Name -> sampler, and the fields of `config.sampling` that it takes as keyword arguments."""
