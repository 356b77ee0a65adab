"""The folded denoiser is the plain one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.nn import folded, trunks
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Prior
from tests import tiny_trunks  # noqa: F401  (registers `tiny`)
from tests.helpers import arbitrary_variables

CLASSES, VISITED = 3, np.array([9, 4, 0])
DUAL, FUSED, NONE = (2 * CLASSES, CLASSES, CLASSES), (CLASSES,), (0,)
"""Widths of the condition that each projection reads."""


def denoiser(widths: tuple[int, ...] = FUSED, dtype: Any = jnp.float32) -> Denoiser:
    """A tiny denoiser with one projection for each width of a condition."""
    return Denoiser(
        num_classes=CLASSES,
        encoder=trunks.build("tiny", width=8, stem="small"),
        feature_dim=16,
        num_train_steps=10,
        num_projections=len(widths),
        dtype=dtype,
    )


def variables_of(net: Denoiser, widths: tuple[int, ...]) -> Any:
    """Values for its variables."""
    y, image = jnp.zeros((1, CLASSES)), jnp.zeros((1, 32, 32, 3))
    priors = tuple(Prior(y, jnp.zeros((1, width)), i) for i, width in enumerate(widths))
    patches = jnp.zeros((1, 0, 16, 16, 3))
    shapes = jax.eval_shape(
        lambda key: net.init(key, image, patches, priors, method="initialize"), jax.random.key(0)
    )
    return arbitrary_variables(shapes)


def both(
    net: Denoiser, widths: tuple[int, ...], cells: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """eps_hat [n, S, B, *L, C] of two samples in every step: folded, and of the module itself."""
    variables, shape = variables_of(net, widths), (2, 3, *cells)
    rng = np.random.default_rng(0)
    y_t = rng.standard_normal((*shape, CLASSES)).astype(np.float32)
    condition = rng.standard_normal((*shape, widths[0])).astype(np.float32)
    features = rng.standard_normal((3, net.feature_dim)).astype(np.float32)

    @jax.jit
    def ours(variables: Any) -> Any:
        respond = folded.on_images(folded.fold(net, variables, VISITED), condition, features)
        return jnp.stack([respond(y_t, jnp.asarray(i)) for i in range(len(VISITED))])

    @jax.jit
    def plain(variables: Any) -> Any:
        def run(y: Any, given: Any, t: Any) -> Any:
            return net.apply(variables, y, given, t, features, False)

        pairs = [*zip(y_t, condition, strict=True)]
        return jnp.stack([jnp.stack([run(*pair, int(t)) for pair in pairs]) for t in VISITED])

    return np.asarray(ours(variables)), np.asarray(plain(variables))


@pytest.mark.parametrize(
    ("widths", "cells"),
    [(DUAL, ()), (FUSED, ()), (FUSED, (2, 2)), (NONE, ())],
    ids=["dual", "fused", "map", "none"],
)
def test_the_folded_denoiser_is_the_plain_one(widths, cells):
    ours, plain = both(denoiser(widths), widths, cells)
    assert ours.shape == plain.shape
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    assert np.abs(np.diff(plain, axis=0)).max() > 0.01  # the steps differ


def test_in_bfloat16_it_is_as_close_to_float32():
    _, exact = both(denoiser(DUAL), DUAL)
    ours, plain = both(denoiser(DUAL, jnp.bfloat16), DUAL)
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).mean() <= 1.1 * np.abs(plain - exact).mean()
