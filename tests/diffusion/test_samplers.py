"""The reverse samplers: a perfect denoiser, known moments, and the reference's loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import process, samplers
from diffmic_jax.diffusion.schedules import make_schedule
from tests.helpers import channels_last, check

SCHEDULE = make_schedule()


def perfect_eps(y0: np.ndarray, mean: np.ndarray) -> samplers.EpsFn:
    """The noise that leads from y0 to any y_t."""
    signal, noise = (
        jnp.asarray(np.sqrt(x), jnp.float32) for x in (SCHEDULE.alpha_bar, 1 - SCHEDULE.alpha_bar)
    )
    return lambda y, t: (y - signal[t] * y0 - (1 - signal[t]) * mean) / noise[t]


@pytest.mark.parametrize("start", ["full", "truncated", "leading"])
@pytest.mark.parametrize("sampler", [samplers.ancestral, samplers.ddim])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 3, 5)], ids=["labels", "maps"])
def test_perfect_denoiser_finds_y0(sampler, start, shape):
    rng = np.random.default_rng(0)
    y0, mean, y_init = rng.standard_normal((3, *shape)).astype(np.float32)
    steps = samplers.timesteps(SCHEDULE, 20, start)
    noise = rng.standard_normal((20, *shape)).astype(np.float32)
    ours, states = sampler(
        perfect_eps(y0, mean), SCHEDULE, y_init, mean, steps, noise, return_states=True
    )
    np.testing.assert_allclose(ours, y0, atol=1e-4)
    assert states.shape == (21, *shape)
    np.testing.assert_array_equal(states[0], y_init)
    np.testing.assert_array_equal(states[-1], ours)


def test_ancestral_samples_a_gaussian():
    # For labels N(mu, s^2) the best denoiser is known; sampling by it must give them back.
    mu, s, mean = 0.3, 0.5, -0.4
    signal, noise = (
        jnp.asarray(np.sqrt(x), jnp.float32) for x in (SCHEDULE.alpha_bar, 1 - SCHEDULE.alpha_bar)
    )

    def eps_fn(y, t):
        centre = signal[t] * mu + (1 - signal[t]) * mean
        return noise[t] * (y - centre) / (signal[t] ** 2 * s**2 + noise[t] ** 2)

    z = jax.random.normal(jax.random.key(0), (1001, 20_000, 1))
    steps = samplers.timesteps(SCHEDULE, 1000)
    ours = np.asarray(samplers.ancestral(eps_fn, SCHEDULE, mean + z[0], mean, steps, z[1:]))
    assert ours.mean() == pytest.approx(mu, abs=0.02)
    assert ours.std() == pytest.approx(s, rel=0.02)


def test_ddim_with_eta_1_is_ancestral():
    rng = np.random.default_rng(1)
    y_init, mean, other = rng.standard_normal((3, 4, 5)).astype(np.float32)
    steps = samplers.timesteps(SCHEDULE, 40, "truncated")
    noise = rng.standard_normal((40, 4, 5)).astype(np.float32)

    def eps_fn(y, t):
        return jnp.tanh(y + t / 1000 * other)

    arguments = (eps_fn, SCHEDULE, y_init, mean, steps, noise)
    np.testing.assert_allclose(
        samplers.ddim(*arguments, eta=1.0), samplers.ancestral(*arguments), atol=1e-5
    )


def test_ddim_without_eta_ignores_noise():
    y_init = np.ones((2, 3), np.float32)
    steps = samplers.timesteps(SCHEDULE, 5)
    arguments = (lambda y, t: jnp.sin(y), SCHEDULE, y_init, 0.0, steps)
    np.testing.assert_array_equal(
        samplers.ddim(*arguments), samplers.ddim(*arguments, np.ones((5, 2, 3), np.float32))
    )


def test_ddim_clips_y0_hat():
    steps = samplers.timesteps(SCHEDULE, 5)
    arguments = (lambda y, t: -3 * y, SCHEDULE, np.ones((2, 3), np.float32), 0.0, steps)
    assert np.abs(samplers.ddim(*arguments)).max() > 1
    assert np.abs(samplers.ddim(*arguments, clip=(-1, 1))).max() <= 1


@pytest.mark.parametrize("rederive_eps", [False, True])
def test_rederived_noise_leads_from_the_clipped_label_to_both_states(rederive_eps):
    steps = samplers.timesteps(SCHEDULE, 5)
    mean, bound = np.full((2, 3), 0.3, np.float32), 0.5

    def eps_fn(y, t):
        return 0.9 * y + 0.1

    _, states = samplers.ddim(
        eps_fn,
        SCHEDULE,
        np.ones((2, 3), np.float32),
        mean,
        steps,
        clip=(-bound, bound),
        rederive_eps=rederive_eps,
        return_states=True,
    )
    y, after, *_ = states
    y0_hat = process.predict_y0(SCHEDULE, y, steps[0], eps_fn(y, steps[0]), mean)
    assert np.abs(y0_hat).min() > bound
    clipped = jnp.clip(y0_hat, -bound, bound)
    before, behind = (
        process.predict_eps(SCHEDULE, state, t, clipped, mean)
        for state, t in zip((y, after), steps, strict=False)
    )
    assert np.allclose(before, behind, atol=1e-5) == rederive_eps


def test_timesteps():
    assert samplers.timesteps(SCHEDULE, 4, "truncated").tolist() == [3, 2, 1, 0]
    assert samplers.timesteps(SCHEDULE, 4, "full").tolist() == [999, 666, 333, 0]
    assert samplers.timesteps(SCHEDULE, 4, "leading").tolist() == [750, 500, 250, 0]
    for start in ("truncated", "full", "leading"):
        assert samplers.timesteps(SCHEDULE, 1000, start).tolist() == list(range(999, -1, -1))
    assert samplers.timesteps(SCHEDULE, 1, "full").tolist() == [999]


@pytest.mark.parametrize(
    ("kind", "num_steps", "start", "message"),
    [
        ("linear", 0, "full", "must be 1..1000, not 0"),
        ("linear", 1001, "full", "must be 1..1000, not 1001"),
        ("linear", 10, "middle", "'middle' is unknown"),
        ("jsd", 10, "full", "no signal at t=999"),
    ],
)
def test_timesteps_refuses(kind, num_steps, start, message):
    with pytest.raises(ValueError, match=message):
        samplers.timesteps(make_schedule(kind), num_steps, start)


def test_jsd_may_start_below_its_end():
    assert samplers.timesteps(make_schedule("jsd"), 10, "leading")[0] == 900


def test_ddim_with_eta_needs_noise():
    with pytest.raises(ValueError, match="needs noise"):
        samplers.ddim(lambda y, t: y, SCHEDULE, np.ones((1, 2)), 0.0, np.array([0]), eta=0.5)


@pytest.mark.parametrize(
    ("total", "num_steps"),
    [(1000, 10), (1000, 60), (1000, 100), (1000, 250), (1000, 1000), (100, 100)],
)
def test_golden_loops(golden, total, num_steps):
    g = golden("p_sample")
    name = f"loop_T{total}_n{num_steps}"
    schedule = make_schedule(num_steps=total, precision="public")
    steps = samplers.timesteps(schedule, num_steps, "truncated")
    start, mean = g[f"{name}_noise"][0], g["yT_mean"]

    def eps_fn(y, t):
        return y @ g["A"].T + g["y0_hat"] @ g["B"].T + t / 1000 * g["c"]

    # The reference's row 0 is the start; ours goes with the first step, and the last is unused.
    noise = np.roll(g[f"{name}_noise"], -1, axis=0)
    ours, states = samplers.ancestral(
        eps_fn, schedule, mean + start, mean, steps, noise, return_states=True
    )
    # From t = 999 the reference's own float32 noise is amplified.
    check(name, ours, g[f"{name}_out"], g[f"{name}_f64diff"] if num_steps == 1000 else 5e-6)
    if f"{name}_seq" in g:
        check(f"{name} states", states, g[f"{name}_seq"], 5e-6)


def run_golden_ddim(g, num_steps, clip):
    """Our DDIM on the closed-form model of v2_ddim.npz: y0_hat, states and timesteps."""
    steps = samplers.timesteps(SCHEDULE, num_steps, "leading")
    condition = channels_last(g["y0_map"]) @ g["B"].T

    def eps_fn(y, t):
        return y @ g["A"].T + condition + t / 1000 * g["c"]

    y_init = channels_last(g["yT"])
    ours, states = samplers.ddim(
        eps_fn, SCHEDULE, y_init, 0.0, steps, clip=clip, return_states=True
    )
    return ours, states, steps


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_golden_ddim(golden, num_steps):
    g = golden("v2_ddim")
    suffix = "" if num_steps == 10 else f"_n{num_steps}"
    ours, _, steps = run_golden_ddim(g, num_steps, (-1, 1))
    np.testing.assert_array_equal(steps, g[f"timesteps{suffix}"])
    check(f"ddim n{num_steps}", ours, channels_last(g[f"out{suffix}"]), 2e-5)


def test_golden_ddim_states(golden):
    g = golden("v2_ddim")
    ours, states, _ = run_golden_ddim(g, 10, (-1, 1))
    check("ddim states", states, channels_last(g["seq"]), 2e-5)
    check("ddim class scores", ours.mean((1, 2)), g["y_pred"], 2e-5)


def test_golden_ddim_without_clipping(golden):
    g = golden("v2_ddim")
    reference = channels_last(g["out_noclip"])
    ours, _, _ = run_golden_ddim(g, 10, None)
    check("ddim n10 unclipped", ours, reference, 2e-5 * max(1, np.abs(reference).max()))


@pytest.mark.parametrize("sampler", [samplers.ancestral, samplers.ddim])
def test_the_average_is_over_the_estimates_of_all_steps(sampler):
    steps = samplers.timesteps(SCHEDULE, 5, "full")
    estimates = np.linspace(-1, 1, 1000)  # of y0, by timestep
    mean, noise = 0.25, np.zeros((5, 2, 3), np.float32)

    def eps_fn(y, t):
        y0_hat = jnp.full_like(y, jnp.asarray(estimates, y.dtype)[t])
        return process.predict_eps(SCHEDULE, y, t, y0_hat, mean)

    run = sampler, eps_fn, SCHEDULE, np.ones((2, 3), np.float32), mean, steps, noise
    last, average = (run[0](*run[1:], average=average) for average in (False, True))
    np.testing.assert_allclose(last, estimates[steps[-1]], atol=1e-4)
    np.testing.assert_allclose(average, estimates[steps].mean(), atol=1e-4)
