"""The prediction step: guidance, reverse process, readout; a pure function of variables and key."""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt32

from diffmic_jax.method.build import Method
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.method.state import of_network
from diffmic_jax.method.train_step import guide, without_conditioning
from diffmic_jax.nn import folded
from diffmic_jax.nn.folded import Folded
from diffmic_jax.types import Array, Batch, Guidance, Prediction, Variables

FEATURES = 3
"""Axes of features in a batch; images have four."""


def predict_step(
    method: Method, variables: Variables, batch: Batch, key: Array, ready: Folded | None = None
) -> Prediction:
    """Classify a batch: guidance and image embedding once, then all samples side by side.

    Without a denoiser the one sample is the prior mean, the limit of no reverse step.

    With `sampling.flips` all of this happens for the image and for its mirrored copies, and the
    probabilities are the mean of theirs. The copies' samples are further samples: `y0_hat` has
    those of the image itself, then those of each copy, and `spread` is over all. `guidance` is that
    of the image itself, except for its fused logits, which are those of the mean probability.

    Args:
      method: static under `jit`.
      variables: parameters and statistics, keyed by network.
      batch: images as bytes or normalised, or features [B, M, F] of each image and its mirrored
        copies; labels are not used, padding rows get a result too.
      key: random key of the samples; an image has the same ones wherever it occurs.
      ready: `fold` of the method and the variables; None computes it here.
    """
    ready = fold(method, variables) if ready is None else ready
    copies = MIRRORS[method.sampling.flips]
    noise = None if ready is None else _noise(method, batch.image, key, len(copies))
    batch = batch._replace(image=method.preprocess.normalise(batch.image))
    # The copies of an image stay together, so that devices which share a batch share it evenly.
    images = batch.image
    if images.ndim != FEATURES:
        images = jnp.stack([jnp.flip(images, axes) for axes in copies], axis=1)
    rows = batch._replace(image=images.reshape(-1, *images.shape[2:]))
    found = _predict(method, variables, rows, noise, ready)
    return found if len(copies) == 1 else _mean_over_copies(method, found, len(copies))


def _predict(
    method: Method, variables: Variables, batch: Batch, noise: Array | None, ready: Folded | None
) -> Prediction:
    """The prediction for a batch of normalised images, each by itself."""
    guidance = guide(method, variables, batch)
    if ready is None or noise is None:
        y0_hat = method.priors(guidance)[0].mean[None]
    else:
        y0_hat = _sample(method, variables, batch, noise, guidance, ready)
    sampling = method.sampling
    own = method.task.link.activate(guidance.fused)
    weight = sampling.ensemble_weight
    probabilities = (1 - weight) * sampling.readout(y0_hat) + weight * own
    return Prediction(probabilities, y0_hat.std(axis=0), y0_hat, guidance)


def _mean_over_copies(method: Method, found: Prediction, copies: int) -> Prediction:
    """The prediction for B images from that for B times `copies` rows."""

    def mean(rows: Array) -> Array:
        return rows.reshape(-1, copies, rows.shape[-1]).mean(axis=1)

    def of_image(rows: Array) -> Array:
        return rows[::copies]

    link = method.task.link
    guidance = jax.tree.map(of_image, found.guidance)
    fused = link.logits(mean(link.activate(found.guidance.fused)))
    samples, _, classes = found.y0_hat.shape
    y0_hat = found.y0_hat.reshape(samples, -1, copies, classes)
    y0_hat = jnp.moveaxis(y0_hat, 2, 0).reshape(copies * samples, -1, classes)
    return Prediction(
        mean(found.probabilities), y0_hat.std(axis=0), y0_hat, guidance._replace(fused=fused)
    )


def fold(method: Method, variables: Variables) -> Folded | None:
    """The denoiser in the form that `predict_step` runs: worth keeping for many batches.

    None if the method has no denoiser.
    """
    if method.denoiser is None:
        return None
    own = of_network(variables, "denoiser")
    return folded.fold(method.denoiser, own, method.sampling.timesteps)


