"""Batches are predicted in order and joined; the network behind it is tested end to end."""

from __future__ import annotations

import numpy as np

from diffmic_jax.inference.predict import predict_batches
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.types import Array, Batch


def first_pixel(batch: Batch, key: Array) -> Outputs:
    """A predictor whose every output of a real row is the first pixel of its image."""
    pixel = batch.image[batch.mask > 0, 0, 0, :2] + key
    return Outputs(
        pixel, 10 * pixel, 20 * pixel, batch.label[batch.mask > 0], pixel[:, None], pixel
    )


def test_outputs_of_batches_are_joined_in_order_without_padding():
    images = np.arange(3 * 12.0).reshape(3, 2, 2, 3)
    batches = [
        Batch(images[:2], np.array([2, 0]), np.ones(2)),
        Batch(images[[2, 2]], np.array([1, 1]), np.array([1, 0])),
    ]
    found = predict_batches(first_pixel, batches, 0.5)
    expected = np.array([[0.5, 1.5], [12.5, 13.5], [24.5, 25.5]])
    np.testing.assert_array_equal(found.probabilities, expected)
    np.testing.assert_array_equal(found.std, 10 * expected)
    np.testing.assert_array_equal(found.guidance, 20 * expected)
    np.testing.assert_array_equal(found.label, [2, 0, 1])
    assert found.samples.shape == (3, 1, 2)
