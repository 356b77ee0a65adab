"""What must hold of any prediction, on small networks at 32 px."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import fold, predict_step
from diffmic_jax.types import Batch, Prediction, Variables
from tests.tiny import make_method, variables_of


@pytest.fixture(scope="module")
def method() -> Method:
    return make_method()


@pytest.fixture(scope="module")
def variables(method) -> Variables:
    return variables_of(method)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    label = np.arange(8, dtype=np.int32) % 3
    image[np.arange(8), :, :, label] += 1
    return Batch(jnp.asarray(image), label, np.ones(8, np.float32))


def predict(method: Method, variables: Variables, batch: Batch, **sampling: Any) -> Prediction:
    """A prediction with other values in `method.sampling`."""
    changed = dataclasses.replace(method.sampling, **sampling)
    method = dataclasses.replace(method, sampling=changed)
    run = jax.jit(lambda v, batch: predict_step(method, v, batch, jax.random.key(7)))
    return run(variables, batch)


@pytest.fixture(scope="module")
def prediction(method, variables, batch) -> Prediction:
    return predict(method, variables, batch)


def test_prediction(prediction):
    assert prediction.y0_hat.shape == (2, 8, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.spread, prediction.y0_hat.std(0), rtol=1e-6)
    assert np.all(prediction.spread > 0)


def test_prediction_depends_neither_on_batching_nor_on_the_number_of_samples(
    method, variables, batch, prediction
):
    # The same images in another order, beside padding, known by their positions.
    order = np.array([5, 2, 7])
    part = Batch(
        np.concatenate([batch.image[order], np.zeros((1, 32, 32, 3), np.float32)]),
        np.append(batch.label[order], 0),
        np.array([1, 1, 1, 0], np.float32),
        np.append(order, 0),
    )
    ours = predict(method, variables, part, num_samples=3)
    np.testing.assert_allclose(ours.y0_hat[:2, :3], prediction.y0_hat[:, order], atol=1e-4)

    # Samples of their own.
    assert np.abs(ours.y0_hat[0] - ours.y0_hat[1]).max() > 1e-3


def test_what_is_folded_once_serves_every_batch(method, variables, batch, prediction):
    ready = jax.jit(lambda v: fold(method, v))(variables)
    run = jax.jit(lambda v, b, ready: predict_step(method, v, b, jax.random.key(7), ready))
    found = run(variables, batch, ready)
    np.testing.assert_allclose(found.y0_hat, prediction.y0_hat, rtol=1e-5)


def test_without_a_denoiser_the_prediction_is_the_guidance_prediction(batch):
    method = make_method("gmic")
    variables = variables_of(method)
    assert fold(method, variables) is None
    found = predict(method, variables, batch)
    expected = jax.nn.softmax(found.guidance.fused)
    assert found.y0_hat.shape == (1, 8, 3)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(found.spread, np.zeros((8, 3)))
