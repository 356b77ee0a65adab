"""Priors: from the guidance prediction to the means and conditions of the diffusion.

The first prior of a method belongs to the noise MSE, each further one to an MMD term: without MMD
there is one prior, in v1 there are three. In v2 the mean is 0 and the guidance prediction is only a
condition, made of raw logits.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.types import Array, Guidance, Prior

Activation = Callable[[Array], Array]
"""From logits to probabilities: softmax, or sigmoid for multi-label."""


def fused_priors(guidance: Guidance, activate: Activation = jax.nn.softmax) -> tuple[Prior, ...]:
    """Three means, each also the condition, read by one shared projection (public v1).

    The main mean is the probability from the averaged logits.
    """
    logits = (guidance.fused, guidance.global_, guidance.local)
    means = [activate(branch) for branch in logits]
    return tuple(Prior(mean, mean, 0) for mean in means)


def dual_priors(guidance: Guidance, activate: Activation = jax.nn.softmax) -> tuple[Prior, ...]:
    """The main stream's condition is both branches, each MMD stream's is one (v1, Eq. 3 and 5).

    The main mean is the average of the two probabilities (Eq. 1). There is one projection per
    stream, since their conditions differ in width and meaning.
    """
    global_, local = activate(guidance.global_), activate(guidance.local)
    both = jnp.concatenate([global_, local], axis=-1)
    return (
        Prior((global_ + local) / 2, both, 0),
        Prior(global_, global_, 1),
        Prior(local, local, 2),
    )


def no_priors(guidance: Guidance, activate: Activation = jax.nn.softmax) -> tuple[Prior, ...]:
    """Mean 0 and an empty condition: plain diffusion (v1's ablation C1)."""
    del activate
    return _centred(guidance.fused[..., :0], guidance.fused)


def global_priors(guidance: Guidance, activate: Activation = jax.nn.softmax) -> tuple[Prior, ...]:
    """The global logits are the condition (v2's ablation)."""
    del activate
    return _centred(guidance.global_, guidance.global_)


def local_priors(guidance: Guidance, activate: Activation = jax.nn.softmax) -> tuple[Prior, ...]:
    """The local logits are the condition (v2's ablation)."""
    del activate
    return _centred(guidance.local, guidance.local)


def map_priors(
    guidance: Guidance, activate: Activation = jax.nn.softmax, *, size: int
) -> tuple[Prior, ...]:
    """The dense guidance map is the condition of a map of labels (v2, section on the map prior).

    Args:
      guidance: logits.
      activate: not used: the map is made of raw logits.
      size: cells along each side of the map.
    """
    del activate
    dense = guidance_map(guidance.global_, guidance.local, size)
    return _centred(dense, dense)


def _centred(condition: Array, like: Array) -> tuple[Prior, ...]:
    """One prior of mean 0, of the shape of an array."""
    return (Prior(jnp.zeros_like(like), condition, 0),)


def guidance_map(
    global_: Float[Array, "*s c"], local: Float[Array, "*s c"], size: int
) -> Float[Array, "*s {size} {size} c"]:
    """Logits [..., C] of both branches blended over a grid, [..., size, size, C].

    Cell (i, j) is (1 - d) global + d local with d = |i - j| / (size - 1): the diagonal is global,
    the far corners are local.
    """
    index = np.arange(size)
    distance = np.abs(index[:, None] - index) / max(size - 1, 1)
    d = jnp.asarray(distance, jnp.result_type(global_))[..., None]
    return (1 - d) * global_[..., None, None, :] + d * local[..., None, None, :]


def start_at_mean(prior: Prior, noise: Float[Array, "*s c"]) -> Float[Array, "*s c"]:
    """Noise around the prior mean; around 0 in v2 (its Algorithm 2)."""
    return prior.mean + noise


def start_at_map(prior: Prior, noise: Float[Array, "*s c"]) -> Float[Array, "*s c"]:
    """Noise around the condition (v2, Eq. 10)."""
    return prior.condition + noise


def start_at_random_map(prior: Prior, noise: Float[Array, "*s k k c"]) -> Float[Array, "*s k k c"]:
    """A guidance map of two vectors uniform in [0, 1) (the authors' v2 code).

    The vectors are the noise of two cells, by the normal distribution function.
    """
    first, second = (jax.scipy.stats.norm.cdf(noise[..., 0, i, :]) for i in (0, -1))
    return guidance_map(first, second, prior.mean.shape[-2])


PRIORS: dict[str, Callable[..., tuple[Prior, ...]]] = {
    "none": no_priors,
    "global": global_priors,
    "local": local_priors,
    "fused": fused_priors,
    "dual": dual_priors,
    "map": map_priors,
}
"""(guidance prediction, *, activate) -> priors; `map` takes the `size` of the map too."""
INITIALS: dict[str, Callable[[Prior, Array], Array]] = {
    "mean": start_at_mean,
    "map": start_at_map,
    "random_map": start_at_random_map,
}
"""(prior, noise [S, B, *L, C]) -> start of the reverse process."""
