"""DINOv2 and DINOv3: features, positions, and the names of timm's and the authors' files."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import dino, state_dict, trunks, weights
from diffmic_jax.nn.positions import Table, bicubic, rotary, rotate
from diffmic_jax.nn.vit import Style, ViT
from diffmic_jax.types import Array
from tests.helpers import check

State = dict[str, np.ndarray]

TINY = {"depth": 2, "num_features": 8}
SCALED = Style(layer_scale=1e-5)
NETS = {
    "dinov2": ViT(
        **TINY,
        num_heads=2,
        class_token=True,
        patch=14,
        style=SCALED,
        table=Table(grid=5, offset=0.1),
    ),
    "dinov2_reg": ViT(
        **TINY,
        num_heads=2,
        class_token=True,
        registers=4,
        patch=14,
        style=SCALED,
        table=Table(grid=5, class_row=False, antialias=True),
    ),
    "dinov3": ViT(
        **TINY,
        num_heads=1,
        class_token=True,
        registers=4,
        style=Style(layer_scale=1e-5, epsilon=1e-5, biases=""),
        table=None,
    ),
    "dinov3_plus": ViT(
        **TINY,
        num_heads=2,
        class_token=True,
        registers=4,
        style=Style(layer_scale=1e-5, epsilon=1e-5, biases="qv", gated=True),
        table=None,
    ),
}
"""Small ones of each kind, as those in golden/timm_foundation.npz.

timm 1.0.31 made that: random weights, and of standard normal images the class token and the tokens
of the patches after the norm. Of `dinov2` at the other size, with the table of positions read by
torch's `interpolate(..., scale_factor=(grid + 0.1) / 5, mode="bicubic")`, as the authors do.
"""


def stored(golden, name: str) -> State:
    """Random weights of timm."""
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in golden("timm_foundation").items()
        if key.startswith(f"{name}/")
    }


def loaded(name: str, state: State, folder: Path):
    path = folder / "w.safetensors"
    state_dict.write(path, state)
    return weights.trunk_variables(NETS[name], path)


def expected(tokens: Array) -> Array:
    """Features whose mean is the class token."""
    first, rest = tokens[:, :1], tokens[:, 1:]
    return rest - rest.mean(1, keepdims=True) + first


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        (name, *size)
        for names, sizes in (
            (("dinov2", "dinov2_reg"), ((70, 70), (42, 98))),
            (("dinov3", "dinov3_plus"), ((64, 64), (48, 80))),
        )
        for name in names
        for size in sizes
    ],
)
def test_features_are_those_of_timm(golden, tmp_path, name, height, width):
    net = NETS[name]
    variables = loaded(name, stored(golden, name), tmp_path)
    image = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    features = jax.jit(partial(net.apply, train=False))(variables, image)
    reference = expected(golden("timm_foundation")[f"{name}_{height}x{width}"])
    grid = (2, height // net.patch, width // net.patch, 8)
    check(name, features, reference.reshape(grid), 1e-5)


def of_authors(state: State, rng: np.random.Generator) -> State:
    """The same weights by the names of the authors' files, with what else is in those."""
    there = {}
    for name, value in state.items():
        found = re.sub(r"\.gamma_([12])", r".ls\1.gamma", name)
        found = found.replace("mlp.fc1_g", "mlp.w1").replace("mlp.fc1_x", "mlp.w2")
        if "blocks.0.mlp.fc1_g.weight" in state:
            found = found.replace("mlp.fc2", "mlp.w3")
        there[found] = value
    width = state["cls_token"].shape[-1]
    there["mask_token"] = rng.standard_normal((1, width)).astype(np.float32)
    registers = there.pop("reg_token", None)
    if "pos_embed" in there and registers is not None:
        there["register_tokens"] = registers
        place = rng.standard_normal((1, 1, width)).astype(np.float32)
        there["cls_token"] = there["cls_token"] - place
        there["pos_embed"] = np.concatenate([place, there["pos_embed"]], axis=1)
    elif registers is not None:
        there["storage_tokens"] = registers
        there["rope_embed.periods"] = np.ones(2, np.float32)
        for block in ("blocks.0", "blocks.1"):
            zeros = np.zeros(width, np.float32)
            q, v = (there.pop(f"{block}.attn.{i}_bias", zeros) for i in "qv")
            masked = rng.standard_normal(width).astype(np.float32)
            there[f"{block}.attn.qkv.bias"] = np.concatenate([q, masked, v])
            there[f"{block}.attn.qkv.bias_mask"] = np.repeat(np.float32([1, 0, 1]), width)
    return there


@pytest.mark.parametrize("name", NETS)
def test_the_authors_files_are_read_as_timms(golden, tmp_path, name):
    state = stored(golden, name)
    ours = loaded(name, state, tmp_path)
    theirs = of_authors(state, np.random.default_rng(0))
    assert set(theirs) - set(state)
    found = loaded(name, theirs, tmp_path)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), found, ours)


