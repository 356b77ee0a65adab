from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX
from diffmic_jax.method import objectives
from diffmic_jax.types import Guidance


@pytest.mark.parametrize("link", [SOFTMAX, SIGMOID])
def test_what_the_guidance_gets_wrong_counts_more(link):
    sure, target = jnp.array([[9.0, -9.0], [-9.0, 9.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0]] * 3)
    guidance = Guidance(sure, *[None] * 6)
    np.testing.assert_allclose(
        objectives.focal_weight(guidance, target, link=link), [1, 11, 6], atol=0.01
    )
    np.testing.assert_array_equal(objectives.uniform_weight(guidance, target, link=link), [1, 1, 1])


def test_each_branch_of_the_guidance_can_have_its_own_loss():
    right, wrong = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
    guidance = Guidance((right + wrong) / 2, right, wrong, *[None] * 4)
    target, rest = jnp.array([[1.0, 0.0]]), {"link": SOFTMAX, "counts": (1, 1)}
    np.testing.assert_allclose(objectives.fused(guidance, target, **rest), math.log(2), rtol=1e-6)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    np.testing.assert_allclose(objectives.branches(guidance, target, **rest), expected, rtol=1e-6)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_balanced_loss_is_least_where_rare_classes_are_raised(balance):
    # Images that look alike, 9 of one class and 1 of the other.
    counts = (9, 1)
    share = np.array(counts) / 10
    best = np.log(share) * (1 - balance)
    labels = np.eye(2)[[0] * 9 + [1]]

    def loss(logits):
        given = jnp.broadcast_to(jnp.float32(logits), labels.shape)
        return objectives.label_loss(
            given, labels, link=SOFTMAX, counts=counts, balance=balance
        ).mean()

    assert all(loss(best) < loss(best + [shift, 0]) for shift in (-0.1, 0.1))
