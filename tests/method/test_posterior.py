"""Steps of a denoiser that corrects the posterior of the guess, on small networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Recipe, make_recipe
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.settings import resolve
from diffmic_jax.training.state import init_variables
from diffmic_jax.types import Batch, Variables
from tests.helpers import arbitrary_variables
from tests.tiny import make_config


def posterior_recipe(**changes: object) -> Recipe:
    config = make_config(
        Path(),
        **{
            "denoiser__predicts": "posterior",
            "denoiser__guidance_features": True,
            "train__noise_weight": 0.0,
            "train__mmd_weight": 0.0,
            "train__label_weight": 1.0,
            "sampling__sampler": "ddim",
            **changes,
        },
    )
    recipe = make_recipe(resolve(config), num_classes=3)
    trunk = ResNet((1, 1), width=8, stem="small")
    assert recipe.denoiser is not None
    return dataclasses.replace(
        recipe,
        guidance=recipe.guidance.clone(global_trunk=trunk, local_trunk=trunk.clone()),
        denoiser=recipe.denoiser.clone(encoder=trunk.clone()),
    )


@pytest.fixture(scope="module")
def variables() -> Variables:
    recipe = posterior_recipe()
    shapes = jax.eval_shape(lambda key: init_variables(recipe, key), jax.random.key(0))
    return arbitrary_variables(shapes)


@pytest.fixture(scope="module")
def batch() -> Batch:
    image = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(image), np.arange(4, dtype=np.int32) % 3, np.ones(4, np.float32))


@pytest.mark.parametrize("num_steps", [1, 3])
def test_an_output_of_zeros_answers_with_the_guess(variables, batch, num_steps):
    changes = {"sampling__num_steps": num_steps, "sampling__average": True, "sampling__stop": 900}
    recipe = posterior_recipe(**changes)
    assert recipe.denoiser.zero_output
    begins = {kind: dict(tree) for kind, tree in variables.items()}
    output = jax.tree.map(jnp.zeros_like, variables["params"]["denoiser"]["output"])
    begins["params"]["denoiser"] = variables["params"]["denoiser"] | {"output": output}
    found = jax.jit(lambda v: steps.predict_step(recipe, v, batch, jax.random.key(0)))(begins)
    mean = recipe.priors(found.guidance)[0].mean
    # So near the noisy end y_t says next to nothing of the label.
    np.testing.assert_allclose(found.probabilities, mean, atol=0.01)
    trained = jax.jit(lambda v: steps.predict_step(recipe, v, batch, jax.random.key(0)))(variables)
    assert np.abs(trained.probabilities - mean).max() > 0.05


def test_the_first_draws_are_not_told_the_guess(variables, batch):
    recipe = posterior_recipe(
        sampling__num_steps=1, sampling__num_samples=4, sampling__withhold=0.5
    )
    begins = {kind: dict(tree) for kind, tree in variables.items()}
    output = jax.tree.map(jnp.zeros_like, variables["params"]["denoiser"]["output"])
    begins["params"]["denoiser"] = variables["params"]["denoiser"] | {"output": output}
    found = jax.jit(lambda v: steps.predict_step(recipe, v, batch, jax.random.key(0)))(begins)
    np.testing.assert_allclose(found.y0_hat[:2], np.full((2, 4, 3), 1 / 3), atol=0.01)
    mean = recipe.priors(found.guidance)[0].mean
    np.testing.assert_allclose(found.y0_hat[2:], np.stack([mean, mean]), atol=0.01)
    assert np.abs(mean - 1 / 3).max() > 0.03


def test_the_guess_has_its_share_of_the_answer(variables, batch):
    def answer(weight):
        recipe = posterior_recipe(sampling__guess_weight=weight, sampling__num_steps=1)
        return jax.jit(lambda v: steps.predict_step(recipe, v, batch, jax.random.key(0)))(variables)

    without, mixed = answer(0.0), answer(0.25)
    np.testing.assert_array_equal(without.y0_hat, mixed.y0_hat)
    guess = jax.nn.softmax(mixed.guidance.fused)
    expected = 0.75 * without.probabilities + 0.25 * guess
    np.testing.assert_allclose(mixed.probabilities, expected, atol=1e-6)
    assert np.abs(guess - without.probabilities).max() > 0.01


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("guidance_dropout", lambda logits: 0 * logits),
        ("guidance_swap", lambda logits: jnp.roll(logits, 1, axis=0)),
    ],
)
def test_a_guess_is_withheld_or_swapped(variables, batch, field, told):
    recipe = posterior_recipe(**{f"denoiser__{field}": 1.0})
    t, eps, luck = steps._draws(recipe, batch, jax.random.key(0))
    guidance = steps.guide(recipe, variables, batch)
    branches = ("fused", "global_", "local")
    other = guidance._replace(**{name: told(getattr(guidance, name)) for name in branches})
    loss, _, _ = steps._denoiser_loss(recipe, variables, batch, guidance, t, eps, luck)
    for seen, same in ((other, True), (guidance, False)):
        expected, _ = steps.diffusion_loss(recipe, variables, batch, seen, t, eps)
        assert (loss["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)) is same


def test_the_share_that_is_not_told_is_as_asked():
    recipe = posterior_recipe()
    images = Batch(np.zeros((10_000, 0)), np.zeros(10_000), np.ones(10_000))
    luck = np.sort(steps._draws(recipe, images, jax.random.key(0))[2])
    np.testing.assert_allclose(luck, np.linspace(0, 1, 10_000), atol=0.02)


def test_every_second_draw_begins_on_the_other_side(variables, batch):
    recipe = posterior_recipe(sampling__num_samples=4, sampling__antithetic=True)
    starts: list = []

    def run(eps_fn, y_init, prior_mean, noise):
        starts.extend([y_init - prior_mean, noise])
        return y_init

    watched = dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, run=run))
    steps.predict_step(watched, variables, batch, jax.random.key(0))
    start, noise = starts
    np.testing.assert_allclose(start[1::2], -start[::2], atol=1e-6)
    np.testing.assert_array_equal(noise[:, 1::2], -noise[:, ::2])
    assert np.abs(start[0] - start[2]).max() > 0.1


def test_the_embedding_is_made_of_the_guidances_features_too(variables, batch):
    recipe = posterior_recipe()
    guidance = steps.guide(recipe, variables, batch)
    assert guidance.features.shape == (4, 2 * 16)
    with_them = steps.embed(recipe, variables, batch, guidance)
    others = guidance._replace(features=guidance.features + 1)
    assert np.abs(steps.embed(recipe, variables, batch, others) - with_them).max() > 1e-3
