"""A prediction is a Python loop over the steps of the papers, with noise that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import content_hash, predict_step
from diffmic_jax.method.state import of_network
from diffmic_jax.types import Batch, Guidance, Variables
from tests.tiny import make_method, variables_of

KEY, SAMPLES = jax.random.key(3), 2
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
"""The paper's schedule; the last entry is that of t = -1, the clean end."""
STEPS = {"v1": (999, 500, 0), "v1_public": (2, 1, 0), "v2": (666, 333, 0)}
"""Three timesteps of each recipe: over the whole chain, its first ones, multiples of 1000 // 3."""


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def noise_of(number: int, sample: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise of one sample of the image of a number: a row for the start, one for each step."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, 0), number), sample)
    return np.asarray(jax.random.normal(key, (3, *shape)), np.float64)


def prior(name: str, guidance: Guidance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the diffusion, condition of the denoiser, and centre of the start, of a batch."""
    logits = (guidance.fused, guidance.global_, guidance.local)
    fused, of_image, of_regions = (np.asarray(each, np.float64) for each in logits)
    if name == "v2":  # raw logits: the image's on the diagonal, the regions' in the corners
        cells = [[of_image, of_regions], [of_regions, of_image]]
        dense = np.moveaxis(np.array(cells), 2, 0)
        return np.zeros_like(dense), dense, dense
    if name == "v1_public":
        return (softmax(fused),) * 3
    of_image, of_regions = softmax(of_image), softmax(of_regions)
    mean = (of_image + of_regions) / 2
    return mean, np.concatenate([of_image, of_regions], axis=-1), mean


def after(name: str, y: np.ndarray, eps: np.ndarray, m: np.ndarray, t: int, t_next: int) -> Any:
    """y0_hat, mean of the next state, and its standard deviation."""
    ab, ab_next = ALPHA_BAR[t], ALPHA_BAR[t_next]
    y0 = (y - (1 - np.sqrt(ab)) * m - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
    if name == "v2":  # DDIM; the noise stays as it was predicted
        y0 = np.clip(y0, -1, 1)
        return y0, np.sqrt(ab_next) * y0 + np.sqrt(1 - ab_next) * eps, 0.0
    # The posterior of plain DDPM on the residual y - m.
    a = ab / ab_next
    residual = (1 - a) * np.sqrt(ab_next) * (y0 - m) + (1 - ab_next) * np.sqrt(a) * (y - m)
    return y0, m + residual / (1 - ab), np.sqrt((1 - ab_next) / (1 - ab) * (1 - a))


def networks(method: Method, variables: Variables, image: np.ndarray) -> tuple[Guidance, Callable]:
    """The guidance prediction for normalised images, and the plain denoiser on them."""
    guide, denoiser = method.guidance, method.denoiser
    assert denoiser is not None
    guidance = jax.jit(lambda v, x: guide.apply(v, x, False))(
        of_network(variables, "guidance"), image
    )
    own = of_network(variables, "denoiser")
    features = jax.jit(lambda v, *x: denoiser.apply(v, *x, False, method="encode"))(
        own, image, guidance.patches
    )
    run = jax.jit(lambda v, y, m, t: denoiser.apply(v, y, m, t, features, False))
    return guidance, lambda y, m, t: run(own, jnp.float32(y), jnp.float32(m), t)


@pytest.mark.parametrize("name", STEPS)
def test_a_prediction_is_a_loop_over_the_steps(name):
    method = make_method(name)
    variables = variables_of(method)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    image = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    guidance, denoise = networks(method, variables, image.astype(np.float32))
    mean, condition, start = prior(name, guidance)

    samples, numbers = [], np.asarray(content_hash(pixels))
    for s in range(SAMPLES):
        noise = np.stack([noise_of(i, s, mean.shape[1:]) for i in numbers], axis=1)
        y = start + noise[0]
        for i, t in enumerate(STEPS[name]):
            t_next = (*STEPS[name], -1)[i + 1]
            eps = np.asarray(denoise(y, condition, t), np.float64)
            y0, y, std = after(name, y, eps, mean, t, t_next)
            if t_next >= 0:  # the first row was that of the start
                y = y + std * noise[i + 1]
        samples.append(y0.mean(axis=(1, 2)) if name == "v2" else y0)

    batch = Batch(jnp.asarray(pixels), np.zeros(3, np.int32), np.ones(3, np.float32))
    found = jax.jit(lambda v, b: predict_step(method, v, b, KEY))(variables, batch)
    np.testing.assert_allclose(found.y0_hat, samples, rtol=2e-4, atol=2e-4)
    label = np.mean(samples, axis=0)
    if name == "v1_public":
        np.testing.assert_allclose(found.probabilities, softmax(label), atol=1e-4)
    else:
        clipped = np.clip(label, 0, 1)
        total = clipped.sum(axis=-1, keepdims=True)
        expected = np.where(total > 0, clipped / np.where(total > 0, total, 1), 1 / 3)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)
    np.testing.assert_array_equal(found.probabilities.argmax(-1), label.argmax(-1))
