"""The networks of DiffMIC-v2 against the reference's, and against v1's where they have to agree."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion.priors import guidance_map
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.types import Prior
from tests import golden_v2
from tests.helpers import arbitrary_variables, channels_last, check


@pytest.fixture(scope="module")
def image(golden):
    return jnp.asarray(channels_last(golden("images224")["x"]))


def test_golden_guidance(golden, image):
    g = golden("v2_model")
    run = jax.jit(lambda variables: golden_v2.guidance().apply(variables, image, False))
    found = run(golden_v2.guidance_variables())
    np.testing.assert_array_equal(found.corners, g["roi_px"])
    np.testing.assert_array_equal(found.patches[..., 0], g["patches"])
    for name, ours in {
        "y_fusion": found.fused,
        "y_global": found.global_,
        "y_local": found.local,
        "patch_attns": found.attention,
    }.items():
        check(f"v2 {name}", ours, g[name], 1e-5)
    check("v2 saliency", found.saliency, channels_last(g["saliency"]), 1e-5)


def test_golden_denoiser(golden, image):
    g, net = golden("v2_model"), golden_v2.denoiser()
    patches = jnp.repeat(g["patches"][..., None], 3, axis=-1)
    y_g, y_l = g["y_global"], g["y_local"]
    condition = guidance_map(y_g, y_l, 6)
    check("v2 map", condition, channels_last(g["y_in"][:, :4]), 1e-6)
    y_t = jnp.asarray(channels_last(g["y_in"][:, 4:]))

    def forward(variables: Any) -> Any:
        def run(module: Denoiser) -> Any:
            features = module.encode(image, patches, False)
            return module(y_t, condition, g["t_pos"].reshape(4, 6, 6), features, False)

        return net.apply(variables, method=run, capture_intermediates=True, mutable=[])

    eps_hat, changed = jax.jit(forward)(golden_v2.denoiser_variables())
    layers = changed["intermediates"]
    check("v2 encoder_x", layers["embed"]["__call__"][0], g["encoder_x"], 1e-5)
    check("v2 encoder_x_l", layers["local_embed"]["__call__"][0], g["encoder_x_l"], 1e-5)
    check("v2 denoiser", eps_hat, channels_last(g["eval_out"]), 1e-5)


def tiny_trunk() -> ResNet:
    return ResNet(stage_sizes=(1,), width=8, stem="small")


def small(**options: Any) -> Denoiser:
    return Denoiser(
        num_classes=5, encoder=tiny_trunk(), feature_dim=16, num_train_steps=10, **options
    )


@pytest.mark.parametrize("train", [False, True])
def test_one_cell_and_one_feature_are_v1(train):
    rng = np.random.default_rng(0)
    image, y, condition = (
        jnp.asarray(rng.standard_normal(s)) for s in ((3, 8, 8, 3), (3, 5), (3, 5))
    )
    t, net = jnp.array([1, 5, 9]), small()
    shapes = jax.eval_shape(
        lambda key: net.init(key, image, image, (Prior(y, condition, 0),), method="initialize"),
        jax.random.key(0),
    )
    variables = arbitrary_variables(shapes)

    def run(y: Any, condition: Any, t: Any) -> Any:
        def forward(module: Denoiser) -> Any:
            return module(y, condition, t, module.encode(image, image, train), train)

        return net.apply(variables, method=forward, mutable=["batch_stats"] if train else [])[0]

    in_a_cell = run(y[:, None, None], condition[:, None, None], t[:, None, None])
    np.testing.assert_allclose(in_a_cell[:, 0, 0], run(y, condition, t), rtol=1e-5, atol=1e-6)


def test_the_features_of_image_and_regions_are_mixed():
    rng = np.random.default_rng(0)
    image, patches = (jnp.asarray(rng.standard_normal(s)) for s in ((3, 8, 8, 3), (3, 2, 8, 8, 3)))
    net, y = small(local_encoder=tiny_trunk(), num_regions=2), jnp.zeros((3, 5))
    shapes = jax.eval_shape(
        lambda key: net.init(key, image, patches, (Prior(y, y, 0),), method="initialize"),
        jax.random.key(0),
    )
    variables = arbitrary_variables(shapes)

    def encode(chosen: int, patches: Any) -> Any:
        mixing = jnp.zeros((3, 16)).at[chosen].set(60.0)
        own = variables | {"params": variables["params"] | {"mixing": mixing}}
        return net.apply(own, image, patches, False, method="encode")

    alone = {
        kind: {
            name: leaf for name, leaf in tree.items() if not name.startswith(("local", "mixing"))
        }
        for kind, tree in variables.items()
    }
    expected = small().apply(alone, image, patches, False, method="encode")
    np.testing.assert_allclose(encode(0, patches), expected, rtol=1e-6)
    # Each region has its own weight.
    np.testing.assert_allclose(encode(1, patches), encode(2, patches[:, ::-1]), rtol=1e-6)
    assert np.abs(encode(1, patches) - encode(2, patches)).max() > 1e-3
