"""ResNet trunks: torchvision's sizes, shapes, and a pooling of our own."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import trunks
from diffmic_jax.nn.resnet import ResNet, max_pool


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032)],
)
def test_parameters_of_torchvisions_trunks(name, parameters):
    trunk = trunks.build(name)
    image = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda key: trunk.init(key, image, False), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(
    ("name", "stem", "side", "grid"),
    [
        ("resnet18", "imagenet", 224, 7),
        ("resnet50", "imagenet", 100, 4),
        ("resnet50", "imagenet", 32, 1),
        ("resnet34", "small", 32, 4),
    ],
)
def test_shapes(name, stem, side, grid):
    trunk: Any = trunks.build(name, width=8, stem=stem)
    image = jnp.zeros((2, side, side, 3))
    ours = jax.eval_shape(
        lambda key: trunk.init_with_output(key, image, False)[0], jax.random.key(0)
    )
    assert ours.shape == (2, grid, grid, trunk.num_features)
    assert trunk.num_features == (256 if name == "resnet50" else 64)


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_max_pool(side):
    x = np.random.default_rng(side).standard_normal((2, side, side, 3)).astype(np.float32)
    ours, pull = jax.vjp(max_pool, x)
    plain, pull_plain = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)]), x)
    np.testing.assert_array_equal(ours, plain)
    cotangent = np.random.default_rng(0).standard_normal(plain.shape).astype(np.float32)
    np.testing.assert_allclose(pull(cotangent)[0], pull_plain(cotangent)[0], atol=1e-6)


@pytest.mark.parametrize(("name", "stem"), [("resnet19", "imagenet"), ("resnet18", "tiny")])
def test_unknown_names(name, stem):
    with pytest.raises(InputError, match="is unknown; choose"):
        trunks.build(name, stem=stem)


def test_blocks_computed_twice_change_nothing():
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), jnp.float32)
    plain = ResNet(stage_sizes=(1, 1), width=4, stem="small")
    variables = plain.init(jax.random.key(0), image, False)

    def gradient(trunk: ResNet) -> Any:
        def loss(params: Any) -> Any:
            own = variables | {"params": params}
            out, stats = trunk.apply(own, image, True, mutable=["batch_stats"])
            return jnp.square(out).mean(), stats

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    once, twice = gradient(plain), gradient(plain.clone(remat=True))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), once, twice)
