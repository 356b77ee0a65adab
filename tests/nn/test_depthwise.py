"""Depthwise convolution: the form for CPUs equals XLA's grouped one, forward and backward."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from diffmic_jax.nn import depthwise
from diffmic_jax.nn.convolution import by_xla

PADS = {3: ((1, 1), (0, 1)), 5: ((2, 2), (2, 3))}


@pytest.mark.parametrize("grid", [(8, 8), (7, 4), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 5])
def test_both_forms_agree(size, stride, grid):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *grid, 6)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 1, 6)).astype(np.float32)
    pads = PADS[size]

    def run(form):
        found, pull = jax.vjp(lambda x, k: form(x, k, stride=stride, pads=pads), x, kernel)
        cotangent = np.random.default_rng(1).standard_normal(found.shape).astype(np.float32)
        return found, *pull(cotangent)

    grouped = partial(by_xla, groups=6)
    for ours, plain in zip(run(depthwise._on_cpu), run(grouped), strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_by_hand():
    x = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 1, 4, 1)
    kernel = np.array([1, 10, 100], np.float32).reshape(1, 3, 1, 1)
    found = depthwise.depthwise(x, kernel, 2, ((0, 0), (0, 1)))
    # 1 + 20 + 300 at the first pixel, 3 + 40 + 100 * padding at the second.
    np.testing.assert_array_equal(found[0, 0, :, 0], [321, 43])


def test_the_program_for_other_devices_is_the_grouped_one():
    x, kernel = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 1, 2), np.float32)
    run = jax.jit(lambda x, k: depthwise.depthwise(x, k, 1, ((1, 1), (1, 1))))
    for platform, count in (("cpu", 0), ("cuda", 1), ("tpu", 1)):
        text = run.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == count
