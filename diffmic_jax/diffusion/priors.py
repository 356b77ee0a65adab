"""Priors: from the guidance's logits to the means and conditions of the diffusion.

The first prior of a recipe gives the noise MSE, each further one an MMD term. So the loss needs
no branch: without MMD there is one prior, in v1 there are three.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

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
    """The main stream sees both guesses, each MMD stream its own (v1, Eq. 3).

    The main mean is the average of the two probabilities. There is one projection per stream, since
    their conditions differ in width and meaning.
    """
    global_, local = activate(guidance.global_), activate(guidance.local)
    both = jnp.concatenate([global_, local], axis=-1)
    return (
        Prior((global_ + local) / 2, both, 0),
        Prior(global_, global_, 1),
        Prior(local, local, 2),
    )
