"""The model on single images: its regions, its saliency, and the states of its sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffmic_jax.data.cache import Examples
from diffmic_jax.inference.load import Model
from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import embed, predict_step
from diffmic_jax.method.state import of_network
from diffmic_jax.types import Array, Batch, Prediction, Variables

LEVEL = 90
"""Percent of the samples within the band of a trajectory."""
LAST_NORM = "norms_2"
"""The denoiser's module whose softplus is its last hidden layer."""
ENOUGH = 8
"""Samples from which their range and votes are shown."""
LARGEST = 640
"""Pixels: the longer side of an image on a page."""
EMBED_BATCH = 50
"""Images per step of `embeddings`."""


class Case(NamedTuple):
    """One image and what the model computes for it."""

    image: np.ndarray
    """[H, W, 3] uint8."""
    saliency: np.ndarray
    """[h, w] merged over the classes, scaled to 0..1 within the image."""
    corners: np.ndarray
    """[K, 2] upper-left pixels (row, column) of the regions."""
    attention: np.ndarray
    """[K], sums to 1."""
    states: np.ndarray
    """[3, n + 1, C] low, mean and high of the label vector over the samples, noise first."""
    region_size: int
    """Side of a region in pixels."""
    timesteps: np.ndarray
    """[n] of the reverse steps, descending; none without diffusion."""
    samples: int
    """S of each image."""

    @property
    def has_path(self) -> bool:
        """Whether there is a path of the label vector: one step only has its ends."""
        return len(self.timesteps) > 1

    @property
    def has_spread(self) -> bool:
        """Whether the samples are enough to speak of their range."""
        return len(self.timesteps) > 0 and self.samples >= ENOUGH


class Original(NamedTuple):
    """An image as it is in its file, at most `LARGEST` pixels long."""

    pixels: np.ndarray
    """[H, W, 3] uint8."""

    @classmethod
    def of(cls, pixels: np.ndarray) -> Original:
        """Of decoded pixels [H, W, 3] uint8."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return cls(np.asarray(image))

    def thumbnail(self, side: int = 160) -> np.ndarray:
        """Its centre square [side, side, 3]."""
        left, top, length = self.square
        box = (left, top, left + length, top + length)
        size = (side, side)
        return np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX, box))

    @property
    def square(self) -> tuple[float, float, float]:
        """Left, top and side of the centre square that the networks see."""
        height, width = self.pixels.shape[:2]
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side


def batch_of(examples: Examples, positions: np.ndarray) -> Batch:
    """The images at some positions of a part."""
    return Batch(
        examples.images(positions),
        examples.label[positions],
        np.ones(len(positions), np.float32),
    )


def predict_with_states(
    method: Method, variables: Variables, batch: Batch, key: Array
) -> tuple[Prediction, Array]:
    """`predict_step` without flips, and the states of the sampler, [n + 1, S, B, *L, C]."""
    seen: list[Array] = []

    def run(*args: Array) -> Array:
        y0_hat, states = method.sampling.run(*args, return_states=True)
        seen.append(states)
        return y0_hat

    sampling = dataclasses.replace(method.sampling, run=run, flips="none")
    recording = dataclasses.replace(method, sampling=sampling)
    prediction = predict_step(recording, variables, batch, key)
    # Without a denoiser the only state is the prediction itself.
    return prediction, seen[0] if seen else prediction.y0_hat[None]


def make_explainer(model: Model) -> Callable[[Batch], Case]:
    """A function from a batch of one image to its case; compiled with the first one."""
    method = model.method
    step = jax.jit(partial(_explain, method))

    def explain(batch: Batch) -> Case:
        parts = step(model.variables, batch, model.sampling_key)
        saliency, corners, attention, states = map(np.asarray, parts)
        low, high = saliency.min(), saliency.max()
        return Case(
            image=np.asarray(batch.image[0]),
            saliency=(saliency - low) / max(high - low, 1e-9),
            corners=corners,
            attention=attention,
            states=states,
            region_size=method.guidance.region_size,
            timesteps=method.sampling.timesteps,
            samples=method.sampling.total_samples,
        )

    return explain


def _explain(method: Method, variables: Variables, batch: Batch, key: Array) -> tuple[Array, ...]:
    """Saliency, corners, attention and states of the first image of a batch."""
    prediction, states = predict_with_states(method, variables, batch, key)
    # A map of labels counts by its mean, as in the prediction.
    shape = (len(states), method.sampling.num_samples, -1, method.task.num_classes)
    states = states.reshape(shape).mean(axis=2)
    tail = (100 - LEVEL) / 2
    low, high = jnp.percentile(states, jnp.array([tail, 100 - tail]), axis=1)
    guidance = prediction.guidance
    return (
        method.guidance.merged(guidance)[0],
        guidance.corners[0],
        guidance.attention[0],
        jnp.stack([low, states.mean(axis=1), high]),
    )


def embeddings(
    model: Model, examples: Examples, positions: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """The denoiser's last hidden layer for the first sample, at some of the sampler's steps.

    Args:
      model: with a denoiser.
      examples: a part of the data.
      positions: [N] images of it.
      at: [M] which of the sampler's n steps, from 0.

    Returns:
      [M, N, D].
    """
    single = dataclasses.replace(model.method.sampling, num_samples=1, unconditional=0.0)
    step = jax.jit(partial(_hidden, dataclasses.replace(model.method, sampling=single), at))
    padded = np.resize(positions, -(-len(positions) // EMBED_BATCH) * EMBED_BATCH)
    parts = [
        step(model.variables, batch_of(examples, some), model.sampling_key)
        for some in padded.reshape(-1, EMBED_BATCH)
    ]
    return np.concatenate(parts, axis=1)[:, : len(positions)]


def _hidden(
    method: Method, at: np.ndarray, variables: Variables, batch: Batch, key: Array
) -> Array:
    """The last hidden layer [M, B, D] at steps `at`, a mean over the cells of a map."""
    assert method.denoiser is not None, "there is no hidden layer"
    prediction, states = predict_with_states(method, variables, batch, key)
    prior = method.priors(prediction.guidance)[0]
    batch = batch._replace(image=method.preprocess.normalise(batch.image))
    features = embed(method, variables, batch, prediction.guidance)
    apply = partial(
        method.denoiser.apply,
        of_network(variables, "denoiser"),
        mutable=["intermediates"],
        capture_intermediates=_is_last_norm,
    )
    layers = []
    for i in at:
        t = jnp.asarray(method.sampling.timesteps[i])
        y_t = states[i, 0]
        _, kept = apply(y_t, prior.condition, t, features, False, prior.projection)
        normalised: Any = kept["intermediates"][LAST_NORM]
        layer = nn.softplus(normalised["__call__"][0])
        layers.append(layer.reshape(len(layer), -1, layer.shape[-1]).mean(axis=1))
    return jnp.stack(layers)


def _is_last_norm(module: nn.Module, name: str) -> bool:
    return module.name == LAST_NORM and name == "__call__"
