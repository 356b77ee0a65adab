"""What must hold of any training step, on small networks at 32 px."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Method, Phase
from diffmic_jax.method.optimizers import make_optimizers, moving_average
from diffmic_jax.method.state import TrainState, init_state
from diffmic_jax.method.train_step import train_step
from diffmic_jax.method.updates import gradients
from diffmic_jax.nn.baselines.pvt import PVT
from diffmic_jax.types import Batch, Variables
from tests.helpers import arbitrary_variables, check
from tests.tiny import make_method, variables_of


def averaging_method(dtype: str = "float32") -> Method:
    """The recipe `v1` with an average."""
    return make_method(
        steps_per_epoch=10,
        train__epochs=100,
        train__ema=True,
        train__dtype=dtype,
        train__warmup_fraction=0.0,
    )


@pytest.fixture(scope="module")
def method() -> Method:
    return averaging_method()


@pytest.fixture(scope="module")
def state(method) -> TrainState:
    shapes = jax.eval_shape(lambda key: init_state(method, key), jax.random.key(0))
    variables = arbitrary_variables(shapes.variables())
    return TrainState(
        step=jnp.int32(0),
        **variables,
        opt_state=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state),
        ema_params=jax.tree.map(jnp.copy, variables["params"]),
        ema_batch_stats=jax.tree.map(jnp.copy, variables["batch_stats"]),
        skipped=jnp.int32(0),
        horizon=jnp.int32(method.optimization.horizon),
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    label = np.arange(8, dtype=np.int32) % 3
    image[np.arange(8), :, :, label] += 1
    return Batch(jnp.asarray(image), label, np.ones(8, np.float32))


@pytest.fixture(scope="module")
def train_joint(method):
    return jax.jit(partial(train_step, method))


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are the same, bit for bit."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.parametrize("network", ["guidance", "denoiser"])
def test_what_does_not_learn_is_untouched(method, state, batch, network):
    alone = method.in_phase(Phase(name="alone", steps=1, **{network: True}))
    after, scalars = jax.jit(partial(train_step, alone))(state, batch, jax.random.key(1))
    other = {"guidance": "denoiser", "denoiser": "guidance"}[network]
    for name in ("params", "batch_stats", "opt_state", "ema_params", "ema_batch_stats"):
        before, now = getattr(state, name), getattr(after, name)
        assert equal(before[other], now[other]), name
        assert not equal(before[network], now[network]), name
    assert ("loss" in scalars) == (network == "denoiser")
    assert ("guidance_loss" in scalars) == (network == "guidance")
    assert after.step == state.step + 1


def taken(method: Method, state: TrainState, network: str, loss: Any) -> tuple[Any, ...]:
    """A network's loss, and its parameters, optimizer state and statistics after a step on it."""

    def of_params(params: Variables, before: Variables) -> Any:
        return loss(before | {"params": before["params"] | {network: params}})

    @jax.jit
    def step(state: TrainState) -> tuple[Any, ...]:
        params = state.params[network]
        gradient = jax.value_and_grad(of_params, has_aux=True)
        (value, stats), grads = gradient(params, state.variables())
        optimizer = make_optimizers(method.optimization)[network]
        updates, opt_state = optimizer.update(grads, state.opt_state[network], params)
        return value, optax.apply_updates(params, updates), opt_state, stats

    return step(state)


def test_a_joint_step_is_two_blocks_at_the_state_before(method, state, batch):
    """The denoiser sees the guidance before its update, and the guidance sees no denoiser."""
    large = dataclasses.replace(method.optimization, guidance_learning_rate=20.0)
    method = dataclasses.replace(method, optimization=large)
    # With moments of 1, Adam's first step is no longer the gradient's sign, which may be rounding.
    moments = jax.tree.map(jnp.ones_like, state.opt_state)
    state, key = state.replace(step=jnp.int32(25), opt_state=moments), jax.random.key(5)
    after, scalars = jax.jit(partial(train_step, method))(state, batch, key)

    # The random numbers of step 25.
    key_t, key_eps = jax.random.split(jax.random.fold_in(key, 25))
    t, eps = method.timesteps(key_t, (8,), 1000), jax.random.normal(key_eps, (8, 3))

    def guidance_loss(variables: Variables) -> Any:
        found, stats = steps.guidance_loss(method, variables, batch)
        return found["guidance_loss"], stats

    def denoiser_loss(seen: Variables, variables: Variables) -> Any:
        own = {kind: tree["guidance"] for kind, tree in seen.items()}
        prediction = method.guidance.apply(own, batch.image, False)
        found, stats = steps.diffusion_loss(method, variables, batch, prediction, t, eps)
        return found["loss"], stats

    before = state.variables()
    learned = {
        "guidance": taken(method, state, "guidance", guidance_loss),
        "denoiser": taken(method, state, "denoiser", partial(denoiser_loss, before)),
    }
    for name, network in (("guidance_loss", "guidance"), ("loss", "denoiser")):
        value, *expected = learned[network]
        np.testing.assert_allclose(scalars[name], value, rtol=1e-5)
        trees = (after.params, after.opt_state, after.batch_stats)
        for ours, theirs in zip(trees, expected, strict=True):
            close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            jax.tree.map(close, ours[network], theirs)
    # After its update the guidance gives another loss.
    other, _ = jax.jit(denoiser_loss)(after.variables(), before)
    assert abs(other / learned["denoiser"][0] - 1) > 1e-3


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


