"""Parameterizations: how the denoiser's output becomes a noise estimate and a label estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.diffusion.link import Link
from diffmic_jax.diffusion.process import predict_eps, predict_y0
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
    """The output is eps_hat (v1, Eq. 2; v2).

    The logits are y0_hat; they are weighted by alpha_bar, the share of signal in y_t.
    """
    del link
    certainty = jnp.asarray(schedule.alpha_bar, output.dtype)[t]
    return Denoised(output, predict_y0(schedule, y_t, t, output, prior.mean), certainty)


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


PARAMETERIZATIONS: dict[str, Callable[..., Denoised]] = {"eps": eps, "posterior": posterior}
"""(output [B, *L, C], y_t [B, *L, C], t, prior, *, link, schedule) -> `Denoised`."""
