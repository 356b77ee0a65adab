from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from diffmic_jax import configfile, recipes
from diffmic_jax.cli import main as cli
from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load
from diffmic_jax.interop import convert
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.state import init_variables, of_network
from diffmic_jax.method.task import Task
from diffmic_jax.nn import names, state_dict, trunks
from tests import golden_weights, tiny

THREE = Task(class_names=("0", "1", "2"))
CONFIG = """
from diffmic_jax import recipes

def get_config(recipe="v1_public"):
    return recipes.config_dict(recipe, {changes!r})
"""
SMALL = {
    "data.image_size": 32,
    "guidance.num_regions": 2,
    "guidance.region_size": 16,
    "sampling.num_steps": 3,
    "eval.batch_size": 4,
}
NARROW = {"guidance.backbone": "resnet18", "model.width": 8, "denoiser.feature_dim": 16}
"""What the tensors determine, and the configuration need not have."""


def write_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """A configuration file of the user's own."""
    (folder / "config.py").write_text(CONFIG.format(changes=dict(changes)))


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    """State dicts of narrow networks with the authors' names, and a configuration."""
    folder = tmp_path_factory.mktemp("states")
    write_config(folder, SMALL)
    config = configfile.load(f"{folder}/config.py:v1_public")
    write_states(build(config.changed(NARROW), THREE), folder)
    return folder


def write_states(method: Method, folder: Path, **extras: dict[str, np.ndarray]) -> None:
    """State dicts of a method's networks with arbitrary values, by the authors' names."""
    shapes = jax.eval_shape(partial(init_variables, method), jax.random.key(0))
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda s: rng.uniform(0.1, 0.4, s.shape).astype(np.float32), shapes)
    for network, names_ in convert._maps(method, convert.ENCODER).items():
        state = names.to_state_dict(of_network(values, network), names_, {})
        counters = {name: np.array(5, np.int64) for name in state if name.endswith(names.COUNTER)}
        every = state | counters | extras.get(network, {})
        state_dict.write(folder / f"{network}.safetensors", every)


@pytest.fixture(scope="module")
def converted(states, tmp_path_factory) -> Path:
    """The workdir that the command makes of them."""
    workdir = tmp_path_factory.mktemp("converted") / "run"
    assert cli.main(command(states, workdir)) == 0
    return workdir


def command(states: Path, workdir: Path, **files: Path) -> list[str]:
    here = {network: states / f"{network}.safetensors" for network in ("denoiser", "guidance")}
    options = [f"--{network}={path}" for network, path in (here | files).items()]
    return ["convert", *options, f"--workdir={workdir}", f"--config={states}/config.py:v1_public"]


def test_sizes_are_read_from_the_tensors(converted):
    config = json.loads((converted / "config.json").read_text())
    assert (config["guidance"]["backbone"], config["model"]["width"]) == ("resnet18", 8)
    assert (config["denoiser"]["encoder"], config["denoiser"]["feature_dim"]) == ("resnet18", 16)
    assert config["diffusion"]["num_train_steps"] == 1000
    assert config["sampling"]["start"] == "truncated"


def test_there_and_back_is_bitwise_the_same(states, converted, tmp_path):
    back = [f"--{network}={tmp_path}/{network}.safetensors" for network in ("denoiser", "guidance")]
    assert cli.main(["convert", "--to=torch", f"--workdir={converted}", *back]) == 0
    for network in ("denoiser", "guidance"):
        file = f"{network}.safetensors"
        ours, theirs = (state_dict.read(folder / file) for folder in (tmp_path, states))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
            np.testing.assert_array_equal(ours[name], value)


