"""Parameterizations: how the denoiser's output becomes a noise estimate and a label estimate.

In terms of the residual r = y0 - m around the prior mean m, the state is
x = y_t - m = sqrt(ab) r + sqrt(1 - ab) eps, and all but `eps` estimate r, so that an error of the
output is never divided by sqrt(ab), which is 0.006 where sampling starts. Where an output of zero
says that, y0_hat at that end is the prior mean, up to sqrt(ab).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.diffusion.link import Link
from diffmic_jax.diffusion.process import LABEL_STD, predict_eps, predict_y0
from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.types import Array, Prior, Timestep


class Denoised(NamedTuple):
    """The denoiser's estimates for a noisy label y_t."""

    eps_hat: Float[Array, "b *l c"]
    """[B, *L, C] the noise in y_t."""
    logits: Float[Array, "b *l c"]
    """[B, *L, C] of the clean label."""
    certainty: Float[Array, ""] | Float[Array, " b *l"]
    """Scalar or [B, *L], weight of the logits in the loss of the denoised label."""


def eps(
    output: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    prior: Prior,
    *,
    link: Link,
    schedule: Schedule,
) -> Denoised:
    """The output is eps_hat (v1, Eq. 3; v2).

    The logits are y0_hat; they are weighted by alpha_bar, the share of signal in y_t.
    """
    del link
    certainty = jnp.asarray(schedule.alpha_bar, output.dtype)[t]
    return Denoised(output, predict_y0(schedule, y_t, t, output, prior.mean), certainty)


def y0(
    output: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    prior: Prior,
    *,
    link: Link,
    schedule: Schedule,
) -> Denoised:
    """The output is the residual of the label: y0_hat = m + output."""
    del link
    return _of_label(prior.mean + output, y_t, t, prior, schedule)


def v(
    output: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    prior: Prior,
    *,
    link: Link,
    schedule: Schedule,
) -> Denoised:
    """The output is v = sqrt(ab) eps - sqrt(1 - ab) r (Salimans and Ho 2022)."""
    del link
    ab = schedule.alpha_bar
    x, z = _at(t, y_t - prior.mean, np.sqrt(ab)), _at(t, output, np.sqrt(1 - ab))
    return _of_label(prior.mean + x - z, y_t, t, prior, schedule)


def edm(
    output: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    prior: Prior,
    *,
    link: Link,
    schedule: Schedule,
) -> Denoised:
    """The output is what is left once r has been estimated linearly (Karras et al. 2022, Table 1).

    With residuals of standard deviation s = `LABEL_STD`,

        r_hat = (sqrt(ab) s^2 x + sqrt(1 - ab) s q output) / q^2,   q^2 = ab s^2 + 1 - ab,

    which is their c_skip and c_out for a noise level of sqrt((1 - ab) / ab). With s = 1 it is `v`,
    up to the sign of the output. What they call c_in is the network's input scale: the gate of its
    first layer has one for each timestep.
    """
    del link
    ab, std = schedule.alpha_bar, LABEL_STD
    scale = np.sqrt(ab * std**2 + 1 - ab)
    skip, out = np.sqrt(ab) * std**2 / scale**2, np.sqrt(1 - ab) * std / scale
    x, z = _at(t, y_t - prior.mean, skip), _at(t, output, out)
    return _of_label(prior.mean + x + z, y_t, t, prior, schedule)


def _at(t: Timestep, values: Array, table: np.ndarray) -> Array:
    """Values [B, *L, C] times what a table [T] has for their timesteps."""
    return values * jnp.expand_dims(jnp.asarray(table, values.dtype)[t], -1)


def _of_label(y0_hat: Array, y_t: Array, t: Timestep, prior: Prior, schedule: Schedule) -> Denoised:
    """What an estimate of the clean label implies; as logits it is weighted as in `eps`."""
    certainty = jnp.asarray(schedule.alpha_bar, y0_hat.dtype)[t]
    return Denoised(predict_eps(schedule, y_t, t, y0_hat, prior.mean), y0_hat, certainty)


def posterior(
    output: Float[Array, "b *l c"],
    y_t: Float[Array, "b *l c"],
    t: Timestep,
    prior: Prior,
    *,
    link: Link,
    schedule: Schedule,
) -> Denoised:
    """The output corrects the posterior that follows from the guidance prediction by Bayes' rule.

    With the guidance prediction m as the prior of y0 and the forward process as the likelihood, the
    class c has

        log p(c | y_t) = log m_c + sqrt(ab) / (1 - ab) (y_t - (1 - sqrt(ab)) m - sqrt(ab) / 2)_c

    up to a constant. The output is added to it, and y0_hat is the posterior's mean: its
    probabilities. An output of zero is the best estimate that does not use the image.
    """
    ab = schedule.alpha_bar
    signal, evidence = (
        jnp.expand_dims(jnp.asarray(table, output.dtype)[t], -1)
        for table in (np.sqrt(ab), np.sqrt(ab) / (1 - ab))
    )
    residual = y_t - (1 - signal) * prior.mean - signal / 2
    logits = link.logits(prior.mean) + evidence * residual + output
    eps_hat = predict_eps(schedule, y_t, t, link.activate(logits), prior.mean)
    return Denoised(eps_hat, logits, jnp.ones((), output.dtype))


PARAMETERIZATIONS: dict[str, Callable[..., Denoised]] = {
    "eps": eps,
    "v": v,
    "y0": y0,
    "edm": edm,
    "posterior": posterior,
}
"""(output [B, *L, C], y_t [B, *L, C], t, prior, *, link, schedule) -> `Denoised`."""
