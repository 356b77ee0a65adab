from __future__ import annotations

import importlib
import math

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from diffmic_jax import recipe
from diffmic_jax.types import InputError
from tests import tiny


def changed(field: str, value: object, name: str = "v1"):
    config = default.get_config(name)
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    return config


@pytest.mark.parametrize(
    "file", ["default", "quickstart", "pmg2000", "ham10000", "aptos2019", "busi"]
)
@pytest.mark.parametrize("name", recipe.RECIPES)
def test_every_config_resolves_with_every_recipe(file, name):
    get_config = importlib.import_module(f"configs.{file}").get_config
    config = get_config(name)
    resolved = recipe.resolve(config)
    assert resolved.recipe == name
    for field, value in recipe.RECIPES[name].items():
        own = recipe._value(config, field)
        assert recipe._value(resolved, field) == (value if own is None else own)
    built = recipe.make_recipe(resolved, num_classes=4, steps_per_epoch=10)
    assert built.sampling.num_steps == resolved.sampling.num_steps


def test_a_recipe_can_be_named_in_the_file_or_in_the_field():
    in_field = recipe.resolve(changed("recipe", "v1_public"))
    in_file = recipe.resolve(default.get_config("v1_public"))
    assert in_field.to_dict() == in_file.to_dict()


def test_a_value_that_the_user_gives_wins_over_the_recipe():
    resolved = recipe.resolve(changed("sampling.start", "full", "v1_public"))
    assert (resolved.sampling.start, resolved.sampling.readout) == ("full", "softmax")


def test_resolving_leaves_the_given_configuration_open_and_changes_nothing_twice():
    config = default.get_config()
    once = recipe.resolve(config)
    assert config.sampling.start is None
    assert recipe.resolve(once).to_dict() == once.to_dict()


@pytest.mark.parametrize(("num_steps", "draws"), [(10, 8), (11, 1)])
def test_short_chains_draw_more_often(num_steps, draws):
    assert recipe.resolve(changed("sampling.num_steps", num_steps)).sampling.num_samples == draws


@pytest.mark.parametrize("field", ["recipe", *recipe.CHOICES])
def test_an_unknown_word_is_named_with_the_choices(field):
    with pytest.raises(InputError) as error:
        recipe.resolve(changed(field, "nonsense"))
    choices = recipe.RECIPES if field == "recipe" else recipe.CHOICES[field]
    assert str(error.value) == (
        f"config.{field}='nonsense' is unknown; choose one of {', '.join(choices)}"
    )


@pytest.mark.parametrize("field", recipe._ranges(default.get_config()))
def test_a_number_out_of_range_is_named_with_the_range(field):
    low, high = recipe._ranges(default.get_config())[field]
    beyond = [low - 1] if high == math.inf else [low - 1, high + 1]
    for value in beyond:
        kind = type(recipe._value(recipe.resolve(default.get_config()), field))
        with pytest.raises(InputError, match=rf"config.{field}=.* is out of range; give "):
            recipe.resolve(changed(field, kind(value)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_has_to_be_finite(value):
    with pytest.raises(InputError, match="config.train.learning_rate=(nan|inf) is out of range"):
        recipe.resolve(changed("train.learning_rate", value))


@pytest.mark.parametrize("clip", [(5.0,), (1.0, -1.0)])
def test_a_clip_that_is_no_range_is_refused(clip):
    with pytest.raises(InputError, match="config.sampling.clip=.* is no range"):
        recipe.resolve(changed("sampling.clip", clip))


def test_a_schedule_that_keeps_no_signal_at_the_start_is_refused():
    config = recipe.resolve(changed("diffusion.schedule", "jsd"))
    with pytest.raises(InputError, match="config.sampling.start='full': the schedule keeps no"):
        recipe.make_recipe(config, num_classes=3)


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(0, (20, 60)), (50, (20, 30)), (20, (20, 0)), (7, (7, 0))]
)
def test_the_phases_share_the_steps(tmp_path, max_steps, expected):
    config = tiny.make_config(
        tmp_path, guidance__warmup_epochs=2, train__epochs=6, train__max_steps=max_steps
    )
    built = recipe.make_recipe(recipe.resolve(config), num_classes=3, steps_per_epoch=10)
    warmup, joint = built.phases
    assert (warmup.steps, joint.steps) == expected
    assert (warmup.learns, joint.learns) == (("guidance",), ("guidance", "denoiser"))
    assert built.num_steps == sum(expected)
    assert built.phase_at(expected[0] - 1) is warmup
    assert built.phase_at(expected[0]) is joint
    # A run that is cut short keeps the schedule of the whole one.
    assert built.optimization.joint_steps == 60


def test_without_warmup_the_first_step_is_joint(tmp_path):
    config = tiny.make_config(tmp_path, guidance__warmup_epochs=0)
    built = recipe.make_recipe(recipe.resolve(config), num_classes=3, steps_per_epoch=10)
    assert built.phase_at(0).name == "joint"


def test_the_compute_type_reaches_both_networks(tmp_path):
    config = recipe.resolve(tiny.make_config(tmp_path, train__dtype="bfloat16"))
    built = recipe.make_recipe(config, num_classes=3)
    assert built.guidance.dtype == built.denoiser.dtype == jnp.bfloat16


def test_the_recipes_differ_as_the_method_says(tmp_path):
    paper, public = (
        recipe.make_recipe(recipe.resolve(tiny.make_config(tmp_path, name)), num_classes=3)
        for name in ("v1", "v1_public")
    )
    assert (paper.denoiser.num_projections, public.denoiser.num_projections) == (3, 1)
    assert (paper.guidance.crop_channels, public.guidance.crop_channels) == ("all", "first")
    assert public.denoiser.encoder_momentum == pytest.approx(0.9**3)
    assert (paper.schedule.beta.dtype, public.schedule.beta.dtype) == (np.float64, np.float32)


def test_the_clip_readout_renormalises_the_mean_draw():
    draws = jnp.array([[[0.6, 0.5, -1.0], [-1.0, -2.0, -3.0]], [[1.0, -0.1, 0.0], [-1.0] * 3]])
    np.testing.assert_allclose(
        recipe.clip_readout(draws, recipe.SINGLE_LABEL),
        [[0.8, 0.2, 0.0], [1 / 3] * 3],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        recipe.clip_readout(draws, recipe.MULTI_LABEL), [[0.8, 0.2, 0.0], [0.0] * 3], atol=1e-6
    )


def test_the_softmax_readout_is_of_the_mean_draw():
    draws = jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]])
    e = math.e
    np.testing.assert_allclose(
        recipe.softmax_readout(draws, recipe.SINGLE_LABEL), [[1 / (1 + e), e / (1 + e)]]
    )
    np.testing.assert_allclose(
        recipe.softmax_readout(draws, recipe.MULTI_LABEL), [[1 / 2, e / (1 + e)]]
    )
