"""Layers against plain XLA, closed forms and arithmetic by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.nn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Depthwise,
    DropPath,
    convolve,
    moments_in_one_pass,
)


def plain_convolution(x, kernel, stride):
    """What `convolve` must equal."""
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "grid"),
    [
        *((size, (side, side)) for size in (1, 3) for side in (1, 2, 3, 4)),
        *((3, grid) for grid in ((1, 6), (9, 8), (28, 29), (57, 56))),
        *((7, (side, side)) for side in (2, 20)),
    ],
)
def test_convolve(grid, stride, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *grid, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 4)).astype(np.float32)
    ours, pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    plain, pull_plain = jax.vjp(lambda x, k: plain_convolution(x, k, stride), x, kernel)
    np.testing.assert_allclose(ours, plain, atol=1e-4)
    cotangent = jnp.asarray(rng.standard_normal(plain.shape), jnp.float32)
    for gradient, expected in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=3e-4)


def test_conv_at_stride_2_looks_at_torchs_pixels():
    # 'SAME' would pad an even image on one side only, and see pixel (1, 1) first.
    image = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    ours: Any = Conv(features=1, size=3, stride=2).apply({"params": {"kernel": kernel}}, image)
    np.testing.assert_array_equal(ours[0, :, :, 0], [[4, 0], [0, 0]])


@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 4, 3)])
def test_batch_norm_in_training(shape):
    rng = np.random.default_rng(1)
    x = (2 * rng.standard_normal(shape) + 1).astype(np.float32)
    variables = {
        "params": {"scale": jnp.array([1.0, 2, 3]), "bias": jnp.array([0.0, 1, 2])},
        "batch_stats": {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 5, 6])},
    }
    ours, updates = BatchNorm(momentum=0.8).apply(variables, x, True, mutable=["batch_stats"])
    flat = x.reshape(-1, 3)
    normal = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(ours, normal * [1, 2, 3] + [0, 1, 2], atol=1e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(
        stats["mean"], 0.8 * np.array([1, 2, 3]) + 0.2 * flat.mean(0), rtol=1e-5
    )
    unbiased = flat.var(0, ddof=1)
    np.testing.assert_allclose(stats["var"], 0.8 * np.array([4, 5, 6]) + 0.2 * unbiased, rtol=1e-5)


@pytest.mark.parametrize(("near", "bound"), [(0.0, 0.1), (990.0, 1e-3), (1000.0, 1e-5)])
def test_moments_in_one_pass_need_a_value_near_the_mean(near, bound):
    x = (np.random.default_rng(3).standard_normal((64, 1)) + 1000).astype(np.float32)
    mean, var = moments_in_one_pass(jnp.asarray(x), jnp.full(1, near), (0,))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(var[0], exact.var(0), rtol=bound)
    np.testing.assert_allclose(mean[0], exact.mean(0), rtol=1e-6)


def test_batch_norm_keeps_its_digits_far_from_zero():
    x = (np.random.default_rng(3).standard_normal((64, 1)) + 1000).astype(np.float32)
    ours, _ = BatchNorm().init_with_output(jax.random.key(0), x, True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(ours, (exact - exact.mean(0)) / exact.std(0), atol=1e-3)


def test_batch_norm_in_evaluation():
    x = np.random.default_rng(2).standard_normal((4, 2)).astype(np.float32)
    variables = {
        "params": {"scale": jnp.array([1.0, 2]), "bias": jnp.array([3.0, 4])},
        "batch_stats": {"mean": jnp.array([0.5, -0.5]), "var": jnp.array([4.0, 9])},
    }
    ours: Any = BatchNorm().apply(variables, x, False)
    expected = (x - [0.5, -0.5]) / np.sqrt(np.array([4, 9]) + 1e-5) * [1, 2] + [3, 4]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_of_one_value_stays_finite():
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), jnp.ones((1, 2)), True)
    ours, updates = layer.apply(variables, jnp.ones((1, 2)), True, mutable=["batch_stats"])
    np.testing.assert_array_equal(ours, 0)
    assert np.all(np.isfinite(updates["batch_stats"]["var"]))


def test_batch_norm_keeps_wide_statistics_in_bfloat16():
    layer = BatchNorm(dtype=jnp.bfloat16)
    x = jnp.full((8, 2), 300.0, jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, True)
    ours, updates = layer.apply(variables, x, True, mutable=["batch_stats"])
    assert ours.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}


def test_dense_starts_as_torchs_linear():
    params = Dense(features=1000).init(jax.random.key(0), jnp.zeros((1, 16)))["params"]["linear"]
    for leaf in (params["kernel"], params["bias"]):
        assert np.abs(leaf).max() <= 0.25
        assert np.std(leaf) == pytest.approx(0.25 / np.sqrt(3), rel=0.05)


def test_conv_starts_he_normal_over_its_outputs():
    kernel = Conv(features=64, size=3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 32)))["params"][
        "kernel"
    ]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "grid"), [(3, (8, 7)), (3, (2, 1)), (5, (9, 4)), (1, (5, 4))])
def test_padding_as_tensorflow_has_it(size, grid, stride):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, *grid, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(x, kernel, stride, "same"), expected, atol=1e-5)


def test_stochastic_depth_leaves_rows_out_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    drop = DropPath(rate=0.25)
    rngs = {"drop_path": jax.random.key(0)}
    found = np.asarray(drop.apply({}, x, True, rngs=rngs))
    rows = found.reshape(4000, -1)
    assert set(np.unique(rows)) == {0, np.float32(1 / 0.75)}
    assert (rows.min(1) == rows.max(1)).all()
    assert abs((rows[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(drop.apply({}, x, False), x)


def test_the_written_out_gradient_of_batch_norm_is_its_derivative():
    x, upstream = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32) + 2
    params = {"scale": jnp.array([0.5, 1.0, 2.0]), "bias": jnp.array([0.1, 0.0, -0.3])}
    norm = BatchNorm()
    stats = norm.init(jax.random.key(0), x, False)["batch_stats"]

    def ours(x, params):
        variables = {"params": params, "batch_stats": stats}
        return (norm.apply(variables, x, True, mutable=["batch_stats"])[0] * upstream).sum()

    def plain(x, params):
        unit = (x - x.mean(0)) / jnp.sqrt(x.var(0) + norm.epsilon)
        return ((unit * params["scale"] + params["bias"]) * upstream).sum()

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(x, params) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_a_depthwise_convolution_starts_he_normal_over_a_channels_outputs():
    conv, image = Depthwise(size=3, stride=2), np.zeros((2, 5, 6, 4000), np.float32)
    found, variables = conv.init_with_output(jax.random.key(0), image)
    assert found.shape == (2, 3, 3, 4000)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 1, 4000)
    assert np.std(kernel) == pytest.approx(np.sqrt(2) / 3, rel=0.02)
