from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from diffmic_jax.diffusion import readout
from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX


def test_the_clip_readout_renormalises_the_mean_sample():
    samples = jnp.array([[[0.6, 0.5, -1.0], [-1.0, -2.0, -3.0]], [[1.0, -0.1, 0.0], [-1.0] * 3]])
    np.testing.assert_allclose(
        readout.clip(samples, SOFTMAX), [[0.8, 0.2, 0.0], [1 / 3] * 3], atol=1e-6
    )
    np.testing.assert_allclose(
        readout.clip(samples, SIGMOID), [[0.8, 0.2, 0.0], [0.0] * 3], atol=1e-6
    )


def test_the_softmax_readout_is_of_the_mean_sample():
    samples = jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]])
    e = math.e
    np.testing.assert_allclose(readout.softmax(samples, SOFTMAX), [[1 / (1 + e), e / (1 + e)]])
    np.testing.assert_allclose(readout.softmax(samples, SIGMOID), [[1 / 2, e / (1 + e)]])
