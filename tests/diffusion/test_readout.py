from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import readout
from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX


def test_the_clip_readout_renormalises_the_mean_sample():
    samples = jnp.array([[[0.6, 0.5, -1.0], [-1.0, -2.0, -3.0]], [[1.0, -0.1, 0.0], [-1.0] * 3]])
    np.testing.assert_allclose(
        readout.clip(samples, SOFTMAX), [[0.8, 0.2, 0.0], [1 / 3] * 3], atol=1e-3
    )
    # Nothing is cut off above in the first image.
    np.testing.assert_allclose(readout.clip(samples, SOFTMAX)[0], [0.8, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(
        readout.clip(samples, SIGMOID), [[0.8, 0.2, 0.0], [0.0] * 3], atol=1e-6
    )


def test_the_softmax_readout_is_of_the_mean_sample():
    samples = jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]])
    e = math.e
    np.testing.assert_allclose(readout.softmax(samples, SOFTMAX), [[1 / (1 + e), e / (1 + e)]])
    np.testing.assert_allclose(readout.softmax(samples, SIGMOID), [[1 / 2, e / (1 + e)]])


@pytest.mark.parametrize(
    "mean",
    [[1.1, 1.3, -0.3], [1.01, 1.02, 1.03], [-0.3, -0.1, -0.2], [4e3, 4.001e3, 0.5], [0, 0, -9]],
)
def test_entries_that_clipping_makes_equal_keep_their_order(mean):
    p = np.asarray(readout.clip(jnp.float32(mean)[None, None], SOFTMAX))[0]
    clipped = np.clip(mean, 0, 1)
    expected = clipped / clipped.sum() if clipped.any() else np.full(3, 1 / 3)
    np.testing.assert_allclose(p, expected, atol=5e-4)
    np.testing.assert_allclose(p.sum(), 1, atol=1e-6)
    # In the six digits of predictions.csv as well.
    assert np.array([f"{value:.6g}" for value in p], float).argmax() == np.argmax(mean)
    np.testing.assert_array_equal(p > 0, clipped > 0 if clipped.any() else [True] * 3)


def test_the_order_of_any_mean_is_that_of_its_probabilities():
    mean = np.random.default_rng(0).normal(0.3, 0.8, (2000, 5)).astype(np.float32)
    p = np.asarray(readout.clip(jnp.asarray(mean)[None], SOFTMAX))
    np.testing.assert_array_equal(p.argmax(axis=1), mean.argmax(axis=1))
    ties = (p == p.max(axis=1, keepdims=True)).sum(axis=1)
    assert ties.max() == 1
    # Most are clipped, which makes ties of them.
    clipped = np.clip(mean, 0, 1)
    assert ((clipped == clipped.max(axis=1, keepdims=True)).sum(axis=1) > 1).mean() > 0.1
