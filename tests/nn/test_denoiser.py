"""The denoiser against the reference's activations, and its shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import samplers
from diffmic_jax.diffusion.schedules import make_schedule
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.types import Prior
from tests.golden_weights import denoiser_variables, golden_denoiser, lookup
from tests.helpers import arbitrary_variables, channels_last, check


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, denoiser_variables())


@pytest.fixture(scope="module")
def image(golden):
    return channels_last(golden("images224")["x"])


def forward(image, variables, g, train):
    """eps_hat and what changed: every layer's output, and in training the statistics."""
    net = golden_denoiser()

    def run(module):
        features = module.encode(image, image, train)
        return module(g["y"], g["y0_hat"], g["t"], features, train)

    def apply(variables):
        mutable = ["batch_stats"] if train else []
        return net.apply(variables, method=run, mutable=mutable, capture_intermediates=True)

    return jax.jit(apply)(variables)


@pytest.fixture(scope="module", params=["eval", "train"])
def mode(request, golden, image, variables):
    return request.param, *forward(image, variables, golden("denoiser"), request.param == "train")


# Normalising a batch of four divides rounding errors by small deviations, layer after layer: the
# reference's own float32 and float64 runs end 1.0e-5 apart (3.3e-7 in evaluation).
ALLOWED = {"eval": 5e-6, "train": 1e-4}


def test_golden_forward(golden, mode):
    name, eps_hat, _ = mode
    check(f"denoiser {name}", eps_hat, golden("denoiser")[f"{name}_out"], ALLOWED[name])


def test_golden_layers(golden, mode):
    name, _, changed = mode
    g, layers = golden("denoiser"), changed["intermediates"]
    ours = {
        "pooled": layers["encoder"]["__call__"][0].mean((1, 2)),
        "encoder": layers["embed"]["__call__"][0],
        "norm": layers["embed_norm"]["__call__"][0],
    }
    for i in range(3):
        ours[f"lin{i + 1}"] = layers[f"gates_{i}"]["__call__"][0]
        ours[f"unetnorm{i + 1}"] = layers[f"norms_{i}"]["__call__"][0]
    for layer, value in ours.items():
        reference = g[f"{name}_{layer}"]
        check(f"denoiser {name} {layer}", value, reference, ALLOWED[name])


def test_golden_running_statistics(golden, image, variables):
    g = golden("denoiser")
    _, changed = forward(image, variables, g, True)
    for name in (key for key in g if key.startswith("after1/")):
        ours = lookup(changed, name.removeprefix("after1/"), g[name].ndim)
        check(f"denoiser {name}", ours, g[name], 1e-5)


@pytest.fixture(scope="module")
def features(image, variables):
    net = golden_denoiser()
    return jax.jit(lambda v: net.apply(v, image, image, False, method="encode"))(variables)


def test_golden_timestep_of_all(golden, variables, features):
    g = golden("denoiser")
    ours = golden_denoiser().apply(variables, g["y"], g["y0_hat"], 7, features, False)
    check("denoiser eval t=7 for all", ours, g["eval_out_t7"], 1e-5)


@pytest.mark.parametrize("num_steps", [10, 60])
def test_golden_reverse_loop(golden, variables, features, num_steps):
    g = golden("p_sample_net")
    net, prior, noise = golden_denoiser(), g["y0_hat"], g[f"n{num_steps}_noise"]
    schedule = make_schedule(precision="public")
    _, states = samplers.ancestral(
        lambda y, t: net.apply(variables, y, prior, t, features, False),
        schedule,
        prior + noise[0],
        prior,
        samplers.timesteps(schedule, num_steps, "truncated"),
        np.roll(noise, -1, axis=0),
        return_states=True,
    )
    check(f"p_sample_net n{num_steps} states", states, g[f"n{num_steps}_seq"], 1e-5)


def small(**options) -> Denoiser:
    trunk = ResNet(stage_sizes=(1, 1), width=8, stem="small")
    options = {"encoder": trunk} | options
    return Denoiser(num_classes=5, feature_dim=16, num_train_steps=10, **options)


def some_variables(net: Denoiser, *priors: Prior):
    """Variables of a small network."""
    image = jnp.zeros((2, 32, 32, 3))

    def start(key):
        return net.init(key, image, image, priors, method="initialize")

    return arbitrary_variables(jax.eval_shape(start, jax.random.key(0)))


