"""Losses by hand and against the reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.process import LABEL_STD
from diffmic_jax.diffusion.schedules import make_schedule
from tests.helpers import check


@pytest.mark.parametrize("i", range(4))
def test_golden_mmd(golden, i):
    g = golden("mmd")
    x, y = g[f"x{i}"], g[f"y{i}"]
    check(f"kernel{i}", losses.gaussian_kernel(x, y), g[f"kernel{i}"], 1e-6)
    check(f"mmd{i}", losses.mmd(x, y), g[f"mmd{i}"], 1e-6)


def test_golden_mmd_gradient(golden):
    g = golden("mmd")
    gradient = jax.grad(losses.mmd, argnums=1)(g["x2"], g["y2"])
    check("mmd2 gradient", gradient, g["mmd2_grad_y"], 1e-7)


def test_mmd_of_two_points_by_hand():
    a, b = np.array([[0.0, 0.0]]), np.array([[2.0, 0.0]])
    # mean_d (a - b)^2 = 2, over C = 2: k = exp(-1).
    np.testing.assert_allclose(losses.gaussian_kernel(a, b), [[np.exp(-1)]], rtol=1e-6)
    np.testing.assert_allclose(losses.mmd(a, b), 2 - 2 * np.exp(-1), rtol=1e-6)


def test_mmd_tells_distributions_apart():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 500, 3))
    assert losses.mmd(a, a) == pytest.approx(0, abs=1e-6)
    assert losses.mmd(a, b) < 0.01
    assert losses.mmd(a, b + 3) > 10 * losses.mmd(a, b)


def test_noise_mse_is_per_image():
    eps, eps_hat = np.zeros((2, 3, 3, 4)), np.zeros((2, 3, 3, 4))
    eps_hat[1] = 2
    np.testing.assert_array_equal(losses.noise_mse(eps, eps_hat), [0, 4])


def test_cross_entropy():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]) + 5
    target = np.array([[1, 0, 0], [0, 0.5, 0.5]])
    expected = -np.log([0.7, np.sqrt(0.1 * 0.8)])
    np.testing.assert_allclose(losses.cross_entropy(logits, target), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "gamma", "alpha"), [("focal", 1, 10), ("focal_g2_a3", 2, 3)])
def test_golden_focal(golden, name, gamma, alpha):
    g = golden("v2_parts")
    confidence = losses.likelihood(g["prior"], g["targets"])
    weight = losses.focal_weight(confidence, gamma, alpha)
    ours = (weight * losses.noise_mse(g["noise_gt"], g["noise"])).mean()
    check(name, ours, g[name], 1e-5)


def test_the_likelihood_of_many_labels_is_a_mean_over_them():
    logits, target = np.array([[2.0, -1.0, 0.0]]), np.array([[1, 0, 1]])
    p = 1 / (1 + np.exp(-logits))
    expected = np.where(target, p, 1 - p).mean()
    np.testing.assert_allclose(losses.binary_likelihood(logits, target), [expected], rtol=1e-6)


def test_labels_that_are_not_known_are_in_no_loss():
    logits = jnp.array([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0]])
    target = jnp.array([[1.0, jnp.nan, 0.0], [jnp.nan] * 3])
    for loss in (losses.binary_cross_entropy, losses.binary_likelihood):
        expected = [loss(logits[0, ::2], target[0, ::2]), 0]
        np.testing.assert_allclose(loss(logits, target), expected, rtol=1e-6)
    slope = jax.grad(lambda x: losses.binary_cross_entropy(x, target).sum())(logits)
    np.testing.assert_array_equal(slope == 0, np.isnan(target))


def test_weights_of_the_timesteps_are_those_of_other_errors():
    """A squared error of the noise is that of the label times the signal-to-noise ratio."""
    ab = make_schedule().alpha_bar
    snr = ab / (1 - ab)
    of = {name: weight(snr) * snr for name, weight in losses.TIMESTEP_WEIGHTS.items()}
    np.testing.assert_allclose(of["noise"], snr)
    np.testing.assert_allclose(of["label"], 1)
    np.testing.assert_allclose(of["min_snr"], np.minimum(snr, 5))
    std = LABEL_STD
    out = np.sqrt(1 - ab) * std / np.sqrt(ab * std**2 + 1 - ab)  # label per output of `edm`
    np.testing.assert_allclose(of["edm"], 1 / out**2)


def test_noise_mse_weighs_every_cell_by_its_timestep():
    eps, eps_hat = np.ones((2, 3, 3, 4)), np.zeros((2, 3, 3, 4))
    weight = np.zeros((2, 3, 3))
    weight[1, 0, :] = [1, 2, 6]
    np.testing.assert_allclose(losses.noise_mse(eps, eps_hat, weight), [0, 1])
