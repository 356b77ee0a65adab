"""What must hold of any training or prediction step, on small networks at 32 px."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Phase, Recipe, make_recipe
from diffmic_jax.nn.baselines.pvt import PVT
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.settings import resolve
from diffmic_jax.training.state import TrainState, init_state, init_variables
from diffmic_jax.types import Batch
from tests.helpers import arbitrary_variables, check
from tests.tiny import make_config


def tiny_recipe(dtype: str = "float32") -> Recipe:
    """The recipe `v1` with an average, on trunks that compile fast."""
    config = make_config(Path(), train__epochs=100, train__ema=True, train__dtype=dtype)
    config.train.warmup_fraction = 0.0
    recipe = make_recipe(resolve(config), num_classes=3, steps_per_epoch=10)
    trunk = ResNet((1, 1), width=8, stem="small", dtype=jnp.dtype(dtype))
    return dataclasses.replace(
        recipe,
        guidance=recipe.guidance.clone(global_trunk=trunk, local_trunk=trunk.clone()),
        denoiser=recipe.denoiser.clone(encoder=trunk.clone()),
    )


@pytest.fixture(scope="module")
def recipe():
    return tiny_recipe()


@pytest.fixture(scope="module")
def state(recipe):
    shapes = jax.eval_shape(lambda key: init_state(recipe, key), jax.random.key(0))
    variables = arbitrary_variables(shapes.variables())
    return TrainState(
        step=jnp.int32(0),
        **variables,
        opt_state=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state),
        ema_params=jax.tree.map(jnp.copy, variables["params"]),
        skipped=jnp.int32(0),
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    label = np.arange(8, dtype=np.int32) % 3
    image[np.arange(8), :, :, label] += 1
    return Batch(jnp.asarray(image), label, np.ones(8, np.float32))


@pytest.fixture(scope="module")
def train_joint(recipe):
    return jax.jit(lambda state, batch, key: steps.train_step(recipe, state, batch, key))


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are the same, bit for bit."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.parametrize("network", ["guidance", "denoiser"])
def test_what_does_not_learn_is_untouched(recipe, state, batch, network):
    alone = recipe.in_phase(Phase("alone", (network,), 1))
    after, scalars = jax.jit(lambda *x: steps.train_step(alone, *x))(
        state, batch, jax.random.key(1)
    )
    other = {"guidance": "denoiser", "denoiser": "guidance"}[network]
    for name in ("params", "batch_stats", "opt_state", "ema_params"):
        before, now = getattr(state, name), getattr(after, name)
        assert equal(before[other], now[other]), name
        assert not equal(before[network], now[network]), name
    assert ("loss" in scalars) == (network == "denoiser")
    assert ("guidance_loss" in scalars) == (network == "guidance")
    assert after.step == state.step + 1


def test_losses_fall_on_a_fixed_batch(state, batch, train_joint):
    history = []
    for _ in range(40):
        state, scalars = train_joint(state, batch, jax.random.key(2))
        history.append([float(scalars["loss"]), float(scalars["guidance_loss"])])
    first, last = np.mean(history[:10], axis=0), np.mean(history[-10:], axis=0)
    assert np.all(last < 0.8 * first)


def test_noise_follows_the_step_and_the_key(state, batch, train_joint):
    def mse(step, seed):
        return train_joint(state.replace(step=jnp.int32(step)), batch, jax.random.key(seed))[1][
            "mse"
        ]

    assert mse(0, 0) == mse(0, 0)
    assert len({float(mse(*x)) for x in ((0, 0), (1, 0), (0, 1))}) == 3


def test_golden_average(golden, recipe):
    # (1 + k) / (10 + k) is 0.9 at k = 80, and capped at 0.9999 from k = 89,990 on.
    g = golden("lr_ema")
    for decay, k in (("0.9", 80), ("0.9999", 10**6)):
        average = g["ema_w0"]
        for w, shadow in zip(g["ema_w"], g[f"ema_shadow_mu{decay}"], strict=True):
            state: Any = SimpleNamespace(
                step=jnp.int32(recipe.warmup_steps + k), ema_params={"denoiser": average}
            )
            average = steps._average(recipe, state, "denoiser", w)
            check(f"EMA at {decay}", average, shadow, 1e-6)


def test_average_follows_closely_at_first(state, batch, train_joint):
    after, _ = train_joint(state, batch, jax.random.key(3))
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.ema_params, after.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema_params, expected
    )
    assert after.variables(average=True)["params"] is after.ema_params
    assert after.variables()["params"] is after.params


def test_bfloat16_keeps_parameters_wide(batch):
    narrow = tiny_recipe("bfloat16")
    shapes = jax.eval_shape(lambda key: init_variables(narrow, key), jax.random.key(0))
    variables = arbitrary_variables(shapes)
    guidance = jax.jit(lambda v: steps.guide(narrow, v, batch))(variables)
    assert guidance.fused.dtype == jnp.float32
    t, eps = np.arange(8), np.ones((8, 3), np.float32)

    def loss(params):
        trial = variables | {"params": params}
        scalars, stats = steps.diffusion_loss(narrow, trial, batch, guidance, t, eps)
        return scalars["loss"], stats

    (value, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert np.isfinite(value) and value.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((stats, grads))} == {jnp.dtype("float32")}


def test_multi_hot_labels_are_their_own_targets(recipe):
    label = np.array([[0, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(steps.targets(recipe, label), label)
    np.testing.assert_array_equal(steps.targets(recipe, np.array([2, 0])), np.eye(3)[[2, 0]])


def predictor(recipe: Recipe, num_samples: int):
    sampling = dataclasses.replace(recipe.sampling, num_samples=num_samples)
    recipe = dataclasses.replace(recipe, sampling=sampling)
    return jax.jit(lambda v, batch: steps.predict_step(recipe, v, batch, jax.random.key(7)))


@pytest.fixture(scope="module")
def prediction(recipe, state, batch):
    return predictor(recipe, 2)(state.variables(), batch)


def test_prediction(prediction):
    assert prediction.y0_hat.shape == (2, 8, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.spread, prediction.y0_hat.std(0), rtol=1e-6)
    assert np.all(prediction.spread > 0)


def test_prediction_depends_neither_on_batching_nor_on_the_number_of_draws(
    recipe, state, batch, prediction
):
    # The same images in another order, beside padding, told by their positions.
    order = np.array([5, 2, 7])
    part = Batch(
        np.concatenate([batch.image[order], np.zeros((1, 32, 32, 3), np.float32)]),
        np.append(batch.label[order], 0),
        np.array([1, 1, 1, 0], np.float32),
        np.append(order, 0),
    )
    ours = predictor(recipe, 3)(state.variables(), part)
    np.testing.assert_allclose(ours.y0_hat[:2, :3], prediction.y0_hat[:, order], atol=1e-4)

    # Draws of their own.
    assert np.abs(ours.y0_hat[0] - ours.y0_hat[1]).max() > 1e-3


def test_statistics_are_those_of_the_stream_that_predicts(recipe, state, batch):
    t, eps = jnp.arange(8) * 100, jnp.ones((8, 3))

    def recorded(recipe: Recipe) -> Any:
        def run(variables):
            guidance = steps.guide(recipe, variables, batch)
            return steps.diffusion_loss(recipe, variables, batch, guidance, t, eps)[1]

        return jax.jit(run)(state.variables())

    alone = dataclasses.replace(recipe, priors=lambda guidance: recipe.priors(guidance)[:1])
    both = recorded(recipe), recorded(alone)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *both)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    variables = {"params": {"net": jnp.arange(1.0, 4.0)}, "batch_stats": {"net": jnp.zeros(())}}

    def loss(variables, x):
        # A mean over images, and statistics that count the calls.
        error = jnp.square(x @ variables["params"]["net"]).mean()
        return {"loss": error}, variables["batch_stats"]["net"] + 1, 2 * x

    def run(parts):
        return steps._gradients(loss, "loss", variables, "net", (x,), parts)

    (grads, scalars, *_), (ours, found, calls, answer) = run(1), run(parts)
    np.testing.assert_array_equal(answer, 2 * x)
    np.testing.assert_allclose(ours, grads, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], scalars["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["net_grad_norm"], scalars["net_grad_norm"], rtol=1e-5)
    assert calls == parts


def test_a_step_in_parts_takes_every_image_once(recipe, state, batch):
    changed = dataclasses.replace(
        recipe, optimization=dataclasses.replace(recipe.optimization, accumulate=2)
    )
    halves = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
    variables = state.variables()
    run = jax.jit(lambda v, b: steps.guidance_loss(recipe, v, b))
    expected = []
    for half in halves:
        scalars, stats, _ = run(variables, half)
        variables = variables | {"batch_stats": variables["batch_stats"] | {"guidance": stats}}
        expected.append(scalars["guidance_loss"])
    after, scalars = jax.jit(lambda *x: steps.train_step(changed, *x))(
        state, batch, jax.random.key(0)
    )
    np.testing.assert_allclose(scalars["guidance_loss"], np.mean(expected), rtol=1e-5)
    ours, theirs = after.batch_stats["guidance"], variables["batch_stats"]["guidance"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_shared_guidance_is_seen_as_it_trains_and_computed_once(recipe, state, batch):
    shared = dataclasses.replace(recipe, share_guidance=True)
    key = jax.random.key(3)
    compiled = {
        each: jax.jit(partial(steps.train_step, each)).lower(state, batch, key).compile()
        for each in (recipe, shared)
    }
    after, scalars = compiled[shared](state, batch, key)
    variables = state.variables()
    own = {kind: tree["guidance"] for kind, tree in variables.items()}
    guidance, _ = recipe.guidance.apply(own, batch.image, True, mutable=["batch_stats"])
    draws = steps._draws(recipe, batch, jax.random.fold_in(key, 0))
    expected, _ = steps.diffusion_loss(recipe, variables, batch, guidance, *draws[:2])
    assert scalars["loss"] == pytest.approx(float(expected["loss"]), rel=1e-4)
    apart, _ = compiled[recipe](state, batch, key)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5),
        after.params["guidance"],
        apart.params["guidance"],
    )

    def products(recipe: Recipe) -> int:
        text = compiled[recipe].as_text()
        return text.count(" convolution(") + text.count(" dot(")

    # Two trunks of six convolutions.
    assert products(recipe) - products(shared) >= 12


def test_a_trunk_without_statistics_learns(tmp_path, batch):
    config = resolve(make_config(tmp_path, "classifier"))
    plain = make_recipe(config, num_classes=3, steps_per_epoch=10)
    trunk = PVT((1,), (8,), (1,), (2,))
    recipe = dataclasses.replace(plain, guidance=plain.guidance.clone(global_trunk=trunk))
    before = jax.jit(partial(init_state, recipe))(jax.random.key(0))
    step = jax.jit(partial(steps.train_step, recipe))
    state, history = before, []
    for _ in range(20):
        state, scalars = step(state, batch, jax.random.key(1))
        history.append(float(scalars["guidance_loss"]))
    assert jax.tree.structure(state) == jax.tree.structure(before)
    assert state.batch_stats == {"guidance": {}, "denoiser": {}}
    assert history[-1] < 0.9 * history[0]
