"""What the two networks are trained for: losses of the guidance, and of noise and label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float, Real

from diffmic_jax.config import Train
from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.link import Link
from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.method import longtail
from diffmic_jax.method.longtail import Counts
from diffmic_jax.method.mixing import Mixed
from diffmic_jax.types import Array, Guidance, Timestep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The losses of both networks, and how their terms are weighted."""

    guidance_loss: Callable[[Guidance, Array], Array]
    """(guidance prediction, labels [B, C]) -> loss of each image [B]."""
    mix: Callable[[Array, Array, Array], Mixed] | None
    """(images [B, ...], labels [B, C], key) -> those that the guidance learns from; None: these."""
    image_weight: Callable[[Guidance, Array], Array]
    """(guidance prediction, labels [B, C]) -> weight of each image in the denoiser's loss [B]."""
    timestep_weight: Callable[[Timestep], Array]
    """Timesteps [B, *L] -> weights of their squared errors of the noise [B, *L]."""
    label_loss: Callable[[Array, Array], Array]
    """(logits, labels [B, *L, C]) -> loss of the denoised label [B, *L]."""
    weights: Train
    """`noise_weight`, `mmd_weight` (lambda in v1, Eq. 6) and `label_weight` of the terms."""
    conditioning_dropout: float
    """Share of the training images without conditioning."""


def fused(
    guidance: Guidance, target: Real[Array, "b c"], *, link: Link, counts: Counts
) -> Float[Array, " b"]:
    """Negative log-likelihood of the averaged logits (v1): [B]."""
    del counts
    return link.loss(guidance.fused, target)


def branches(
    guidance: Guidance, target: Real[Array, "b c"], *, link: Link, counts: Counts
) -> Float[Array, " b"]:
    """Mean of the losses of the global and the local branch (v2): [B]."""
    del counts
    return (link.loss(guidance.global_, target) + link.loss(guidance.local, target)) / 2


GUIDANCE_LOSSES: dict[str, Callable[..., Array]] = {
    "fused": fused,
    "branches": branches,
    **longtail.GUIDANCE_LOSSES,
}
"""(guidance prediction, labels [B, C], *, link, counts) -> [B]."""


def smoothed(
    loss: Callable[[Guidance, Array], Array], share: float, link: Link
) -> Callable[[Guidance, Array], Array]:
    """The loss of labels of which a share is the label of an image that nothing is known of.

    That has 1 / C in every entry where an image is of one class (Szegedy et al. 2016), and 1 / 2
    where any number of classes applies.
    """

    def of_smoothed(guidance: Guidance, target: Array) -> Array:
        unknown = link.activate(jnp.zeros_like(target))
        return loss(guidance, (1 - share) * target + share * unknown)

    return of_smoothed if share else loss


def uniform_weight(
    guidance: Guidance, target: Real[Array, "b c"], *, link: Link
) -> Float[Array, " b"]:
    """Every image has the weight 1: [B]."""
    del link
    return jnp.ones_like(guidance.fused, shape=target.shape[:1])


def focal_weight(
    guidance: Guidance, target: Real[Array, "b c"], *, link: Link
) -> Float[Array, " b"]:
    """1 + 10 (1 - p), p the guidance's probability of the true label (v2): [B]."""
    return losses.focal_weight(link.likelihood(guidance.fused, target))


IMAGE_WEIGHTS: dict[str, Callable[..., Array]] = {"uniform": uniform_weight, "focal": focal_weight}
"""(guidance prediction, labels [B, C], *, link) -> [B]."""


def timestep_weight(t: Timestep, *, kind: str, schedule: Schedule) -> Float[Array, "*s"]:
    """Weights of the timesteps t in the squared error of the noise, of the shape of t.

    Args:
      t: scalar or [B, *L].
      kind: a name in `losses.TIMESTEP_WEIGHTS`.
      schedule: the noise schedule.
    """
    ab = schedule.alpha_bar
    return jnp.asarray(losses.TIMESTEP_WEIGHTS[kind](ab / (1 - ab)), jnp.float32)[t]


def label_loss(
    logits: Float[Array, "b *l c"],
    label: Real[Array, "b *l c"],
    *,
    link: Link,
    counts: Counts,
    balance: float,
) -> Float[Array, " b *l"]:
    """Loss of the denoised label, [B, *L] from logits and labels [B, *L, C].

    With a balance of tau, the logits are those of a world where class c is count_c^(1 - tau) as
    common (logit adjustment, Menon et al. 2021).
    """
    if balance:  # single labels only, as `build` checks
        return longtail.logit_adjusted(logits, label, counts, balance)
    return link.loss(logits, label)
