"""The optimizers of the two networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Real

from diffmic_jax.config import Config
from diffmic_jax.method.tuning import Tuning, is_decayed
from diffmic_jax.types import Array, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Rates and limits of the two optimizers."""

    learning_rate: float
    """Peak rate of the denoiser."""
    final_learning_rate: float
    """At the end of the half cosine."""
    guidance_learning_rate: float
    """Peak rate of the guidance's heads."""
    guidance_optimizer: Literal["amsgrad", "adam", "adamw"]
    warmup_fraction: float
    """Of the steps in which a network learns, over which its rate rises from 0."""
    alone_steps: int
    """Of the guidance, before the denoiser learns."""
    joint_steps: int
    """Planned, in which the denoiser learns; the state's `horizon` can end them elsewhere."""
    steps_per_rate: int
    """Steps that the rate stays the same: 1, or those of an epoch."""
    clip_norm: float
    """Largest global norm of the denoiser's gradients; 0: no limit."""
    ema: bool
    accumulate: int = 1
    """Parts that a batch is taken in, one after the other."""
    guidance_rate: Literal["constant", "cosine"] = "constant"
    guidance_stops: bool = False
    """The guidance no longer learns once the denoiser does."""
    weight_decay: float = 0.0
    """Of the guidance's kernels, per step and unit of the rate."""
    tuning: Tuning = Tuning()
    """What of the guidance learns, and how fast."""

    @property
    def horizon(self) -> int:
        """Planned steps of the whole run."""
        return self.alone_steps + self.joint_steps


def make_optimization(config: Config, steps_per_epoch: int, tuning: Tuning) -> Optimization:
    """The rates of `config.train` and `config.guidance`."""
    train, guidance = config.train, config.guidance
    return Optimization(
        learning_rate=train.learning_rate,
        final_learning_rate=train.final_learning_rate,
        guidance_learning_rate=guidance.learning_rate,
        guidance_optimizer=guidance.optimizer,
        warmup_fraction=train.warmup_fraction,
        alone_steps=guidance.warmup_epochs * steps_per_epoch,
        joint_steps=train.epochs * steps_per_epoch,
        steps_per_rate=max(steps_per_epoch, 1) if train.rate_per_epoch else 1,
        clip_norm=train.clip_norm,
        ema=train.ema,
        accumulate=train.accumulate,
        guidance_rate=guidance.rate,
        guidance_stops=guidance.frozen and bool(config.denoiser.encoder),
        weight_decay=guidance.weight_decay,
        tuning=tuning,
    )


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


def learning_rate(
    settings: Optimization, step: Real[Array, "*n"] | int, horizon: Int[Array, ""] | int
) -> Float[Array, "*n"]:
    """Rate of the denoiser at joint steps (0-based): linear warm-up, then half a cosine.

    Args:
      settings: peak and final rate, and the share of the warm-up.
      step: since the denoiser began to learn.
      horizon: steps of the whole run.
    """
    return _warmup_cosine(
        step // settings.steps_per_rate * settings.steps_per_rate,
        peak=settings.learning_rate,
        final=settings.final_learning_rate,
        warmup=settings.warmup_fraction,
        total=horizon - settings.alone_steps,
    )


def guidance_rate(
    settings: Optimization, step: Real[Array, "*n"] | int, horizon: Int[Array, ""] | int
) -> Float[Array, "*n"]:
    """Rate of the guidance's heads at its steps (0-based), where it is `cosine`; 0 at the end.

    Arguments as of `learning_rate`.
    """
    return _warmup_cosine(
        step,
        peak=settings.guidance_learning_rate,
        final=0.0,
        warmup=settings.warmup_fraction,
        total=settings.alone_steps if settings.guidance_stops else horizon,
    )


def _warmup_cosine(
    step: Real[Array, "*n"] | int,
    *,
    peak: float,
    final: float,
    warmup: float,
    total: Int[Array, ""] | int,
) -> Float[Array, "*n"]:
    """From 0 in a line to the peak, over a share of the steps, then in half a cosine to the end."""
    rise = warmup * total
    rising = step / jnp.maximum(rise, 1e-9)
    progress = jnp.clip((step - rise) / jnp.maximum(total - rise, 1e-9), 0, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    floor = final / peak if peak else 0.0
    rate: Array = peak * jnp.where(step < rise, rising, floor + (1 - floor) * falling)
    return rate


def moving_average(average: Variables, params: Variables, k: Int[Array, ""]) -> Variables:
    """The next EMA; its memory grows with the number k of joint steps before, up to 0.9999.

    That is a ninth of these steps, so it fits short runs as well. What has not changed stays as it
    is, bit for bit.
    """
    decay = jnp.minimum(0.9999, (1 + k) / (10 + k))
    mixed: Variables = jax.tree.map(
        lambda old, new: old + (1 - decay) * (new - old), average, params
    )
    return mixed


def make_optimizers(settings: Optimization) -> dict[str, optax.GradientTransformationExtraArgs]:
    """One optimizer per network; each keeps its own count, so that schedules start when it does.

    Their updates take the run's `horizon`, by default the planned one: as a number of the state,
    and not of the program, it can change while the program stays.
    """
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    rate = _scale_by_rate(partial(learning_rate, settings), settings.horizon)
    both = {
        "guidance": _guidance_optimizer(settings),
        "denoiser": optax.chain(clip, optax.chain(optax.scale_by_adam(), rate)),
    }
    return {name: optax.with_extra_args_support(each) for name, each in both.items()}


def _scale_by_rate(
    rate: Callable[[Array, Array], Array], planned: int
) -> optax.GradientTransformationExtraArgs:
    """Steps of minus the rate, a function of the steps so far and of the run's horizon."""

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
        *,
        horizon: Array | None = None,
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        del params
        scale = -rate(state.count, jnp.asarray(planned) if horizon is None else horizon)
        scaled = jax.tree.map(lambda update: scale.astype(update.dtype) * update, updates)
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def _guidance_optimizer(settings: Optimization) -> optax.GradientTransformation:
    """Adam, AMSGrad or AdamW (Loshchilov and Hutter 2019), then the rates."""
    kind = settings.guidance_optimizer
    parts = [scale_by_amsgrad() if kind == "amsgrad" else optax.scale_by_adam()]
    if kind == "adamw":
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=is_decayed))
    if settings.tuning.layer_decay != 1:
        parts.append(optax.stateless(_by_depth(settings.tuning)))
    if settings.guidance_rate == "constant":
        parts.append(optax.scale(-settings.guidance_learning_rate))
    else:
        parts.append(_scale_by_rate(partial(guidance_rate, settings), settings.horizon))
    return optax.chain(*parts)


def _by_depth(tuning: Tuning) -> Callable[[optax.Updates, Any], optax.Updates]:
    """Scales updates by their parameters' share of the rate."""

    def scale(updates: optax.Updates, params: Any) -> optax.Updates:
        del params
        return jax.tree.map(lambda update, share: share * update, updates, tuning.rates(updates))

    return scale
