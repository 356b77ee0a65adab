"""Both links by hand."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX

P = np.float32([[0.5, 0.3, 0.2], [0.01, 0.09, 0.9]])


@pytest.mark.parametrize("link", [SOFTMAX, SIGMOID])
def test_logits_are_the_inverse_of_the_activation(link):
    np.testing.assert_allclose(link.activate(link.logits(jnp.asarray(P))), P, atol=1e-6)


def test_logits_of_certainty_are_finite():
    low = math.log(1e-6)
    certain = jnp.array([0.0, 1.0, 1e-7, 0.5])
    np.testing.assert_allclose(SOFTMAX.logits(certain), [low, 0, low, math.log(0.5)], atol=1e-4)
    np.testing.assert_allclose(SIGMOID.logits(certain), [low, -low, low, 0], atol=1e-4)


def test_several_labels_are_clipped_one_by_one():
    found = SIGMOID.project(jnp.array([-0.2, 0.0, 0.4, 1.0, 1.7]))
    np.testing.assert_allclose(found, [0, 0, 0.4, 1, 1])


def test_one_label_is_clipped_and_normalised():
    y = jnp.array([[0.5, 0.25, -0.1], [0.5, 1.0, 0.5], [1.2, 1.4, 1.3], [-3.0, -1.0, -2.0]])
    third = np.array([[0, 2, 1], [0, 2, 1]]) / 3 * 1e-3  # of those that became equal, by rank
    expected = [[2 / 3, 1 / 3, 0], [0.25, 0.5, 0.25], *((1 + third) / (3 + 1e-3))]
    np.testing.assert_allclose(SOFTMAX.project(y), expected, atol=2e-7)
    np.testing.assert_allclose(SOFTMAX.project(y[0]), expected[0], atol=2e-7)


def test_the_losses_are_those_of_one_label_and_of_several():
    logits, target = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0]])
    e = math.exp(2)
    np.testing.assert_allclose(SOFTMAX.likelihood(logits, target), [e / (1 + e)], rtol=1e-6)
    np.testing.assert_allclose(SOFTMAX.loss(logits, target), [math.log(1 + 1 / e)], rtol=1e-5)
    expected = (e / (1 + e) + 0.5) / 2
    np.testing.assert_allclose(SIGMOID.likelihood(logits, target), [expected], rtol=1e-6)
    expected = (math.log(1 + 1 / e) + math.log(2)) / 2
    np.testing.assert_allclose(SIGMOID.loss(logits, target), [expected], rtol=1e-5)
