"""The forward process and its posterior: identities first, then the reference's numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import process
from diffmic_jax.diffusion.schedules import KINDS, make_schedule
from tests.helpers import check

SCHEDULE = make_schedule()
PUBLIC = make_schedule(precision="public")


def random_steps(seed: int, size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Pairs -1 <= t_prev < t < 1000."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 1000, size)
    return t, rng.integers(-1, t)


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_weights_sum_to_one(kind):
    weights = process.posterior_coefficients(make_schedule(kind), *random_steps(0))
    np.testing.assert_allclose(weights.y0_hat + weights.y_t + weights.prior_mean, 1, atol=1e-9)
    assert np.all(weights.variance >= 0)


def test_posterior_undoes_the_forward_process():
    # q(y_t_prev | y_0) must come out when y_t is averaged over q(y_t | y_0).
    t, t_prev = random_steps(1)
    g0, g1, g2, variance = process.posterior_coefficients(SCHEDULE, t, t_prev)
    ab, ab_prev = (process.alpha_bar_at(SCHEDULE, x) for x in (t, t_prev))
    y0, mean = 0.7, -1.3

    def centre(alpha_bar: np.ndarray) -> np.ndarray:
        return np.sqrt(alpha_bar) * y0 + (1 - np.sqrt(alpha_bar)) * mean

    np.testing.assert_allclose(g0 * y0 + g1 * centre(ab) + g2 * mean, centre(ab_prev), atol=1e-9)
    np.testing.assert_allclose(g1**2 * (1 - ab) + variance, 1 - ab_prev, atol=1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULE, PUBLIC], ids=["float64", "public"])
@pytest.mark.parametrize("t", [0, 1, 5, 999])
def test_clean_end_is_y0(schedule, t):
    y0, y_t, mean = np.random.default_rng(2).standard_normal((3, 4, 5))
    ours, variance = process.posterior(schedule, y0, y_t, t, -1, mean)
    np.testing.assert_allclose(ours, y0, atol=1e-3 if schedule is PUBLIC else 1e-6)
    assert variance == 0


@pytest.mark.parametrize("shape", [(), (4,), (4, 3, 3)], ids=["scalar", "per image", "per cell"])
def test_label_and_noise_are_found_again_in_q_sample(shape):
    rng = np.random.default_rng(3)
    y0, eps, mean = rng.standard_normal((3, *(shape or (4,)), 5)).astype(np.float32)
    t = jnp.asarray(rng.integers(0, 500, shape))
    y_t = process.q_sample(SCHEDULE, y0, t, eps, mean)
    np.testing.assert_allclose(process.predict_y0(SCHEDULE, y_t, t, eps, mean), y0, atol=2e-5)
    np.testing.assert_allclose(process.predict_eps(SCHEDULE, y_t, t, y0, mean), eps, atol=1e-3)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_q_sample_moments(t):
    eps = jax.random.normal(jax.random.key(0), (100_000, 2))
    y0, mean = np.array([1.0, 0.0]), np.array([0.2, 0.8])
    y_t = np.asarray(process.q_sample(SCHEDULE, y0, t, eps, mean))
    signal = np.sqrt(SCHEDULE.alpha_bar[t])
    std = np.sqrt(1 - SCHEDULE.alpha_bar[t])
    np.testing.assert_allclose(y_t.mean(0), signal * y0 + (1 - signal) * mean, atol=0.015 * std)
    np.testing.assert_allclose(y_t.std(0), std, rtol=0.01)


@pytest.mark.parametrize(("t", "t_prev"), [(3, 3), (3, 4), (1000, 5), (3, -2)])
def test_posterior_refuses_a_step_that_is_none(t, t_prev):
    with pytest.raises(ValueError, match="a reverse step needs"):
        process.posterior_coefficients(SCHEDULE, np.array(t), np.array(t_prev))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_antithetic_timesteps_come_in_mirrored_pairs(size):
    t = np.asarray(process.antithetic_timesteps(jax.random.key(size), (size,), 1000))
    assert t.shape == (size,)
    assert np.all((t >= 0) & (t < 1000))
    half = size // 2 + 1
    np.testing.assert_array_equal(t[half:], 999 - t[: size - half])


def test_antithetic_timesteps_reach_everywhere():
    t = process.antithetic_timesteps(jax.random.key(0), (4000,), 10)
    np.testing.assert_allclose(np.bincount(t, minlength=10) / 4000, 0.1, atol=0.02)


def test_golden_q_sample(golden):
    g = golden("q_sample")
    ours = process.q_sample(PUBLIC, g["y0"], g["t"], g["noise"], g["y0_hat"])
    check("q_sample", ours, g["y_t"], 1e-6)


def test_golden_q_sample_of_the_training_step(golden):
    g = golden("train_step")
    y0 = np.eye(5, dtype=np.float32)[g["labels"]]
    for stream, mean in (("", "hat"), ("_global", "global"), ("_local", "local")):
        ours = process.q_sample(PUBLIC, y0, g["t"], g["e"], g[f"y0_{mean}"])
        check(f"train_step y_t{stream}", ours, g[f"y_t{stream}"], 1e-6)


@pytest.mark.parametrize("num_steps", [100, 1000])
def test_golden_posterior_tables(golden, num_steps):
    g = golden("schedules")
    t = np.arange(1, num_steps)
    ours = process.posterior_coefficients(make_schedule(num_steps=num_steps), t, t - 1)
    names = ("posterior_mean_coeff_1", "posterior_mean_coeff_2", "posterior_variance")
    for name, value in zip(names, (ours.y0_hat, ours.y_t, ours.variance), strict=True):
        # The tables come from a float32 beta, which the steps themselves do not use.
        reference = g[f"linear_T{num_steps}_{name}"][1:]
        check(f"{name} T{num_steps}", value / reference, np.ones_like(reference), 3e-4)


def test_golden_single_steps(golden):
    g = golden("p_sample")
    for t, z, out, y0_reparam in zip(
        g["step_t"], g["step_z"], g["step_out"], g["y0_reparam"], strict=True
    ):
        eps_hat = g["y"] @ g["A"].T + g["y0_hat"] @ g["B"].T + t / np.float32(1000) * g["c"]
        y0_hat = process.predict_y0(PUBLIC, g["y"], t, eps_hat, g["yT_mean"])
        mean, variance = process.posterior(PUBLIC, y0_hat, g["y"], t, t - 1, g["yT_mean"])
        # The reference takes sqrt(alpha_bar) from 1 - alpha_bar, of which near T little is left.
        atol = 1e-3 * np.abs(y0_reparam).max() if t > 990 else 5e-6
        check(f"y0_reparam t={t}", y0_hat, y0_reparam, atol)
        check(f"p_sample t={t}", mean + np.sqrt(variance) * z, out, 5e-6)


def test_golden_last_step(golden):
    g = golden("p_sample")
    eps_hat = g["y"] @ g["A"].T + g["y0_hat"] @ g["B"].T
    y0_hat = process.predict_y0(PUBLIC, g["y"], 0, eps_hat, g["yT_mean"])
    ours, _ = process.posterior(PUBLIC, y0_hat, g["y"], 0, -1, g["yT_mean"])
    check("p_sample t=1 to 0", ours, g["last_out"], 1e-6)


def test_golden_noise_of_cells(golden):
    g = golden("v2_parts")
    shape = (3, 2, 2)
    y, noise = (g[name].reshape(*shape, 4) for name in ("add_y", "add_noise"))
    ours = process.q_sample(SCHEDULE, y, g["add_t"].reshape(shape), noise, 0.0)
    check("v2 add_noise", ours, g["add_out"].reshape(*shape, 4), 2e-6)


def test_every_cell_has_a_timestep_of_its_own():
    t = np.asarray(process.uniform_timesteps(jax.random.key(0), (50, 6, 6), 10))
    np.testing.assert_allclose(np.bincount(t.ravel(), minlength=10) / t.size, 0.1, atol=0.02)
    assert np.all(np.ptp(t, axis=(1, 2)) > 0)
