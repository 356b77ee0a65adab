"""The optimizers of the two networks."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Real

from diffmic_jax.types import Array, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Rates and limits of the two optimizers."""

    learning_rate: float
    """Peak rate of the denoiser."""
    final_learning_rate: float
    """At the end of the half cosine."""
    guidance_learning_rate: float
    guidance_optimizer: Literal["amsgrad", "adam", "adamw"]
    warmup_steps: float
    """Joint steps over which the denoiser's rate rises from 0."""
    joint_steps: int
    steps_per_rate: int
    """Steps that the rate stays the same: 1, or those of an epoch."""
    clip_norm: float
    """Largest global norm of the denoiser's gradients; 0: no limit."""
    ema: bool
    accumulate: int = 1
    """Parts that a batch is taken in, one after the other."""


class AmsgradState(NamedTuple):
    """Step count, first and second moments, and the largest second moment so far."""

    count: Array  # type: ignore[assignment]  # hides tuple.count
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


def learning_rate(settings: Optimization, step: Real[Array, "*n"] | int) -> Float[Array, "*n"]:
    """Rate of the denoiser at joint steps (0-based): linear warm-up, then half a cosine."""
    warmup, total = settings.warmup_steps, settings.joint_steps
    step = step // settings.steps_per_rate * settings.steps_per_rate
    rising = step / max(warmup, 1e-9)
    progress = jnp.clip((step - warmup) / max(total - warmup, 1e-9), 0, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    peak = settings.learning_rate
    floor = settings.final_learning_rate / peak if peak else 0.0
    rate: Array = peak * jnp.where(step < warmup, rising, floor + (1 - floor) * falling)
    return rate


def moving_average(average: Variables, params: Variables, k: Int[Array, ""]) -> Variables:
    """The next EMA; its memory grows with the number k of joint steps before, up to 0.9999."""
    decay = jnp.minimum(0.9999, (1 + k) / (10 + k))
    mixed: Variables = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, average, params
    )
    return mixed


def make_optimizers(settings: Optimization) -> dict[str, optax.GradientTransformation]:
    """One optimizer per network; each keeps its own count, so that schedules start when it does."""
    amsgrad = settings.guidance_optimizer == "amsgrad"
    adam = scale_by_amsgrad() if amsgrad else optax.scale_by_adam()
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return {
        "guidance": optax.chain(adam, optax.scale(-settings.guidance_learning_rate)),
        "denoiser": optax.chain(clip, optax.adam(lambda step: learning_rate(settings, step))),
    }
