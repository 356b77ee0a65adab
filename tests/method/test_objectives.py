from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import process, samplers
from diffmic_jax.diffusion.schedules import make_schedule
from diffmic_jax.method import objectives
from diffmic_jax.types import Guidance, Prior

SCHEDULE = make_schedule()


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


def bayes(mean, y_t, t, classes):
    """Posterior over all clean labels in `classes` [N, C], by densities in float64."""
    ab = SCHEDULE.alpha_bar[t]
    centre = np.sqrt(ab) * classes + (1 - np.sqrt(ab)) * mean
    log_density = -np.square(y_t - centre).sum(-1) / (2 * (1 - ab))
    log_prior = (classes * np.log(mean) + (1 - classes) * np.log(1 - mean)).sum(-1)
    return log_density, log_prior


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_without_output_the_posterior_is_bayes_rule(t):
    rng = np.random.default_rng(t)
    for multi_label in (False, True):
        mean = rng.dirichlet([1.0, 2.0, 3.0])
        link = objectives.MULTI_LABEL if multi_label else objectives.SINGLE_LABEL
        classes = (
            np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 3) if multi_label else np.eye(3)
        )
        y_t = mean + rng.standard_normal(3) * np.sqrt(1 - SCHEDULE.alpha_bar[t])
        log_density, log_prior = bayes(mean, y_t, t, classes)
        log_joint = log_density + (log_prior if multi_label else np.log(mean))
        weights = np.exp(log_joint - log_joint.max())
        expected = weights @ classes / weights.sum()
        prior = Prior(jnp.float32(mean), jnp.zeros(0), 0)
        found = objectives.denoise_posterior(
            jnp.zeros(3), jnp.float32(y_t), jnp.int32(t), prior, link=link, schedule=SCHEDULE
        )
        np.testing.assert_allclose(link.activate(found.logits), expected, atol=2e-4)
        y0_hat = process.predict_y0(SCHEDULE, y_t, t, found.eps_hat, mean)
        np.testing.assert_allclose(y0_hat, expected, atol=2e-3)


def test_draws_of_the_posterior_are_as_common_as_the_guess_says():
    mean, count = np.float32([0.6, 0.3, 0.1]), 2000
    prior = Prior(jnp.asarray(mean), jnp.zeros(0), 0)
    steps = samplers.timesteps(SCHEDULE, 250, "full")

    def eps_fn(y_t, t):
        return objectives.denoise_posterior(
            jnp.zeros_like(y_t), y_t, t, prior, link=objectives.SINGLE_LABEL, schedule=SCHEDULE
        ).eps_hat

    noise = jax.random.normal(jax.random.key(0), (251, count, 3))
    draws = samplers.ancestral(eps_fn, SCHEDULE, mean + noise[0], mean, steps, noise[1:])
    called = np.bincount(np.argmax(draws, axis=-1), minlength=3) / count
    np.testing.assert_allclose(called, mean, atol=0.035)  # three standard deviations
    assert np.abs(np.max(draws, axis=-1) - 1).max() < 0.01


def test_the_vote_counts_draws():
    draws = jnp.array([[[0.6, 0.5, -1.0]], [[1.0, -0.1, 0.0]], [[0.0, 0.0, 0.9]]])
    np.testing.assert_allclose(
        objectives.vote_readout(draws, objectives.SINGLE_LABEL), [[2 / 3, 0, 1 / 3]], atol=1e-6
    )
    np.testing.assert_allclose(
        objectives.vote_readout(draws, objectives.MULTI_LABEL), [[2 / 3, 0, 1 / 3]], atol=1e-6
    )


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_balanced_loss_is_least_where_rare_classes_are_raised(balance):
    # Images that look alike, 9 of one class and 1 of the other.
    counts = (9, 1)
    share = np.array(counts) / 10
    best = np.log(share) * (1 - balance)
    labels = np.eye(2)[[0] * 9 + [1]]

    def loss(logits):
        given = jnp.broadcast_to(jnp.float32(logits), labels.shape)
        link = objectives.SINGLE_LABEL
        return objectives.label_loss(given, labels, link, counts, balance).mean()

    assert all(loss(best) < loss(best + [shift, 0]) for shift in (-0.1, 0.1))
