from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.nn import trunks
from diffmic_jax.nn.baselines.classifier import PlainClassifier


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("vit_s16", 22_050_664),
        ("vit_b16", 86_567_656),
        ("swin_t", 28_288_354),
        ("pvt_v2_b2", 25_362_856),
    ],
)
def test_parameters_are_as_many_as_published_for_imagenet(backbone, count):
    net = PlainClassifier(num_classes=1000, global_trunk=trunks.build(backbone))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(partial(net.init, train=False), jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_the_class_map_explains_the_logits():
    trunk = trunks.build("resnet18", width=8, stem="small")
    net = PlainClassifier(num_classes=3, global_trunk=trunk, region_size=16)
    image = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), image, False)
    found = net.apply(variables, image, False)
    np.testing.assert_allclose(found.saliency.mean((1, 2)), found.fused, atol=1e-6)
    features = net.global_trunk.apply(
        {kind: tree["global_trunk"] for kind, tree in variables.items()}, image, False
    )
    linear = variables["params"]["classifier"]["linear"]
    expected = features.mean((1, 2)) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(found.fused, expected, atol=1e-5)
    assert (found.corners.shape, found.patches.shape) == ((2, 0, 2), (2, 0, 16, 16, 3))
    for logits in (found.global_, found.local):
        np.testing.assert_array_equal(logits, found.fused)


class Pixels(nn.Module):
    """A trunk whose features are the image."""

    strides = (1,)

    def pyramid(self, image, train):
        return {1: image}


def test_hidden_layers_classify_the_mean_of_the_features():
    net = PlainClassifier(num_classes=3, global_trunk=Pixels(), hidden=(8, 5), dropout=0.5)
    image = np.random.default_rng(0).standard_normal((4, 2, 2, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), image, False)
    params = variables["params"]
    shapes = {
        name: jax.tree.map(np.shape, tree["linear"])
        for name, tree in params.items()
        if "linear" in tree
    }
    assert {name: tree["kernel"] for name, tree in shapes.items()} == {
        "hidden_0": (3, 8),
        "hidden_1": (8, 5),
        "classifier": (5, 3),
    }
    x = image.mean((1, 2))
    for i in range(2):
        linear, norm = params[f"hidden_{i}"]["linear"], params[f"norm_{i}"]
        x = x @ linear["kernel"] + linear["bias"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        x = np.maximum(x * norm["scale"] + norm["bias"], 0)
    linear = params["classifier"]["linear"]
    expected = x @ linear["kernel"] + linear["bias"]
    found = net.apply(variables, image, False)
    np.testing.assert_allclose(found.fused, expected, atol=1e-5)
    of_features = net.apply(variables, image.mean((1, 2)), False)
    np.testing.assert_allclose(of_features.fused, expected, atol=1e-5)
    assert found.saliency.shape == (4, 2, 2, 3)
    # With a key, in training, inputs are left out; others for another key.
    dropped = [
        net.apply(variables, image, False, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)
    ]
    np.testing.assert_array_equal(dropped[0].fused, dropped[1].fused)
    for other in (found, dropped[2]):
        assert np.abs(dropped[0].fused - other.fused).max() > 0.01


def test_cosines_are_those_of_the_pooled_features_and_have_a_gradient_at_0():
    net = PlainClassifier(num_classes=2, global_trunk=Pixels(), cosine_scale=30.0)
    image = np.random.default_rng(0).standard_normal((1, 4, 4, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), image, True)
    vectors = variables["params"]["class_vectors"]
    pooled = image.mean((1, 2))
    lengths = np.linalg.norm(pooled) * np.linalg.norm(vectors, axis=0)
    found = net.apply(variables, image, True).fused
    np.testing.assert_allclose(found, 30 * pooled @ vectors / lengths, rtol=1e-4)
    gradient = jax.grad(lambda x: net.apply(variables, x, True).fused.sum())(0 * image)
    assert np.isfinite(gradient).all()
