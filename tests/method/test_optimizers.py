"""Optimizers against the reference's rates and the update rules written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffmic_jax import recipes
from diffmic_jax.method.build import build
from diffmic_jax.method.optimizers import (
    Optimization,
    learning_rate,
    make_optimizers,
    scale_by_amsgrad,
)
from diffmic_jax.method.task import Task
from tests.helpers import check

STEPS_PER_EPOCH = 1000


@pytest.fixture(scope="module")
def optimization() -> Optimization:
    task = Task(class_names=tuple("abcde"))
    return build(recipes.get("v1"), task, steps_per_epoch=STEPS_PER_EPOCH).optimization


def test_golden_learning_rate(golden, optimization):
    # 1000 joint epochs, 40 of them warm-up: the defaults.
    g = golden("lr_ema")
    steps = np.rint(g["epoch"].astype(np.float64) * STEPS_PER_EPOCH)
    assert np.allclose(steps / STEPS_PER_EPOCH, g["epoch"], atol=1e-4)
    ours = learning_rate(optimization, jnp.asarray(steps))
    check("learning rate", ours, g["lr"], 1e-9)


def test_learning_rate_without_warm_up_starts_at_its_peak():
    settings = Optimization(
        learning_rate=1e-3,
        final_learning_rate=0.0,
        guidance_learning_rate=2e-4,
        guidance_optimizer="amsgrad",
        warmup_steps=0.0,
        joint_steps=100,
        steps_per_rate=1,
        clip_norm=1.0,
        ema=False,
    )
    rates = [float(learning_rate(settings, step)) for step in (0, 50, 100, 150)]
    np.testing.assert_allclose(rates, [1e-3, 5e-4, 0, 0], atol=1e-9)


def gradients(num_steps: int) -> np.ndarray:
    """Gradients whose size falls, where AMSGrad's memory shows, and now and then leaps."""
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(num_steps) % 50 == 10, 5, 1) * np.exp(-np.arange(num_steps) / 60)
    return (scale[:, None] * rng.standard_normal((num_steps, 6))).astype(np.float32)


def test_amsgrad_over_250_steps():
    grads = gradients(250)
    optimizer = scale_by_amsgrad()
    state = optimizer.init(jnp.zeros(6))
    update = jax.jit(optimizer.update)
    m = v = vmax = np.zeros(6)
    for k, g in enumerate(grads.astype(np.float64), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        vmax = np.maximum(vmax, v)
        expected = m / (1 - 0.9**k) / (np.sqrt(vmax / (1 - 0.999**k)) + 1e-8)
        ours, state = update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-6)


def test_amsgrad_is_not_optaxs():
    ours, theirs = scale_by_amsgrad(), optax.scale_by_amsgrad()
    states = [x.init(jnp.zeros(6)) for x in (ours, theirs)]
    for g in gradients(250):
        a, states[0] = ours.update(g, states[0])
        b, states[1] = theirs.update(g, states[1])
    assert np.abs(a - b).max() > 0.1 * np.abs(a).max()


def test_only_the_denoiser_is_clipped(optimization):
    # Adam forgets the scale of the first gradient, except beside its epsilon.
    optimizers = make_optimizers(optimization)
    params = {"w": jnp.zeros(2)}
    huge = {"w": jnp.array([3e4, 4e4])}
    adam = optimizers["denoiser"].update(huge, optimizers["denoiser"].init(params), params)[1]
    moments = next(
        x for x in jax.tree.leaves(adam, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    )
    np.testing.assert_allclose(moments.mu["w"], 0.1 * np.array([0.6, 0.8]), rtol=1e-5)
    state = optimizers["guidance"].init(params)
    _, (amsgrad, _) = optimizers["guidance"].update(huge, state, params)
    np.testing.assert_allclose(amsgrad.mu["w"], 0.1 * huge["w"], rtol=1e-5)


def test_guidance_rate_is_constant(optimization):
    optimizer = make_optimizers(optimization)["guidance"]
    state = optimizer.init(jnp.zeros(1))
    for _ in range(3):
        update, state = optimizer.update(jnp.ones(1), state)
        np.testing.assert_allclose(update, -2e-4, rtol=1e-3)
