from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import samplers
from diffmic_jax.errors import InputError
from diffmic_jax.method import build as recipe
from diffmic_jax.settings import resolve
from diffmic_jax.types import Guidance
from tests import tiny


def test_a_schedule_that_keeps_no_signal_at_the_start_is_refused():
    config = resolve(tiny.make_config(Path(), diffusion__schedule="jsd"))
    with pytest.raises(InputError, match="config.sampling.start='full': the schedule keeps no"):
        recipe.make_recipe(config, num_classes=3)


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(0, (20, 60)), (50, (20, 30)), (20, (20, 0)), (7, (7, 0))]
)
def test_the_phases_share_the_steps(tmp_path, max_steps, expected):
    config = tiny.make_config(
        tmp_path, guidance__warmup_epochs=2, train__epochs=6, train__max_steps=max_steps
    )
    built = recipe.make_recipe(resolve(config), num_classes=3, steps_per_epoch=10)
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
    built = recipe.make_recipe(resolve(config), num_classes=3, steps_per_epoch=10)
    assert built.phase_at(0).name == "joint"


def test_a_frozen_guidance_does_not_learn_with_the_denoiser(tmp_path):
    config = tiny.make_config(tmp_path, "v2", guidance__warmup_epochs=2, train__epochs=6)
    warmup, rest = recipe.make_recipe(resolve(config), num_classes=3, steps_per_epoch=10).phases
    assert (warmup.steps, warmup.learns) == (20, ("guidance",))
    assert (rest.steps, rest.learns) == (60, ("denoiser",))


@pytest.mark.parametrize(
    ("conditioning", "mmd_weight", "streams", "projections"),
    [("dual", 0.5, 3, 3), ("dual", 0.0, 1, 1), ("fused", 0.5, 3, 1), ("none", 0.5, 1, 1)],
)
def test_without_weight_there_are_no_mmd_streams(
    tmp_path, conditioning, mmd_weight, streams, projections
):
    config = tiny.make_config(
        tmp_path, denoiser__conditioning=conditioning, train__mmd_weight=mmd_weight
    )
    built = recipe.make_recipe(resolve(config), num_classes=3)
    logits = jnp.zeros((2, 3))
    guidance = Guidance(logits, logits, logits, *[None] * 4)
    assert len(built.priors(guidance)) == streams
    assert built.denoiser.num_projections == projections


def test_the_compute_type_reaches_both_networks(tmp_path):
    config = resolve(tiny.make_config(tmp_path, train__dtype="bfloat16"))
    built = recipe.make_recipe(config, num_classes=3)
    assert built.guidance.dtype == built.denoiser.dtype == jnp.bfloat16


def test_the_recipes_differ_as_the_method_says(tmp_path):
    paper, public = (
        recipe.make_recipe(resolve(tiny.make_config(tmp_path, name)), num_classes=3)
        for name in ("v1", "v1_public")
    )
    assert (paper.denoiser.num_projections, public.denoiser.num_projections) == (3, 1)
    assert (paper.guidance.crop_channels, public.guidance.crop_channels) == ("all", "first")
    assert public.denoiser.encoder_momentum == pytest.approx(0.9**3)
    assert (paper.schedule.beta.dtype, public.schedule.beta.dtype) == (np.float64, np.float32)


def test_deferred_class_weights_have_the_last_fifth_to_themselves(tmp_path):
    config = tiny.make_config(tmp_path, "classifier", guidance__class_weights="deferred")
    config.train.epochs = 10
    built = recipe.make_recipe(resolve(config), 3, steps_per_epoch=10, counts=(100, 10, 0))
    warmup, plain, last = built.phases
    assert (warmup.steps, plain.steps, last.steps) == (10, 80, 20)
    assert plain.class_weights == ()
    common, rare, none = last.class_weights
    assert common < rare
    assert none == 0
    assert built.in_phase(last).class_weights == last.class_weights
    # A run that is cut is the beginning of the whole one.
    for limit, steps in ((50, (10, 40, 0)), (100, (10, 80, 10))):
        config.train.max_steps = limit
        cut = recipe.make_recipe(resolve(config), 3, steps_per_epoch=10, counts=(100, 10, 0))
        assert tuple(phase.steps for phase in cut.phases) == steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance__loss": "ldam"}, "guidance.loss=ldam needs config.guidance.network=classifier"),
        ({"guidance__loss": "prototype"}, "loss=prototype needs config.guidance.network=classif"),
        ({"guidance__class_weights": "deferred"}, "deferred needs a recipe without diffusion"),
        (
            {"denoiser__encoder": ""},
            "sampling.num_steps=3 does not go with config.denoiser.encoder",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        resolve(tiny.make_config(tmp_path, **changes))


@pytest.mark.parametrize("changes", [{"loss": "focal"}, {"class_weights": "balanced"}])
def test_losses_of_one_class_are_refused_for_several_labels(tmp_path, changes):
    config = tiny.make_config(tmp_path)
    config.guidance.update(changes)
    with pytest.raises(InputError, match="needs images of one class"):
        recipe.make_recipe(resolve(config), 3, multi_label=True)


@pytest.mark.parametrize(
    "changes", [{}, {"rederive_eps": True}, {"eta": 1.0}, {"clip": (0.0, 0.5)}, {"clip": ()}]
)
def test_what_is_asked_of_ddim_reaches_it(tmp_path, changes):
    config = tiny.make_config(tmp_path, "v2")
    config.sampling.num_steps = 5
    config.sampling.update(changes)
    built = recipe.make_recipe(resolve(config), 3)
    noise = np.random.default_rng(0).standard_normal((5, 1, 2, 2, 2, 3)).astype(np.float32)
    mean = np.zeros(noise.shape[2:], np.float32)

    def eps_fn(y_t, t):
        return 0.9 * y_t

    expected = samplers.ddim(
        eps_fn,
        built.schedule,
        noise[0],
        mean,
        built.sampling.timesteps,
        noise,
        eta=changes.get("eta", 0.0),
        clip=changes.get("clip", (-1.0, 1.0)) or None,
        rederive_eps=changes.get("rederive_eps", False),
    )
    found = built.sampling.run(eps_fn, noise[0], mean, noise)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_labels_that_stand_together_cannot_be_balanced(tmp_path):
    config = tiny.make_config(tmp_path, train__label_weight=1.0, train__label_balance=0.5)
    with pytest.raises(InputError, match=r"config.train.label_balance=0.5 needs images of one"):
        recipe.make_recipe(resolve(config), 3, multi_label=True)