def test_a_conversion_that_is_killed_in_its_save_is_made_by_the_same_command(
    states, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("diffmic_jax.interop.convert.write_card", lambda model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(command(states, tmp_path / "run"))
    assert not list(tmp_path.iterdir())
    killed = tmp_path / "run.1.part"  # which no code of a killed process could remove
    (killed / "checkpoints/0").mkdir(parents=True)
    os.utime(killed, (0, 0))
    assert cli.main(command(states, tmp_path / "run")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_converted_workdir_classifies(converted, tmp_path):
    tiny.write_images(tmp_path / "images", 2)
    out = tmp_path / "out.csv"
    options = [f"--workdir={converted}", f"--images={tmp_path}/images", f"--out={out}"]
    assert cli.main(["predict", *options]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert "prob_2" in rows[0]
    assert load(converted).method.name == "v1_public"


def test_a_workdir_is_not_overwritten(states, converted, capsys):
    assert cli.main(command(states, converted)) == 2
    assert f"{converted}: holds a run already" in capsys.readouterr().err


def test_the_two_files_may_not_be_swapped(states, tmp_path, capsys):
    files = {
        "denoiser": states / "guidance.safetensors",
        "guidance": states / "denoiser.safetensors",
    }
    assert cli.main(command(states, tmp_path / "run", **files)) == 2
    line = capsys.readouterr().err
    assert "'ds_net.f.0.weight' is missing, these are no state dicts of DiffMIC; name aux" in line
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_listed_with_its_file(states, tmp_path, capsys):
    state = state_dict.read(states / "guidance.safetensors")
    state["mil_attn_V.weight"] = state["mil_attn_V.weight"][:-1]
    del state["classifier_linear.weight"]
    state["more"] = np.zeros(1, np.float32)
    bad = tmp_path / "bad.safetensors"
    state_dict.write(bad, state)
    assert cli.main(command(states, tmp_path / "run", guidance=bad)) == 2
    shown = capsys.readouterr().err.strip()
    assert shown == (
        f"error: {bad}: does not fit the network: missing classifier_linear.weight; unexpected "
        "more; shape mil_attn_V.weight is (127, 64), not (128, 64)"
    )
    assert not (tmp_path / "run").exists()


def test_class_names_have_to_be_as_many(states, tmp_path, capsys):
    assert cli.main([*command(states, tmp_path / "run"), "--class_names=a,b"]) == 2
    assert "--class_names: 2 (a,b), but the checkpoint has 3" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"garbage of some length"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.safetensors: (no safetensors file|holds no tensors)"):
        state_dict.read(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"no\.pth: no such file"):
        state_dict.read(tmp_path / "no.pth")


def test_the_networks_of_the_golden_vectors_come_out_as_their_own_tests_have_them(tmp_path):
    """Which compare what they predict with the golden vectors."""
    shapes = {"denoiser": "shapes_denoiser_c5_d128", "guidance": "shapes_dcg_c5_resnet50"}
    states = {network: golden_weights.state_dict(file) for network, file in shapes.items()}
    config = recipes.get("v1_public")
    sizes, num_classes = convert._sizes(config, states, dict.fromkeys(states, tmp_path))
    method = build(config.changed(sizes), Task(class_names=tuple("abcde")))
    assert num_classes == 5
    assert sizes["guidance.backbone"] == "resnet50"
    abstract = jax.eval_shape(partial(init_variables, method), jax.random.key(0))
    wanted = {
        "denoiser": golden_weights.denoiser_variables(),
        "guidance": golden_weights.dcg_variables(),
    }
    for network, map_ in convert._maps(method, convert.ENCODER).items():
        own = of_network(abstract, network)
        found = names.to_variables(states[network], own, map_, what=network)
        jax.tree.map(np.testing.assert_array_equal, found, wanted[network])


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_depth_of_a_trunk_is_read_from_its_tensors(depth):
    trunk: Any = trunks.build(f"resnet{depth}", width=8)
    modules = trunk.torch_names().modules
    found = dict.fromkeys((f"{name}.weight" for name in modules.values()), np.zeros(1))
    assert convert._backbone(found, "", named=True) == f"resnet{depth}"


def test_a_classifier_of_photographs_becomes_a_start(tmp_path):
    trunk: Any = trunks.build("resnet18", width=8)
    shapes = jax.eval_shape(
        partial(trunk.init, train=False), jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
    )
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda s: rng.uniform(0.1, 0.4, s.shape).astype(np.float32), dict(shapes))
    state = names.to_state_dict(values, trunk.torch_names(), {})
    weights, workdir = tmp_path / "weights.safetensors", tmp_path / "run"
    state_dict.write(weights, state)
    write_config(tmp_path, SMALL | {"denoiser.feature_dim": 16})
    options = ["--source=torchvision", f"--weights={weights}", f"--workdir={workdir}"]
    config = f"--config={tmp_path}/config.py:v1"
    assert cli.main(["convert", *options, config, "--class_names=a,b,c"]) == 0
    found = load(workdir)
    assert (found.step, found.task.class_names) == (0, ("a", "b", "c"))
    for name in ("global_trunk", "local_trunk"):
        trunk_found = {kind: tree["guidance"][name] for kind, tree in found.variables.items()}
        jax.tree.map(np.testing.assert_array_equal, trunk_found, values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source=timm"], "--weights missing"),
        (["--denoiser=d.pth"], "--guidance missing"),
        (["--to=torch"], "--denoiser and --guidance missing"),
        (["--source=timm", "--weights={}/guidance.safetensors"], "conv1.weight is missing"),
    ],
)
def test_what_a_source_needs_is_named(states, tmp_path, capsys, options, message):
    options = [option.format(states) for option in options]
    assert cli.main(["convert", *options, f"--workdir={tmp_path}/run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def lightning(tmp_path_factory) -> Path:
    """One file of a v2 run with narrow networks, as Lightning names its entries."""
    folder = tmp_path_factory.mktemp("lightning")
    steps_of_recipe = {name: x for name, x in SMALL.items() if name != "sampling.num_steps"}
    write_config(folder, steps_of_recipe | {"denoiser.encoder": "tiny_vit"})
    config = configfile.load(f"{folder}/config.py:v2")
    extras = {
        "guidance": {"fusion_dnn.weight": np.ones((3, 128), np.float32)},
        "denoiser": {f"{convert.ENCODER}neck.0.weight": np.ones((4, 16, 1, 1), np.float32)},
    }
    method = build(config.changed(NARROW | {"guidance.num_regions": 3}), THREE)
    write_states(method, folder, **extras)
    every = {
        f"{prefix}{name}": value
        for network, prefix in {"guidance": "aux_model.", "denoiser": "model."}.items()
        for name, value in state_dict.read(folder / f"{network}.safetensors").items()
    }
    state_dict.write(folder / "v2.safetensors", every)
    return folder


def test_a_v2_checkpoint_goes_there_and_back(lightning, tmp_path):
    file, workdir = lightning / "v2.safetensors", tmp_path / "run"
    options = [f"--weights={file}", f"--config={lightning}/config.py:v2", f"--workdir={workdir}"]
    assert cli.main(["convert", *options]) == 0
    found = load(workdir)
    assert (found.method.name, found.method.cells) == ("v2", (3, 3))
    assert found.config.denoiser.encoder == "tiny_vit"
    back = [f"--{network}={tmp_path}/{network}.safetensors" for network in ("denoiser", "guidance")]
    assert cli.main(["convert", "--to=torch", f"--workdir={workdir}", *back]) == 0
    for network in ("denoiser", "guidance"):
        ours, theirs = (
            state_dict.read(folder / f"{network}.safetensors") for folder in (tmp_path, lightning)
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
            np.testing.assert_array_equal(ours[name], value)
    tiny.write_images(tmp_path / "images", 1)
    flags = [f"--workdir={workdir}", f"--images={tmp_path}/images", f"--out={tmp_path}/out.csv"]
    assert cli.main(["predict", *flags]) == 0


def test_a_recipe_of_the_other_version_is_refused(states, lightning, tmp_path, capsys):
    run = f"--workdir={tmp_path}/run"
    v2 = [f"--weights={lightning}/v2.safetensors", f"--config={lightning}/config.py:v1_public"]
    assert cli.main(["convert", *v2, run]) == 2
    assert (
        "of DiffMIC-v2, but --config has the recipe v1_public; name v2" in capsys.readouterr().err
    )
    v1 = command(states, tmp_path / "run")
    assert cli.main([*v1[:-1], f"--config={states}/config.py:v2"]) == 2
    assert "of DiffMIC-v1, but --config has the recipe v2; name v1" in capsys.readouterr().err