def test_golden_average(golden):
    # (1 + k) / (10 + k) is 0.9 at k = 80, and capped at 0.9999 from k = 89,990 on.
    g = golden("lr_ema")
    for decay, k in (("0.9", 80), ("0.9999", 10**6)):
        average = {"w": g["ema_w0"]}
        for w, shadow in zip(g["ema_w"], g[f"ema_shadow_mu{decay}"], strict=True):
            average = moving_average(average, {"w": w}, jnp.int32(k))
            check(f"EMA at {decay}", average["w"], shadow, 1e-6)


def test_the_average_of_what_stays_the_same_is_that_bit_for_bit():
    same = {"w": np.random.default_rng(0).standard_normal(1000).astype(np.float32)}
    for k in (0, 7, 1234):
        np.testing.assert_array_equal(moving_average(same, same, jnp.int32(k))["w"], same["w"])


@pytest.mark.parametrize(("joint_steps", "decay"), [(-10, 0.1), (0, 0.1), (80, 0.9)])
def test_average_follows_closely_at_first(method, state, batch, train_joint, joint_steps, decay):
    state = state.replace(step=jnp.int32(method.warmup_steps + joint_steps))
    after, _ = train_joint(state, batch, jax.random.key(3))
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,
        state.variables(average=True),
        after.variables(),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        after.variables(average=True),
        expected,
    )
    assert after.variables(average=True)["params"] is after.ema_params
    assert after.variables(average=True)["batch_stats"] is after.ema_batch_stats
    assert after.variables()["params"] is after.params


def test_bfloat16_keeps_parameters_wide(batch):
    narrow = averaging_method("bfloat16")
    variables = variables_of(narrow)
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


def test_statistics_are_those_of_the_stream_that_predicts(method, state, batch):
    t, eps = jnp.arange(8) * 100, jnp.ones((8, 3))

    def recorded(method: Method) -> Any:
        def run(variables):
            guidance = steps.guide(method, variables, batch)
            return steps.diffusion_loss(method, variables, batch, guidance, t, eps)[1]

        return jax.jit(run)(state.variables())

    alone = dataclasses.replace(method, priors=lambda guidance: method.priors(guidance)[:1])
    both = recorded(method), recorded(alone)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *both)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    variables = {
        "params": {"net": {"w": jnp.arange(1.0, 4.0)}},
        "batch_stats": {"net": {"calls": jnp.zeros(())}},
    }

    def loss(variables, x):
        # A mean over images, and statistics that count the calls.
        error = jnp.square(x @ variables["params"]["net"]["w"]).mean()
        return {"loss": error}, {"calls": variables["batch_stats"]["net"]["calls"] + 1}

    def run(parts):
        return gradients(loss, "loss", variables, "net", (x,), parts)

    (grads, scalars, _), (ours, found, stats) = run(1), run(parts)
    np.testing.assert_allclose(ours["w"], grads["w"], rtol=1e-5)
    np.testing.assert_allclose(found["loss"], scalars["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["net_grad_norm"], scalars["net_grad_norm"], rtol=1e-5)
    assert stats["calls"] == parts


def test_a_step_in_parts_takes_every_image_once(method, state, batch):
    changed = dataclasses.replace(
        method, optimization=dataclasses.replace(method.optimization, accumulate=2)
    )
    halves = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
    variables = state.variables()
    run = jax.jit(lambda v, b: steps.guidance_loss(method, v, b))
    expected = []
    for half in halves:
        scalars, stats = run(variables, half)
        variables = variables | {"batch_stats": variables["batch_stats"] | {"guidance": stats}}
        expected.append(scalars["guidance_loss"])
    after, scalars = jax.jit(partial(train_step, changed))(state, batch, jax.random.key(0))
    np.testing.assert_allclose(scalars["guidance_loss"], np.mean(expected), rtol=1e-5)
    ours, theirs = after.batch_stats["guidance"], variables["batch_stats"]["guidance"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_trunk_without_statistics_learns(batch):
    plain = make_method("classifier", steps_per_epoch=10)
    trunk = PVT((1,), (8,), (1,), (2,))
    method = dataclasses.replace(plain, guidance=plain.guidance.clone(global_trunk=trunk))
    before = jax.jit(partial(init_state, method))(jax.random.key(0))
    step = jax.jit(partial(train_step, method))
    state, history = before, []
    for _ in range(20):
        state, scalars = step(state, batch, jax.random.key(1))
        history.append(float(scalars["guidance_loss"]))
    assert jax.tree.structure(state) == jax.tree.structure(before)
    assert state.batch_stats == {"guidance": {}, "denoiser": {}}
    assert history[-1] < 0.9 * history[0]
