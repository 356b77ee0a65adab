"""Every value of a configuration is checked, alone and with the others."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from diffmic_jax import config as module
from diffmic_jax import recipes
from diffmic_jax.config import Config
from diffmic_jax.diffusion import priors, process, samplers, schedules
from diffmic_jax.diffusion.parameterization import PARAMETERIZATIONS
from diffmic_jax.diffusion.readout import READOUTS
from diffmic_jax.errors import InputError
from diffmic_jax.fields import RENAMED, flatten
from diffmic_jax.method.mixing import MIXES
from diffmic_jax.method.networks import DTYPES
from diffmic_jax.method.objectives import GUIDANCE_LOSSES, IMAGE_WEIGHTS
from diffmic_jax.nn.denoiser import GATES
from diffmic_jax.report.checklist import FLIPS, OPTIMIZERS, PROTOCOLS

FIELDS = {spec.name: spec for spec in module.fields()}
NUMBERS = [name for name, spec in FIELDS.items() if spec.type in (int, float)]
WORDS = [name for name, spec in FIELDS.items() if spec.choices]
ILL_TYPED: dict[type, tuple[object, ...]] = {
    bool: (1, "yes", None),
    int: (True, 1.0, "1", None),
    float: (True, "1.0", None),
    str: (1, True, None, ("x",)),
    tuple: ("x", 1, None, (None,)),
}
REGISTRIES = {
    "data.flip": FLIPS,
    "data.protocol": PROTOCOLS,
    "denoiser.conditioning": priors.PRIORS,
    "denoiser.gates": GATES,
    "denoiser.parameterization": PARAMETERIZATIONS,
    "diffusion.schedule": schedules.KINDS,
    "diffusion.timesteps": process.TIMESTEPS,
    "guidance.loss": GUIDANCE_LOSSES,
    "guidance.mix": MIXES,
    "guidance.optimizer": OPTIMIZERS,
    "sampling.initial": priors.INITIALS,
    "sampling.readout": READOUTS,
    "sampling.sampler": samplers.SAMPLERS,
    "train.dtype": DTYPES,
    "train.loss_weight": IMAGE_WEIGHTS,
}


def refused(changes: dict[str, Any], recipe: str = "v1") -> str:
    """The one line about changes that cannot work."""
    with pytest.raises(InputError) as error:
        recipes.get(recipe).changed(changes)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_line_of_help_and_a_default_that_works(name):
    spec = FIELDS[name]
    assert spec.help and "\n" not in spec.help
    spec.check(spec.typed(spec.default))


def test_a_path_in_the_home_folder_is_stored_whole(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jo")
    config = Config().changed({"data.root": "~/photos", "guidance.checkpoint": "runs/~a"})
    assert (config.data.root, config.guidance.checkpoint) == ("/home/jo/photos", "runs/~a")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("image_size", "; did you mean data.image_size?"),
        ("batchsize", "; did you mean train.batch_size or eval.batch_size?"),
        ("train.batchsize", "; did you mean train.batch_size?"),
        ("denoiser.image_size", "; did you mean data.image_size?"),
        ("sed", "; did you mean seed?"),
        ("nothing", ""),
    ],
)
def test_a_misspelled_field_names_the_right_one(name, hint):
    with pytest.raises(InputError) as error:
        Config().changed({name: 1})
    assert str(error.value) == f"config.{name}: there is no such field{hint}"


def test_the_defaults_work_together():
    assert flatten(Config().to_dict()) == {
        name: list(spec.default) if spec.type is tuple else spec.default
        for name, spec in FIELDS.items()
    }


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("train.epoch", ": there is no such field; did you mean train.epochs?"),
        ("nonsense", ": there is no such field"),
        ("train", " is a group of fields; give one of them, as config.train.batch_size"),
        ("denoiser.predicts", " is now config.denoiser.parameterization"),
        ("sampling.stop", " was removed; leave it out"),
    ],
)
def test_an_unknown_field_is_named_with_the_one_that_may_be_meant(name, end):
    assert refused({name: 3}) == f"config.{name}{end}"


def test_a_renamed_field_is_gone_and_its_new_name_is_there():
    assert not RENAMED.keys() & FIELDS.keys()
    assert set(RENAMED.values()) - {""} <= FIELDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_of_the_wrong_type_is_refused(name):
    kind = FIELDS[name].type
    wanted = "a tuple" if kind is tuple else kind.__name__
    for value in ILL_TYPED[kind]:
        expected = f"config.{name}={value!r} is of the wrong type; give {wanted}"
        assert refused({name: value}) == expected


def test_a_group_of_the_wrong_type_is_refused_too():
    with pytest.raises(InputError, match="config.train.epochs='3' is of the wrong type; give int"):
        Config(train=module.Train(epochs="3"))  # type: ignore[arg-type]


def test_a_whole_number_is_a_float_and_a_list_a_tuple():
    changes = {"train.learning_rate": 1, "sampling.clip": [-1, 1], "data.class_names": ["a", "b"]}
    found = Config().changed(changes)
    assert type(found.train.learning_rate) is float
    assert found.sampling.clip == (-1.0, 1.0)
    assert found.data.class_names == ("a", "b")


@pytest.mark.parametrize("name", WORDS)
def test_an_unknown_word_is_named_with_the_choices(name):
    choices = ", ".join(FIELDS[name].choices)
    assert refused({name: "x"}) == f"config.{name}='x' is unknown; choose one of {choices}"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_named_with_the_range(name):
    spec = FIELDS[name]
    assert spec.low > -math.inf
    fix = f"at least {spec.low:g}" if spec.high == math.inf else f"{spec.low:g} to {spec.high:g}"
    beyond = [spec.low - 1] if spec.high == math.inf else [spec.low - 1, spec.high + 1]
    for value in map(spec.type, beyond):
        assert refused({name: value}) == f"config.{name}={value} is out of range; give {fix}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_has_to_be_finite(value):
    assert "config.train.learning_rate=" in refused({"train.learning_rate": value})


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "v1",
            {"train.accumulate": 5},
            "config.train.accumulate=5 does not divide config.train.batch_size=32; choose a",
        ),
        (
            "v1",
            {"data.image_size": 24},
            "config.guidance.region_size=32 is out of range; give 1 to 24, the image's size",
        ),
        (
            "v1",
            {"denoiser.encoder": ""},
            "config.sampling.num_steps=100 does not go with config.denoiser.encoder=''; a denoiser",
        ),
        (
            "v1",
            {"sampling.num_steps": 0},
            "config.sampling.num_steps=0 does not go with config.denoiser.encoder='resnet18'; a",
        ),
        (
            "v1",
            {"diffusion.num_train_steps": 99},
            "config.sampling.num_steps=100 is out of range; give at most 99, the length of",
        ),
        ("v2", {"sampling.clip": (5.0,)}, "config.sampling.clip=(5.0,) is no range; give (low,"),
        ("v2", {"sampling.clip": (1.0, -1.0)}, "config.sampling.clip=(1.0, -1.0) is no range"),
        (
            "v2",
            {"denoiser.conditioning": "global", "sampling.initial": "random_map"},
            "config.sampling.initial=random_map needs config.denoiser.conditioning=map",
        ),
        (
            "v2",
            {"denoiser.conditioning": "none"},
            "config.sampling.initial=map needs a condition of one label, but config.denoiser.",
        ),
        (
            "v2",
            {"denoiser.conditioning": "dual"},
            "config.sampling.initial=map needs a condition of one label, but config.denoiser.",
        ),
        (
            "v1",
            {"guidance.loss": "ldam"},
            "config.guidance.loss=ldam needs config.guidance.network=classifier",
        ),
        (
            "v1",
            {"guidance.loss": "prototype"},
            "config.guidance.loss=prototype needs config.guidance.network=classifier",
        ),
        (
            "v1",
            {"guidance.class_weights": "deferred"},
            "config.guidance.class_weights=deferred needs a recipe without diffusion",
        ),
        (
            "v2",
            {"denoiser.parameterization": "posterior"},
            "config.denoiser.parameterization=posterior needs a guidance prediction as its prior, ",
        ),
        (
            "v2",
            {"train.noise_weight": 0.0},
            "config.train.noise_weight and config.train.label_weight are both 0, so that the ",
        ),
        (
            "v1",
            {"denoiser.pretrained": "guidance"},
            "config.denoiser.pretrained=guidance needs an encoder like the guidance's trunk; give "
            "denoiser.encoder=resnet50",
        ),
        (
            "v1",
            {"guidance.weight_decay": 0.05},
            "config.guidance.weight_decay=0.05 needs config.guidance.optimizer=adamw, not amsgrad",
        ),
        (
            "classifier",
            {"guidance.loss": "ldam", "guidance.mix": "mixup"},
            "config.guidance.mix=mixup has no meaning in the loss ldam, which takes labels of one ",
        ),
        (
            "v1",
            {"guidance.loss": "focal", "guidance.label_smoothing": 0.1},
            "config.guidance.label_smoothing=0.1 has no meaning in the loss focal, which takes ",
        ),
        (
            "v1",
            {"guidance.drop_path": 0.1, "guidance.tune": "head"},
            "config.guidance.drop_path=0.1 needs config.guidance.tune=full, not head, whose ",
        ),
        (
            "classifier",
            {"guidance.mix": "both", "guidance.tune": "head"},
            "config.guidance.mix=both cuts images, but with config.guidance.tune=head a ",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(recipe, changes, message):
    assert refused(changes, recipe).startswith(message)


@pytest.mark.parametrize("changes", [{}, {"data.class_names": ("a", "b"), "sampling.clip": (0, 1)}])
@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_a_configuration_survives_json(recipe, changes):
    config = recipes.get(recipe).changed(changes)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    # As the command line holds it, with tuples.
    assert Config.from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train: train.pop("epochs"), "W: config.train.epochs is missing"),
        (
            lambda train: train.update(epoch=3),
            "W: config.train.epoch: there is no such field; did you mean train.epochs?",
        ),
        (
            lambda train: train.update(share_guidance=True),
            "W: config.train.share_guidance was removed; leave it out",
        ),
        (
            lambda train: train.update(epochs="many"),
            "config.train.epochs='many' is of the wrong type; give int",
        ),
    ],
)
def test_a_dictionary_of_other_fields_is_refused(change, message):
    values = Config().to_dict()
    change(values["train"])
    with pytest.raises(InputError) as error:
        Config.from_dict(values, "W")
    assert str(error.value) == message


@pytest.mark.parametrize("name", REGISTRIES)
def test_the_choices_are_what_there_is(name):
    assert set(FIELDS[name].choices) == set(REGISTRIES[name])


@pytest.mark.parametrize("start", FIELDS["sampling.start"].choices)
def test_every_choice_of_timesteps_exists(start):
    schedule = schedules.make_schedule()
    assert len(samplers.timesteps(schedule, 10, start)) == 10
    with pytest.raises(ValueError, match="is unknown"):
        samplers.timesteps(schedule, 10, start.upper())


@pytest.mark.parametrize("precision", FIELDS["diffusion.precision"].choices)
def test_every_choice_of_precision_exists(precision):
    assert schedules.make_schedule(precision=precision).num_train_steps == 1000