def test_biases_that_a_network_does_not_have_are_refused_by_name(golden, tmp_path):
    state = of_authors(stored(golden, "dinov3"), np.random.default_rng(0))
    state["blocks.1.attn.qkv.bias"][0] = 0.5
    with pytest.raises(InputError, match=r"network: unexpected blocks\.1\.attn\.q_bias$"):
        loaded("dinov3", state, tmp_path)
    # Keys with a bias that nothing masks are another network.
    state = of_authors(stored(golden, "dinov3_plus"), np.random.default_rng(0))
    del state["blocks.1.attn.qkv.bias_mask"]
    with pytest.raises(InputError, match=r"q_bias, .*v_bias; unexpected blocks\.1\.attn\.qkv\.bi"):
        loaded("dinov3_plus", state, tmp_path)


def test_a_file_without_positions_is_refused(golden, tmp_path):
    state = stored(golden, "dinov2_reg")
    del state["pos_embed"]
    with pytest.raises(InputError, match="missing pos_embed$"):
        loaded("dinov2_reg", state, tmp_path)


@pytest.mark.parametrize("name", dino.TRUNKS)
def test_the_published_sizes(name):
    trunk = trunks.build(name)
    version, size = name.removesuffix("_qkvb").removesuffix("_reg").split("_")
    assert trunk.num_features == 64 * trunk.num_heads == {"s": 384, "b": 768}[size[3]]
    assert trunk.patch == trunks.entry(name).multiple == int(size.removesuffix("plus")[-2:])
    table = trunk.table
    rows = table and table.rows
    assert rows == {"dinov3": None, "dinov2": 37**2 + ("reg" not in name)}[version]
    assert trunk.registers == 4 * (version == "dinov3" or "reg" in name)
    side = {"dinov2": 37 * 14, "dinov3": 256}[version]
    assert (trunk.preprocess.size, trunk.preprocess.interpolation) == (side, "bicubic")


def test_positions_of_the_grid_of_the_table_are_its_rows():
    rows = np.random.default_rng(0).standard_normal((1, 1 + 9, 4)).astype(np.float32)
    for table in (Table(grid=3, offset=0.1), Table(grid=3, antialias=True)):
        np.testing.assert_array_equal(table.at(rows, 3, 3), rows[0, 1:].reshape(3, 3, 4))
    without = Table(grid=3, class_row=False)
    assert (without.rows, Table(grid=3).rows) == (9, 10)
    np.testing.assert_array_equal(without.at(rows[:, :9], 3, 3), rows[0, :9].reshape(3, 3, 4))


def test_an_offset_changes_the_step_and_not_the_number_of_positions():
    # Seven values at the step of fourteen are the first seven.
    np.testing.assert_array_equal(bicubic(14, 7, offset=7), np.eye(14)[:7])


def test_smoothing_keeps_a_constant_and_averages_what_is_fine():
    table = Table(grid=8, class_row=False, antialias=True)
    stripes = np.tile(np.float32([1, -1]), 32).reshape(1, 64, 1)
    np.testing.assert_allclose(table.at(np.ones_like(stripes), 2, 5), 1, atol=1e-6)
    assert np.abs(table.at(stripes, 8, 3)).max() < 0.15
    assert np.abs(Table(grid=8, class_row=False).at(stripes, 8, 3)).max() > 0.5


def test_turned_queries_and_keys_meet_by_their_distance():
    """Scores depend on the displacement alone, and tokens without a place are not turned."""
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.standard_normal((1, 1, 1, 8)), (1, 2 + 12, 1, 8)) for _ in "qk")
    turns = rotary(3, 4, 8, others=2)
    turned = [np.asarray(rotate(x.astype(np.float32), turns))[0, :, 0] for x in (q, k)]
    np.testing.assert_allclose(turned[0][:2], q[0, :2, 0], atol=1e-7)
    scores = (turned[0] @ turned[1].T)[2:, 2:].reshape(3, 4, 3, 4)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[1, 1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(scores[2, 0, 1, 0], scores[1, 3, 0, 3], atol=1e-5)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 1, 1]) > 1e-3


def test_angles_by_hand():
    turns = rotary(2, 1, 8, others=1)
    # Rows at -1/2 and 1/2, the column at 0; periods 1 and 10.
    angle = np.float64([-np.pi, -np.pi / 10, 0, 0])
    np.testing.assert_allclose(turns[:, 1], [np.cos(angle), np.sin(angle)], atol=1e-6)
    np.testing.assert_allclose(turns[:, 2], [np.cos(angle), -np.sin(angle)], atol=1e-6)
    np.testing.assert_array_equal(turns[:, 0], [[1] * 4, [0] * 4])
