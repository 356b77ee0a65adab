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
    guidance_rate,
    learning_rate,
    make_optimizers,
    scale_by_amsgrad,
)
from diffmic_jax.method.task import Task
from tests.helpers import check
from tests.tiny import make_method

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
    ours = learning_rate(optimization, jnp.asarray(steps), optimization.horizon)
    check("learning rate", ours, g["lr"], 1e-9)


def test_learning_rate_without_warm_up_starts_at_its_peak():
    settings = Optimization(
        learning_rate=1e-3,
        final_learning_rate=0.0,
        guidance_learning_rate=2e-4,
        guidance_optimizer="amsgrad",
        warmup_fraction=0.0,
        alone_steps=0,
        joint_steps=100,
        steps_per_rate=1,
        clip_norm=1.0,
        ema=False,
    )
    rates = [float(learning_rate(settings, step, 100)) for step in (0, 50, 100, 150)]
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


def tuned(**changes: object) -> Optimization:
    """Of ten guidance steps, one of which is warm-up."""
    changes = {f"guidance__{name}": value for name, value in changes.items()}
    plain = {"guidance__warmup_epochs": 0, "train__epochs": 10, "train__warmup_fraction": 0.1}
    return make_method("classifier", steps_per_epoch=2, **plain | changes).optimization


def test_adamw_shrinks_kernels_alone():
    optimization = tuned(optimizer="adamw", weight_decay=0.1, learning_rate=0.01)
    optimizer = make_optimizers(optimization)["guidance"]
    params = {
        "classifier": {"kernel": jnp.full(6, 2.0), "bias": jnp.full(6, 2.0)},
        "global_trunk": {
            "conv1": {"kernel": jnp.full(6, 2.0)},
            "bn1": {"scale": jnp.full(6, 2.0)},
            "cls_token": jnp.full(6, 2.0),
        },
    }
    state, expected = optimizer.init(params), {True: np.full(6, 2.0), False: np.full(6, 2.0)}
    m = v = np.zeros(6)
    for k, g in enumerate(gradients(20), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        for decayed, w in expected.items():
            expected[decayed] = w - 0.01 * (step + 0.1 * decayed * w)
        grads = jax.tree.map(lambda w, g=g: jnp.asarray(g), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert np.abs(expected[True] - expected[False]).min() > 0.01

    def compare(path: tuple, value: jax.Array) -> None:
        close = expected[path[-1].key == "kernel"]
        np.testing.assert_allclose(value, close, rtol=1e-5, err_msg=str(path))

    jax.tree.map_with_path(compare, params)


def test_the_cosine_of_the_guidance_spans_all_steps_in_which_it_learns():
    optimization = tuned(rate="cosine", learning_rate=0.5)  # 20 steps, 2 of them warm-up
    rates = [float(guidance_rate(optimization, step, 20)) for step in (0, 1, 2, 11, 20)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-7)
    optimizer, state = make_optimizers(tuned(rate="cosine", learning_rate=0.5)), {}
    state, found = optimizer["guidance"].init({"w": jnp.zeros(1)}), []
    for _ in range(4):
        update, state = optimizer["guidance"].update({"w": jnp.ones(1)}, state)
        found.append(-float(update["w"][0]))
    last = 0.5 * 0.5 * (1 + np.cos(np.pi / 18))
    np.testing.assert_allclose(found, [0, 0.25, 0.5, last], rtol=1e-3)


@pytest.mark.parametrize(
    ("recipe", "frozen", "steps"), [("v1", False, 70), ("v1", True, 30), ("gmic", True, 70)]
)
def test_the_guidance_steps_are_those_of_the_phases_in_which_it_learns(recipe, frozen, steps):
    method = make_method(
        recipe,
        steps_per_epoch=10,
        guidance__warmup_epochs=3,
        guidance__frozen=frozen,
        train__epochs=4,
    )
    settings = method.optimization
    rates = guidance_rate(settings, np.arange(100), settings.horizon)
    assert np.argmin(rates[1:]) + 1 == steps
    assert steps == sum(phase.steps for phase in method.phases if phase.guidance)
    assert settings.horizon == 70


def test_earlier_blocks_learn_more_slowly():
    rates = {"layer_decay": 0.5, "optimizer": "adam", "learning_rate": 1.0}
    optimization = tuned(backbone="tiny_two", **rates)
    optimizer = make_optimizers(optimization)["guidance"]
    trunk = {"conv1": 0.125, "bn1": 0.125, "layer1_0": 0.25, "layer2_0": 0.5}
    shares = {"global_trunk": {name: {"w": share} for name, share in trunk.items()}}
    shares["classifier"] = {"w": 1.0}
    params = jax.tree.map(lambda _: jnp.zeros(1), shares)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    jax.tree.map(lambda u, share: np.testing.assert_allclose(-u, share, rtol=1e-3), updates, shares)


@pytest.mark.parametrize("recipe", sorted({*recipes.NAMES} - {"strong", "plus"}))
def test_the_published_optimizers_have_two_parts(recipe):
    optimizer = make_optimizers(make_method(recipe).optimization)["guidance"]
    adam, rest = optimizer.init({"w": jnp.zeros(2)})
    kind = "ScaleByAdamState" if recipe == "v2" else "AmsgradState"
    assert (type(adam).__name__, rest) == (kind, optax.EmptyState())
