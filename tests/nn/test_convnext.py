"""ConvNeXt: features, stages, and the names of timm's and the authors' files."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax.nn import state_dict, weights
from diffmic_jax.nn.convnext import ConvNeXt
from tests.helpers import check

NET = ConvNeXt(depths=(1, 2, 1, 1), widths=(4, 8, 8, 16))
"""As that in golden/timm_foundation.npz: timm 1.0.31 with random weights."""


def stored(golden) -> dict[str, np.ndarray]:
    return {
        key.removeprefix("convnext/"): value
        for key, value in golden("timm_foundation").items()
        if key.startswith("convnext/")
    }


def loaded(state: dict[str, np.ndarray], folder: Path):
    state_dict.write(folder / "w.safetensors", state)
    return weights.trunk_variables(NET, folder / "w.safetensors")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_features_are_those_of_timm(golden, tmp_path, height, width):
    state, g = stored(golden), golden("timm_foundation")
    image = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    features = jax.jit(partial(NET.apply, train=False))(loaded(state, tmp_path), image)
    check("pooled", features.mean((1, 2)), g[f"convnext_pooled_{height}x{width}"], 1e-5)
    # timm's map is before the norm, which it applies to the mean over the map.
    plain = g[f"convnext_{height}x{width}"]
    pooled = plain.mean((1, 2), keepdims=True)
    normed = (plain - pooled.mean(-1, keepdims=True)) / np.sqrt(
        pooled.var(-1, keepdims=True) + 1e-6
    )
    check("map", features, normed * state["head.norm.weight"] + state["head.norm.bias"], 1e-5)


def authors_name(name: str) -> str:
    for pattern, replacement in (
        (r"stem\.", "downsample_layers.0."),
        (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"head\.norm\.", "norm."),
        (r"head\.fc\.", "head."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def test_the_authors_file_is_read_as_timms(golden, tmp_path):
    state = stored(golden)
    theirs = {authors_name(name): value for name, value in state.items()}
    assert "head.weight" in theirs
    assert not theirs.keys() & state.keys()
    found = loaded(theirs, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, loaded(state, tmp_path))


def test_stages_and_their_strides():
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), np.float32)
    grids, _ = jax.eval_shape(
        lambda x: NET.init_with_output(jax.random.key(0), x, False, method="pyramid"), image
    )
    found = {stride: grid.shape[1:] for stride, grid in grids.items()}
    assert found == {4: (16, 24, 4), 8: (8, 12, 8), 16: (4, 6, 8), 32: (2, 3, 16)}
    assert NET.strides == tuple(found)
