"""The optimizers of the two networks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffmic_jax.recipe import Optimization, Recipe
from diffmic_jax.types import Array


class AmsgradState(NamedTuple):
    """Step count, first and second moments, and the largest second moment so far."""

    count: Array
    mu: optax.Params
    nu: optax.Params
    nu_max: optax.Params


def scale_by_amsgrad(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """AMSGrad with the running maximum taken before bias correction, as torch does.

    `optax.amsgrad` takes it after, where the early, strongly corrected moments dominate it, and
    its steps drift apart from torch's threefold within a few hundred updates.
    """

    def init(params: optax.Params) -> AmsgradState:
        mu, nu, nu_max = (jax.tree.map(jnp.zeros_like, params) for _ in range(3))
        return AmsgradState(jnp.zeros((), jnp.int32), mu, nu, nu_max)

    def update(
        grads: optax.Updates, state: AmsgradState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AmsgradState]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        power = count.astype(jnp.float32)
        mu_scale, nu_scale = 1 / (1 - b1**power), 1 / (1 - b2**power)
        updates = jax.tree.map(
            lambda m, v: m * mu_scale / (jnp.sqrt(v * nu_scale) + eps), mu, nu_max
        )
        return updates, AmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def learning_rate(settings: Optimization, step: Array) -> Array:
    """Rate of the denoiser at a joint step (0-based): linear warm-up, then half a cosine to 0."""
    warmup, total = settings.warmup_steps, settings.joint_steps
    rising = step / max(warmup, 1e-9)
    progress = jnp.clip((step - warmup) / max(total - warmup, 1e-9), 0, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return settings.learning_rate * jnp.where(step < warmup, rising, falling)


def make_optimizers(recipe: Recipe) -> dict[str, optax.GradientTransformation]:
    """One optimizer per network; each keeps its own count, so that schedules start when it does."""
    settings = recipe.optimization
    return {
        "guidance": optax.chain(scale_by_amsgrad(), optax.scale(-settings.guidance_learning_rate)),
        "denoiser": optax.chain(
            optax.clip_by_global_norm(settings.clip_norm),
            optax.adam(lambda step: learning_rate(settings, step)),
        ),
    }
