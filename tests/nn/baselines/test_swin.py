from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from diffmic_jax.nn.baselines import swin
from diffmic_jax.nn.baselines.pvt import PVT


def test_windows_there_and_back():
    x = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
    windows = swin.to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    np.testing.assert_array_equal(windows[0, 1, :, 0], x[0, :2, 2:, 0].ravel())
    np.testing.assert_array_equal(swin.from_windows(windows, 6, 4), x)


@pytest.mark.parametrize(("grid", "side"), [(56, 7), (16, 4), (7, 7), (2, 2), (6, 6), (11, 1)])
def test_windows_tile_the_grid(grid, side):
    assert swin.window_side(grid, grid) == side


def test_relative_positions_are_those_of_the_largest_window():
    table = swin.relative_positions(7)
    assert (table.min(), table.max()) == (0, 168)
    assert len(np.unique(table)) == 169
    # Of a smaller window the same distances have the same rows.
    whole = table.reshape(7, 7, 7, 7)
    np.testing.assert_array_equal(
        swin.relative_positions(3).reshape(3, 3, 3, 3), whole[:3, :3, :3, :3]
    )


def seen_from(shifted: bool) -> np.ndarray:
    """Which tokens of an 8x8 grid of windows of 4 change the token at (1, 1)."""
    block = swin.Block(num_heads=2, shifted=shifted)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    variables = jax.jit(partial(block.init, train=False))(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: block.apply(variables, x, False)[0, 1, 1].sum()))(x)
    return np.abs(gradient[0]).sum(axis=-1) > 0


def test_a_window_sees_itself_and_a_shifted_one_not_across_the_border(monkeypatch):
    monkeypatch.setattr(swin, "WINDOW", 4)
    expected = np.zeros((8, 8), bool)
    expected[:4, :4] = True
    np.testing.assert_array_equal(seen_from(shifted=False), expected)
    # Shifted by two, the corner window wraps around, and only its own corner is to be seen.
    expected[:] = False
    expected[:2, :2] = True
    np.testing.assert_array_equal(seen_from(shifted=True), expected)


def test_a_token_of_pvt_sees_the_whole_image():
    net = PVT(depths=(1, 1), widths=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2))
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(partial(net.init, train=False))(jax.random.key(0), x)
    assert net.apply(variables, x, False).shape == (1, 4, 4, 16)
    gradient = jax.jit(jax.grad(lambda x: net.apply(variables, x, False)[0, 0, 0, 0]))(x)
    assert (np.abs(gradient[0, ::4, ::4]).sum(axis=-1) > 0).all()