def embed(
    method: Method, variables: Variables, batch: Batch, guidance: Guidance
) -> Float[Array, "b d"]:
    """The denoiser's embedding [B, D] of a batch of normalised images, in evaluation mode."""
    assert method.denoiser is not None, "the recipe has no denoiser"
    run: Any = method.denoiser.apply
    own = of_network(variables, "denoiser")
    inputs = batch.image, guidance.patches, False, guidance.pooled
    return cast(Array, run(own, *inputs, method="encode"))


def _sample(
    method: Method,
    variables: Variables,
    batch: Batch,
    noise: Array,
    guidance: Guidance,
    ready: Folded,
) -> Array:
    """Samples y0_hat [S, B, C] of a batch; arguments as in `_predict`."""
    sampling = method.sampling
    features = embed(method, variables, batch, guidance)
    unconditional = sampling.is_unconditional[:, None, None]
    prior = method.priors(without_conditioning(guidance, unconditional))[0]
    respond = folded.on_images(ready, prior.condition, features)
    row_of = np.zeros(method.schedule.num_train_steps, np.int32)
    row_of[sampling.timesteps] = np.arange(sampling.num_steps)

    def eps_fn(y_t: Array, t: Array) -> Array:
        return method.denoised(respond(y_t, jnp.asarray(row_of)[t]), y_t, t, prior).eps_hat

    y_init = sampling.initial(prior, noise[0])
    # The last row of a sampler's noise is unused: the start takes its place.
    y0_hat: Array = sampling.run(eps_fn, y_init, prior.mean, jnp.roll(noise, -1, axis=0))
    # The score of a class is its mean over the cells (v2).
    return y0_hat.mean(axis=tuple(range(2, 2 + len(method.cells))))


def _noise(method: Method, images: Array, key: Array, copies: int) -> Array:
    """Standard normal noise [num_steps, S, B x `copies`, *L, C], the start first.

    Every (image, sample) has a key of its own, made from what the image shows: neither its place in
    a list, nor the batching, nor the number of samples changes a sample. Nor do copies change the
    samples of the image itself.
    """
    numbers = content_hash(images)
    samples = jnp.arange(method.sampling.num_samples)
    shape = (method.sampling.num_steps, *method.cells, method.task.num_classes)

    def of_copy(copy: int) -> Array:
        key_of_copy = jax.random.fold_in(key, copy)

        def one(number: Array, sample: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key_of_copy, number), sample)
            return jax.random.normal(own, shape)

        return jax.vmap(jax.vmap(one, (0, None)), (None, 0))(numbers, samples)

    noise = jnp.stack([of_copy(copy) for copy in range(copies)], axis=2)
    return jnp.moveaxis(noise.reshape(len(samples), -1, *shape), 2, 0)


def content_hash(images: UInt8[Array, "b ..."] | Float[Array, "b ..."]) -> UInt32[Array, " b"]:
    """A number [B] for what each of B images shows: equal arrays have equal numbers.

    It is computed with the prediction, on any device alike, so that every way to a prediction has
    the same samples. Each value is hashed with its place (the finalizer of MurmurHash3) and the
    hashes are added.

    Args:
      images: [B, ...] bytes, or float32.
    """
    if images.dtype == jnp.uint8:
        words = jnp.asarray(images, jnp.uint32)
    else:
        words = jax.lax.bitcast_convert_type(jnp.asarray(images, jnp.float32), jnp.uint32)
    place = jnp.arange(math.prod(words.shape[1:]), dtype=jnp.uint32).reshape(words.shape[1:])
    mixed = _mixed(words ^ _mixed(place + jnp.uint32(1)))
    return mixed.sum(axis=tuple(range(1, words.ndim)), dtype=jnp.uint32)


def _mixed(x: Array) -> Array:
    """A one-to-one map of 32-bit words in which every bit depends on all."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
