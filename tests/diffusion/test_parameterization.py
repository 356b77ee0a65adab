from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import parameterization, process, samplers
from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX
from diffmic_jax.diffusion.schedules import make_schedule
from diffmic_jax.types import Prior

SCHEDULE = make_schedule()


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
        link = SIGMOID if multi_label else SOFTMAX
        classes = (
            np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 3) if multi_label else np.eye(3)
        )
        y_t = mean + rng.standard_normal(3) * np.sqrt(1 - SCHEDULE.alpha_bar[t])
        log_density, log_prior = bayes(mean, y_t, t, classes)
        log_joint = log_density + (log_prior if multi_label else np.log(mean))
        weights = np.exp(log_joint - log_joint.max())
        expected = weights @ classes / weights.sum()
        y_t, prior = jnp.float32(y_t)[None], Prior(jnp.float32(mean)[None], jnp.zeros((1, 0)), 0)
        found = parameterization.posterior(
            jnp.zeros((1, 3)), y_t, jnp.int32(t), prior, link=link, schedule=SCHEDULE
        )
        np.testing.assert_allclose(link.activate(found.logits)[0], expected, atol=2e-4)
        y0_hat = process.predict_y0(SCHEDULE, y_t, t, found.eps_hat, mean)
        np.testing.assert_allclose(y0_hat[0], expected, atol=2e-3)


def test_samples_of_the_posterior_are_as_common_as_the_guidance_prediction():
    mean, count = np.float32([0.6, 0.3, 0.1]), 2000
    prior = Prior(jnp.asarray(mean), jnp.zeros(0), 0)
    steps = samplers.timesteps(SCHEDULE, 250, "full")

    def eps_fn(y_t, t):
        return parameterization.posterior(
            jnp.zeros_like(y_t), y_t, t, prior, link=SOFTMAX, schedule=SCHEDULE
        ).eps_hat

    noise = jax.random.normal(jax.random.key(0), (251, count, 3))
    samples = samplers.ancestral(eps_fn, SCHEDULE, mean + noise[0], mean, steps, noise[1:])
    share = np.bincount(np.argmax(samples, axis=-1), minlength=3) / count
    np.testing.assert_allclose(share, mean, atol=0.035)  # three standard deviations
    assert np.abs(np.max(samples, axis=-1) - 1).max() < 0.01


def test_the_noise_itself_gives_the_label_that_it_was_added_to():
    label, mean = jnp.eye(3)[:2], jnp.full((2, 3), 1 / 3)
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    t = jnp.array([3, 700])
    y_t = process.q_sample(SCHEDULE, label, t, noise, mean)
    prior = Prior(mean, mean, 0)
    found = parameterization.eps(noise, y_t, t, prior, link=SOFTMAX, schedule=SCHEDULE)
    np.testing.assert_array_equal(found.eps_hat, noise)
    np.testing.assert_allclose(found.logits, label, atol=1e-4)
    np.testing.assert_allclose(found.certainty, SCHEDULE.alpha_bar[[3, 700]], rtol=1e-6)


def noisy(t, std=0.3):
    """Labels of residuals of standard deviation `std`, their noise and noisy labels, at t."""
    rng = np.random.default_rng(t)
    mean = jnp.float32(rng.dirichlet([2.0, 2.0, 2.0], 4000))
    label = mean + jnp.float32(std * rng.standard_normal(mean.shape))
    noise = jnp.float32(rng.standard_normal(mean.shape))
    return Prior(mean, mean, 0), label, noise, process.q_sample(SCHEDULE, label, t, noise, mean)


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_the_output_that_each_parameterization_is_after_gives_label_and_noise(t):
    prior, label, noise, y_t = noisy(t)
    ab = SCHEDULE.alpha_bar[t]
    residual = label - prior.mean
    q = np.sqrt(ab * process.LABEL_STD**2 + 1 - ab)
    linear = np.sqrt(ab) * process.LABEL_STD**2 * (y_t - prior.mean) / q**2
    left = (residual - linear) * q / (np.sqrt(1 - ab) * process.LABEL_STD)
    outputs = {
        "y0": residual,
        "v": np.sqrt(ab) * noise - np.sqrt(1 - ab) * residual,
        "edm": left,
    }
    # The network of `edm` has an output of unit variance at every timestep.
    np.testing.assert_allclose(np.std(left), 1, atol=0.02)
    for name, output in outputs.items():
        found = parameterization.PARAMETERIZATIONS[name](
            output, y_t, t, prior, link=SOFTMAX, schedule=SCHEDULE
        )
        np.testing.assert_allclose(found.logits, label, atol=1e-4, err_msg=name)
        # At t = 0 the noise is a hundredth of the state.
        np.testing.assert_allclose(found.eps_hat, noise, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(found.certainty, ab, rtol=1e-6, err_msg=name)


def test_a_network_of_zeros_returns_the_prior_mean_unless_it_predicts_the_noise():
    prior, _, _, y_t = noisy(999)
    for name, found in parameterization.PARAMETERIZATIONS.items():
        estimate = found(jnp.zeros_like(y_t), y_t, 999, prior, link=SOFTMAX, schedule=SCHEDULE)
        y0_hat = process.predict_y0(SCHEDULE, y_t, 999, estimate.eps_hat, prior.mean)
        error = np.abs(y0_hat - prior.mean).max()
        assert (error < 0.05) == (name != "eps"), (name, error)


def test_v_is_the_linear_estimate_for_residuals_of_unit_variance(monkeypatch):
    monkeypatch.setattr(parameterization, "LABEL_STD", 1.0)
    prior, _, noise, y_t = noisy(300)
    by_edm, by_v = (
        found(sign * noise, y_t, 300, prior, link=SOFTMAX, schedule=SCHEDULE).logits
        for found, sign in ((parameterization.edm, -1), (parameterization.v, 1))
    )
    np.testing.assert_allclose(by_edm, by_v, atol=1e-5)
