from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import objectives
from diffmic_jax.types import Guidance


@pytest.mark.parametrize("link", [objectives.SINGLE_LABEL, objectives.MULTI_LABEL])
def test_what_the_guidance_gets_wrong_counts_more(link):
    sure, target = jnp.array([[9.0, -9.0], [-9.0, 9.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0]] * 3)
    guidance = Guidance(sure, *[None] * 6)
    np.testing.assert_allclose(
        objectives.focal_weight(guidance, target, link), [1, 11, 6], atol=0.01
    )
    np.testing.assert_array_equal(objectives.uniform_weight(guidance, target, link), [1, 1, 1])


def test_each_branch_of_the_guidance_can_have_its_own_loss():
    right, wrong = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
    guidance = Guidance((right + wrong) / 2, right, wrong, *[None] * 4)
    target, link = jnp.array([[1.0, 0.0]]), objectives.SINGLE_LABEL
    np.testing.assert_allclose(
        objectives.fused_loss(guidance, target, link), math.log(2), rtol=1e-6
    )
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    np.testing.assert_allclose(
        objectives.branches_loss(guidance, target, link), expected, rtol=1e-6
    )


def test_the_clip_readout_renormalises_the_mean_draw():
    draws = jnp.array([[[0.6, 0.5, -1.0], [-1.0, -2.0, -3.0]], [[1.0, -0.1, 0.0], [-1.0] * 3]])
    np.testing.assert_allclose(
        objectives.clip_readout(draws, objectives.SINGLE_LABEL),
        [[0.8, 0.2, 0.0], [1 / 3] * 3],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        objectives.clip_readout(draws, objectives.MULTI_LABEL),
        [[0.8, 0.2, 0.0], [0.0] * 3],
        atol=1e-6,
    )


def test_the_softmax_readout_is_of_the_mean_draw():
    draws = jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]])
    e = math.e
    np.testing.assert_allclose(
        objectives.softmax_readout(draws, objectives.SINGLE_LABEL), [[1 / (1 + e), e / (1 + e)]]
    )
    np.testing.assert_allclose(
        objectives.softmax_readout(draws, objectives.MULTI_LABEL), [[1 / 2, e / (1 + e)]]
    )
