from __future__ import annotations

import importlib
import math

import pytest

from configs import default
from diffmic_jax import settings
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import make_recipe


def changed(field: str, value: object, name: str = "v1"):
    config = default.get_config(name)
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    return config


@pytest.mark.parametrize(
    "file", ["default", "quickstart", "pmg2000", "ham10000", "aptos2019", "busi", "chestxray14"]
)
@pytest.mark.parametrize("name", settings.RECIPES)
def test_every_config_resolves_with_every_recipe(file, name):
    get_config = importlib.import_module(f"configs.{file}").get_config
    config = get_config(name)
    resolved = settings.resolve(config)
    assert resolved.recipe == name
    for field, value in settings.RECIPES[name].items():
        own = settings._value(config, field)
        assert settings._value(resolved, field) == (value if own is None else own)
    built = make_recipe(resolved, num_classes=4, steps_per_epoch=10)
    assert built.sampling.num_steps == resolved.sampling.num_steps


def test_a_recipe_can_be_named_in_the_file_or_in_the_field():
    in_field = settings.resolve(changed("recipe", "v1_public"))
    in_file = settings.resolve(default.get_config("v1_public"))
    assert in_field.to_dict() == in_file.to_dict()


def test_a_value_that_the_user_gives_wins_over_the_recipe():
    resolved = settings.resolve(changed("sampling.start", "full", "v1_public"))
    assert (resolved.sampling.start, resolved.sampling.readout) == ("full", "softmax")


def test_resolving_leaves_the_given_configuration_open_and_changes_nothing_twice():
    config = default.get_config()
    once = settings.resolve(config)
    assert config.sampling.start is None
    assert settings.resolve(once).to_dict() == once.to_dict()


@pytest.mark.parametrize(("num_steps", "draws"), [(10, 8), (11, 1)])
def test_short_chains_draw_more_often(num_steps, draws):
    assert settings.resolve(changed("sampling.num_steps", num_steps)).sampling.num_samples == draws


@pytest.mark.parametrize("field", ["recipe", *settings.CHOICES])
def test_an_unknown_word_is_named_with_the_choices(field):
    with pytest.raises(InputError) as error:
        settings.resolve(changed(field, "nonsense"))
    choices = settings.RECIPES if field == "recipe" else settings.CHOICES[field]
    assert str(error.value) == (
        f"config.{field}='nonsense' is unknown; choose one of {', '.join(choices)}"
    )


@pytest.mark.parametrize("field", settings._ranges(default.get_config()))
def test_a_number_out_of_range_is_named_with_the_range(field):
    low, high = settings._ranges(default.get_config())[field]
    beyond = [low - 1] if high == math.inf else [low - 1, high + 1]
    for value in beyond:
        kind = type(settings._value(settings.resolve(default.get_config()), field))
        with pytest.raises(InputError, match=rf"config.{field}=.* is out of range; give "):
            settings.resolve(changed(field, kind(value)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_has_to_be_finite(value):
    with pytest.raises(InputError, match="config.train.learning_rate=(nan|inf) is out of range"):
        settings.resolve(changed("train.learning_rate", value))


@pytest.mark.parametrize("clip", [(5.0,), (1.0, -1.0)])
def test_a_clip_that_is_no_range_is_refused(clip):
    with pytest.raises(InputError, match="config.sampling.clip=.* is no range"):
        settings.resolve(changed("sampling.clip", clip))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"data.image_size": 100},
            "config.data.image_size=100 does not fit efficientsam_s; give a",
        ),
        (
            {"denoiser.conditioning": "global", "sampling.initial": "random_map"},
            "needs config.deno",
        ),
        ({"denoiser.conditioning": "none"}, "config.sampling.initial=map needs a condition of one"),
        ({"denoiser.predicts": "posterior"}, "needs a guess to start from, but .*conditioning=map"),
        ({"train.noise_weight": 0.0}, "are both 0, so that the denoiser has nothing to learn"),
        ({"denoiser.pretrained": "guidance"}, "give denoiser.encoder=resnet18, denoiser.width=64"),
        ({"sampling.stop": 500}, "config.sampling.stop=500 needs config.sampling.start=full"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    config = default.get_config("v2")
    with config.unlocked():
        config.update_from_flattened_dict(values)
    with pytest.raises(InputError, match=message):
        settings.resolve(config)


def test_the_parts_of_a_batch_are_equal():
    with pytest.raises(InputError, match="accumulate=5 does not divide config.train.batch_size=32"):
        settings.resolve(changed("train.accumulate", 5))


@pytest.mark.parametrize("file", ["ham10000", "aptos2019", "busi", "pmg2000"])
def test_v2_takes_ten_steps_on_every_data_set(file):
    config = importlib.import_module(f"configs.{file}").get_config("v2")
    sampling = settings.resolve(config).sampling
    assert (sampling.num_steps, sampling.sampler, sampling.num_samples) == (10, "ddim", 8)


def test_the_map_has_a_cell_for_each_pair_of_regions():
    assert settings.resolve(changed("guidance.num_regions", 4, "v2")).denoiser.map_size == 4
    assert settings.resolve(changed("denoiser.map_size", 3, "v2")).denoiser.map_size == 3
