"""Names of trunks in published state dicts, and the way there and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from diffmic_jax.nn import names, trunks
from tests import tiny_trunks


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_backbone_has_the_names_of_torchvision(name):
    trunk: Any = trunks.build(name, width=8)
    init = partial(trunk.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    found = names.to_state_dict(
        jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes), trunk.torch_names(), {}
    )
    convolutions = {"resnet18": 20, "resnet34": 36, "resnet50": 53}[name]
    # A convolution has one entry, the normalisation after it five.
    assert len(found) == 6 * convolutions
    assert found["conv1.weight"].shape == (8, 3, 7, 7)
    assert found["bn1.num_batches_tracked"] == 0
    assert "layer4.0.downsample.0.weight" in found
    assert ("layer1.0.downsample.0.weight" in found) == (name == "resnet50")
    assert ("layer4.2.conv2.weight" in found) == (name != "resnet18")
    found |= {"fc.weight": np.zeros((1000, 64)), "fc.bias": np.zeros(1000)}
    back = names.to_variables(found, shapes, trunk.torch_names(), what="file")
    assert jax.tree.structure(back) == jax.tree.structure(dict(shapes))


def test_the_encoder_of_efficientsam_and_back():
    state = {
        name.removeprefix("image_encoder."): value
        for name, value in tiny_trunks.efficientsam_state().items()
        if name.startswith("image_encoder.")
    }
    trunk: Any = trunks.build("tiny_vit")
    init = partial(trunk.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    ours = names.to_variables(state, shapes, trunk.torch_names(), what="file")
    params = ours["params"]
    for found, expected in (
        (params["pos_embed"], state["pos_embed"]),
        (
            params["patch_embed"]["kernel"],
            state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        ),
        (params["blocks_1"]["qkv"]["kernel"], state["blocks.1.attn.qkv.weight"].T),
        (params["blocks_0"]["norm2"]["scale"], state["blocks.0.norm2.weight"]),
    ):
        np.testing.assert_array_equal(found, expected)
    back = names.to_state_dict(ours, trunk.torch_names(), {})
    assert back.keys() == state.keys() - {"neck.0.weight"}
    for name, value in back.items():
        assert value.dtype == state[name].dtype, name
        np.testing.assert_array_equal(value, state[name], strict=True)
