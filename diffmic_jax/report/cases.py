"""What the model does with single images: where it looks and how it gets to its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffmic_jax.data.cache import Examples
from diffmic_jax.method.build import Recipe
from diffmic_jax.method.train_step import embed, predict_step
from diffmic_jax.nn.dcg import merge_classes
from diffmic_jax.nn.preprocess import normalise
from diffmic_jax.training.state import of_network
from diffmic_jax.types import Array, Batch, Prediction, Variables

LEVEL = 90
"""Percent of the draws within the band of a trajectory."""


class Case(NamedTuple):
    """One image under the model."""

    image: np.ndarray
    """[S, S, 3] uint8."""
    saliency: np.ndarray
    """[h, w] all classes together, from 0 (least) to 1 (most) within the image."""
    corners: np.ndarray
    """[K, 2] upper-left pixels (row, column)."""
    attention: np.ndarray
    """[K], sums to 1."""
    states: np.ndarray
    """[3, n + 1, C] low, mean and high of the label vector over the draws, noise first."""


def batch_of(examples: Examples, positions: np.ndarray) -> Batch:
    """The images at some positions of a part; their draws are those of the evaluation."""
    return Batch(
        examples.images(positions),
        examples.label[positions],
        np.ones(len(positions), np.float32),
        positions.astype(np.int32),
    )


def predict_with_states(
    recipe: Recipe, variables: Variables, batch: Batch, key: Array
) -> tuple[Prediction, Array]:
    """`predict_step`, and the states that the sampler went through, [n + 1, S, B, *L, C]."""
    seen: list[Array] = []

    def run(*args: Array) -> Array:
        y0_hat, states = recipe.sampling.run(*args, return_states=True)
        seen.append(states)
        return y0_hat

    watched = dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, run=run))
    prediction = predict_step(watched, variables, batch, key)
    # Without a denoiser nothing is walked through: the answer is the only state.
    return prediction, seen[0] if seen else prediction.y0_hat[None]


def make_look(recipe: Recipe) -> Callable[[Variables, Batch, Array], Case]:
    """A function (variables, batch of one image, key) -> the case of that image."""
    tail, draws = (100 - LEVEL) / 2, recipe.sampling.num_samples

    @jax.jit
    def step(variables: Variables, batch: Batch, key: Array) -> tuple[Array, ...]:
        prediction, states = predict_with_states(recipe, variables, batch, key)
        # A map of labels counts by its mean, as in the answer.
        states = states.reshape(len(states), draws, -1, recipe.num_classes).mean(axis=2)
        low, high = jnp.percentile(states, jnp.array([tail, 100 - tail]), axis=1)
        band = jnp.stack([low, states.mean(axis=1), high])
        guidance = prediction.guidance
        saliency = merge_classes(guidance.saliency)[0]
        return saliency, guidance.corners[0], guidance.attention[0], band

    def look(variables: Variables, batch: Batch, key: Array) -> Case:
        saliency, *rest = map(np.asarray, step(variables, batch, key))
        low, high = saliency.min(), saliency.max()
        return Case(batch.image[0], (saliency - low) / max(high - low, 1e-9), *rest)

    return look


def embeddings(
    recipe: Recipe,
    variables: Variables,
    examples: Examples,
    positions: np.ndarray,
    key: Array,
    at: np.ndarray,
) -> np.ndarray:
    """What the denoiser makes of the first draw's label vectors: its last hidden layer.

    Args:
      recipe: what to compute.
      variables: parameters and statistics.
      examples: a part of the data.
      positions: [N] images of it.
      key: random key of the draws.
      at: which of the sampler's n steps to look at.

    Returns:
      [len(at), N, D].
    """
    single = dataclasses.replace(recipe.sampling, num_samples=1, withhold=0.0)
    recipe = dataclasses.replace(recipe, sampling=single)
    assert recipe.denoiser is not None, "there is no hidden layer"
    apply = partial(recipe.denoiser.apply, mutable=["intermediates"])

    @jax.jit
    def step(variables: Variables, batch: Batch, key: Array) -> Array:
        prediction, states = predict_with_states(recipe, variables, batch, key)
        prior = recipe.priors(prediction.guidance)[0]
        own = of_network(variables, "denoiser")
        batch = batch._replace(image=normalise(batch.image))
        features = embed(recipe, variables, batch, prediction.guidance)
        hidden = []
        for i in at:
            t = jnp.asarray(recipe.sampling.timesteps[i])
            _, kept = apply(
                own,
                states[i, 0],
                prior.condition,
                t,
                features,
                False,
                prior.projection,
                capture_intermediates=_is_last_norm,
            )
            last: Any = kept["intermediates"][LAST_NORM]
            layer = nn.softplus(last["__call__"][0])
            hidden.append(layer.reshape(len(layer), -1, layer.shape[-1]).mean(axis=1))
        return jnp.stack(hidden)

    size = 50
    padded = np.resize(positions, -(-len(positions) // size) * size)
    parts = [
        step(variables, batch_of(examples, padded[i : i + size]), key)
        for i in range(0, len(padded), size)
    ]
    return np.concatenate(parts, axis=1)[:, : len(positions)]


LAST_NORM = "norms_2"
"""The denoiser's module whose softplus is its last hidden layer."""


def _is_last_norm(module: nn.Module, method: str) -> bool:
    return module.name == LAST_NORM and method == "__call__"
