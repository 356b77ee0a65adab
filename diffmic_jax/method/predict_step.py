"""The prediction step: guidance, reverse process, readout; a pure function of variables and key."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.method.build import Method
from diffmic_jax.method.state import of_network
from diffmic_jax.method.train_step import guide, without_conditioning
from diffmic_jax.nn import folded
from diffmic_jax.nn.folded import Folded
from diffmic_jax.types import Array, Batch, Guidance, Prediction, Variables


def predict_step(
    method: Method, variables: Variables, batch: Batch, key: Array, ready: Folded | None = None
) -> Prediction:
    """Classify a batch: guidance and image embedding once, then all samples side by side.

    Without a denoiser the one sample is the prior mean, the limit of no reverse step.

    Args:
      method: static under `jit`.
      variables: parameters and statistics, keyed by network.
      batch: images as bytes or normalised; labels are not used, padding rows get a result too.
      key: random key of the samples.
      ready: `fold` of the method and the variables; None computes it here.
    """
    batch = batch._replace(image=method.preprocess.normalise(batch.image))
    guidance = guide(method, variables, batch)
    ready = fold(method, variables) if ready is None else ready
    if ready is None:
        y0_hat = method.priors(guidance)[0].mean[None]
    else:
        y0_hat = _sample(method, variables, batch, key, guidance, ready)
    sampling = method.sampling
    own = method.task.link.activate(guidance.fused)
    weight = sampling.ensemble_weight
    probabilities = (1 - weight) * sampling.readout(y0_hat) + weight * own
    return Prediction(probabilities, y0_hat.std(axis=0), y0_hat, guidance)


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
    key: Array,
    guidance: Guidance,
    ready: Folded,
) -> Array:
    """Samples y0_hat [S, B, C] of a batch; arguments as in `predict_step`."""
    sampling = method.sampling
    features = embed(method, variables, batch, guidance)
    unconditional = sampling.is_unconditional[:, None, None]
    prior = method.priors(without_conditioning(guidance, unconditional))[0]
    respond = folded.on_images(ready, prior.condition, features)
    row_of = np.zeros(method.schedule.num_train_steps, np.int32)
    row_of[sampling.timesteps] = np.arange(sampling.num_steps)

    def eps_fn(y_t: Array, t: Array) -> Array:
        return method.denoised(respond(y_t, jnp.asarray(row_of)[t]), y_t, t, prior).eps_hat

    noise = _noise(method, batch, key)
    y_init = sampling.initial(prior, noise[0])
    # The last row of a sampler's noise is unused: the start takes its place.
    y0_hat: Array = sampling.run(eps_fn, y_init, prior.mean, jnp.roll(noise, -1, axis=0))
    # The score of a class is its mean over the cells (v2).
    return y0_hat.mean(axis=tuple(range(2, 2 + len(method.cells))))


def _noise(method: Method, batch: Batch, key: Array) -> Array:
    """Standard normal noise [num_steps, S, B, *L, C], the start first.

    Every (image, sample) has a key of its own, made from the image's position in its split: neither
    the batching nor the number of samples changes a sample.
    """
    index = jnp.arange(len(batch.image)) if batch.index is None else batch.index
    shape = (method.sampling.num_steps, *method.cells, method.task.num_classes)

    def one(index: Array, sample: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, index), sample)
        return jax.random.normal(own, shape)

    samples = jnp.arange(method.sampling.num_samples)
    noise = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(index, samples)
    return jnp.moveaxis(noise, 2, 0)