def test_map_of_labels_is_a_batch_of_labels():
    # One timestep per cell; the image's features are the same in all cells.
    rng = np.random.default_rng(0)
    net = small()
    y, condition = rng.standard_normal((2, 2, 3, 3, 5)).astype(np.float32)
    t = rng.integers(0, 10, (2, 3, 3))
    image = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    variables = some_variables(net, Prior(y, condition, 0))
    features: Any = net.apply(variables, image, image, False, method="encode")
    ours: Any = net.apply(variables, y, condition, t, features, False)
    assert ours.shape == (2, 3, 3, 5)
    flat: Any = net.apply(
        variables,
        y.reshape(18, 5),
        condition.reshape(18, 5),
        t.reshape(18),
        features.repeat(9, axis=0),
        False,
    )
    np.testing.assert_allclose(ours.reshape(18, 5), flat, atol=1e-5)


def test_without_an_encoder_the_features_that_are_given_are_embedded():
    image, nothing = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 0, 8, 8, 3))
    prior = Prior(jnp.zeros((2, 5)), jnp.zeros((2, 5)), 0)
    pooled = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16)), jnp.float32)

    def shapes(net):
        given = image, nothing, (prior,), pooled
        init = partial(net.init, method="initialize")
        return jax.eval_shape(lambda key: init(key, *given), jax.random.key(0))

    own, without = small(), small(encoder=None)
    variables = arbitrary_variables(shapes(own))
    rest = {kind: {**tree} for kind, tree in variables.items()}
    trunk = {kind: tree.pop("encoder") for kind, tree in rest.items()}
    assert jax.tree.map(jnp.shape, rest) == jax.tree.map(jnp.shape, shapes(without))

    def encode(net, variables, *given) -> Any:
        return net.apply(variables, image, nothing, False, *given, method="encode")

    assert own.encoder is not None
    features: Any = own.encoder.apply(trunk, image, False)
    theirs = encode(own, variables)
    np.testing.assert_allclose(encode(without, rest, features.mean((1, 2))), theirs, atol=1e-6)
    # An encoder of its own has the word, whatever else is known of the image.
    np.testing.assert_array_equal(encode(own, variables, pooled), theirs)
    with pytest.raises(AssertionError, match="the image's features have to be given"):
        encode(without, rest)


def test_projections_differ_and_share_the_rest():
    rng = np.random.default_rng(1)
    net = small(num_projections=3)
    y, wide = rng.standard_normal((2, 5)), rng.standard_normal((2, 10))
    priors = (Prior(y, wide, 0), Prior(y, y, 1), Prior(y, y, 2))
    variables = some_variables(net, *priors)
    kernels = [variables["params"][f"projections_{i}"]["linear"]["kernel"] for i in range(3)]
    assert [kernel.shape for kernel in kernels] == [(15, 16), (10, 16), (10, 16)]

    def run(projection) -> Any:
        return net.apply(variables, y, y, 3, jnp.ones((2, 16)), False, projection)

    first = run(1)
    assert np.abs(first - run(2)).max() > 1e-3
    # Give them the same weights: nothing else differs between them.
    variables["params"]["projections_2"] = variables["params"]["projections_1"]
    np.testing.assert_array_equal(first, run(2))


def test_input_order_is_label_then_condition():
    net = small()
    y, condition = jnp.ones((2, 5)), jnp.full((2, 5), 2.0)
    variables = some_variables(net, Prior(y, condition, 0))
    kernel = variables["params"]["projections_0"]["linear"]["kernel"]
    kernel = kernel.at[:5].set(0)
    variables["params"]["projections_0"]["linear"]["kernel"] = kernel

    def run(y, condition) -> Any:
        return net.apply(variables, y, condition, 3, jnp.ones((2, 16)), False)

    np.testing.assert_array_equal(run(y, condition), run(5 * y, condition))
    assert np.abs(run(y, condition) - run(y, 5 * condition)).max() > 1e-4


@pytest.mark.parametrize("gates", ["ones", "uniform"])
def test_gates_start_as_ones_or_at_random(gates):
    net = small(gates=gates)
    prior = Prior(jnp.zeros((2, 5)), jnp.zeros((2, 5)), 0)
    image = jnp.zeros((2, 16, 16, 3))
    shapes = image, jnp.zeros((2, 0, 16, 16, 3)), (prior,)
    made = jax.jit(lambda key: net.init(key, *shapes, method="initialize"))(jax.random.key(0))
    factors = np.asarray(made["params"]["gates_0"]["embedding"])
    assert (factors.min() >= 0) and (factors.max() <= 1)
    assert (factors == 1).all() == (gates == "ones")
    assert factors.std() == pytest.approx(0 if gates == "ones" else 12**-0.5, abs=0.05)
