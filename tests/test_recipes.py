"""Recipes are complete, and every configuration file works with every recipe."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import configs
from diffmic_jax import config as module
from diffmic_jax import configfile, recipes
from diffmic_jax.data.catalog import MEDMNIST
from diffmic_jax.errors import InputError
from diffmic_jax.fields import flatten
from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task

FOLDER = Path(recipes.__file__).parent
FILES = configfile.names()
OF_THE_RUN = {  # how a training is run, which no recipe decides
    "Guidance": {"checkpoint"},
    "Train": {
        "max_steps",
        "patience",
        "dtype",
        "steps_per_dispatch",
        "log_every",
        "on_nan",
        "max_minutes",
        "hang_minutes",
        "remat",
        "accumulate",
        "model_shards",
    },
}

TRUNK = {"guidance.pretrained": "auto", "denoiser.pretrained": "", "data.rotation": 30.0}
FINE_TUNED = TRUNK | {
    "data.crop": 0.7,
    "guidance.backbone": "efficientnet_lite0",
    "guidance.label_smoothing": 0.1,
    "guidance.optimizer": "adamw",
    "guidance.learning_rate": 2e-3,
    "guidance.weight_decay": 0.05,
    "train.ema": True,
    "sampling.flips": "horizontal",
}
CHOSEN = {
    ("default", "classifier"): TRUNK | {"guidance.backbone": "resnet18", "data.crop": 1.0},
    ("default", "gmic"): TRUNK | {"guidance.backbone": "resnet50", "data.crop": 1.0},
    ("default", "strong"): FINE_TUNED | {"guidance.warmup_epochs": 0, "train.epochs": 20},
    ("default", "plus"): FINE_TUNED
    | {
        "guidance.warmup_epochs": 20,
        "guidance.frozen": True,
        "denoiser.parameterization": "posterior",
        "denoiser.gates": "ones",
        "denoiser.encoder": "guidance",
        "denoiser.conditioning_dropout": 0.5,
        "train.epochs": 10,
        "train.noise_weight": 0.0,
        "train.label_weight": 1.0,
        "train.label_balance": 0.0,
        "sampling.num_steps": 1,
        "sampling.num_samples": 2,
        "sampling.unconditional": 0.5,
        "sampling.ensemble_weight": 1 / 3,
    },
    ("quickstart", "plus"): {"data.rotation": 15.0, "guidance.pretrained": ""},
    ("quickstart", "strong"): {"data.rotation": 15.0, "guidance.pretrained": "auto"},
    ("busi", "v1"): {"data.rotation": 30.0, "data.flip": "horizontal", "data.test_fraction": 0.3},
    ("medmnist", "v1"): {"data.rotation": 30.0, "data.flip": "horizontal", "data.image_size": 64},
}
"""(file, recipe) to values that no paper has and that decide what it is, by hand: docs/plus.md.

Those of the papers are in test_paper_values.py.
"""


def loaded(file: str, recipe: str) -> module.Config:
    """The configuration of `--config=configs/FILE.py:RECIPE`."""
    argument = f"dermamnist,{recipe}" if file == "medmnist" else recipe
    return configfile.load(f"configs/{file}.py:{argument}")


def test_there_is_a_file_for_every_recipe_and_configuration():
    published = {"v1", "v1_public", "v2", "gmic"}
    assert set(recipes.NAMES) == published | {"plus", "classifier", "strong"}
    own = {path.stem for path in Path(configs.__file__).parent.glob("[a-z]*.py")}
    assert set(FILES) == own
    assert {"default", "quickstart", "ham10000", "medmnist"} <= own


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_spells_out_every_field_of_the_method(name):
    """None is left to a default, whose change would change the recipe unseen."""
    (call,) = (
        node.value
        for node in ast.parse((FOLDER / f"{name}.py").read_text()).body
        if isinstance(node, ast.Assign)
    )
    assert isinstance(call, ast.Call)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    assert ast.literal_eval(given.pop("recipe")) == name
    given.pop("data", None)  # what a recipe changes of it; its defaults are the papers' values
    assert set(given) == {"guidance", "denoiser", "diffusion", "train", "sampling"}
    for group in given.values():
        assert isinstance(group, ast.Call) and isinstance(group.func, ast.Name)
        declared = [each.name for each in dataclasses.fields(getattr(module, group.func.id))]
        assert OF_THE_RUN.get(group.func.id, set()) <= set(declared)
        # In the order of declaration, so that two recipes can be read side by side.
        expected = [each for each in declared if each not in OF_THE_RUN.get(group.func.id, ())]
        assert [keyword.arg for keyword in group.keywords] == expected


@pytest.mark.parametrize(("file", "recipe"), CHOSEN)
def test_what_no_paper_has_is_what_was_chosen(file, recipe):
    found = flatten(loaded(file, recipe).to_dict())
    expected = CHOSEN[file, recipe]
    assert {field: found[field] for field in expected} == expected


def test_an_unknown_recipe_is_named_with_the_known_ones():
    with pytest.raises(InputError) as error:
        recipes.config_dict("v3")
    choices = "classifier, gmic, plus, strong, v1, v1_public, v2"
    assert str(error.value) == f"recipe 'v3' is unknown; choose one of {choices}"


def test_a_file_changes_every_recipe_or_one():
    by_recipe = {"v2": {"train.epochs": 3, "seed": 2}}
    first, second = (recipes.config_dict(name, {"seed": 1}, by_recipe) for name in ("v1", "v2"))
    assert (first.seed, first.train.epochs) == (1, 1000)
    assert (second.seed, second.train.epochs) == (2, 3)
    with pytest.raises(InputError, match="config.train.epoch: there is no such field; did you"):
        recipes.config_dict("v1", {"train.epoch": 3})


@pytest.mark.parametrize("recipe", recipes.NAMES)
@pytest.mark.parametrize("file", FILES)
def test_every_file_works_with_every_recipe(file, recipe):
    config = loaded(file, recipe)
    values = flatten(config.to_dict())
    assert config.recipe == recipe
    assert None not in values.values()
    task = Task(class_names=("a", "b", "c", "d"), multi_label=file == "chestxray14")
    method = build(config, task, steps_per_epoch=10, counts=(4, 3, 2, 1))
    assert (method.denoiser is None) == (recipe in ("classifier", "gmic", "strong"))
    assert method.sampling.num_steps == config.sampling.num_steps


@pytest.mark.parametrize("member", MEDMNIST)
def test_every_member_of_medmnist_has_a_configuration(member):
    task = Task(class_names=("a", "b"), multi_label=member == "chestmnist")
    for recipe in ("v1", "plus"):
        config = configfile.load(f"configs/medmnist.py:{member},{recipe}")
        assert (config.data.name, config.recipe, config.data.image_size) == (member, recipe, 64)
        assert config.checkpoint.metric in task.metrics
        build(config, task)


def test_an_unknown_member_of_medmnist_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="configs/medmnist.py:cat is not one of pathmnist, "):
        configfile.load("configs/medmnist.py:cat")
