"""The folded denoiser is the plain one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Recipe, make_recipe
from diffmic_jax.nn import folded
from diffmic_jax.nn.folded import on_images
from diffmic_jax.settings import resolve
from diffmic_jax.training.state import init_variables, of_network
from diffmic_jax.types import Batch
from tests.helpers import arbitrary_variables
from tests.tiny import make_config


def tiny_recipe(name: str, **changes: object) -> tuple[Recipe, Any]:
    """A recipe on tiny networks, and values for their variables."""
    recipe = make_recipe(resolve(make_config(Path(), name, **changes)), num_classes=3)
    return recipe, variables_of(recipe)


def variables_of(recipe: Recipe) -> Any:
    shapes = jax.eval_shape(lambda key: init_variables(recipe, key), jax.random.key(0))
    return arbitrary_variables(shapes)


def inputs(recipe: Recipe, draws: int = 2, batch: int = 3) -> tuple[Any, Any, Any]:
    """y_t of several draws, the condition and the features of random images."""
    rng = np.random.default_rng(0)
    shape = (batch, *recipe.cells)
    kernel = of_network(variables_of(recipe), "denoiser")["params"]["projections_0"]["linear"]
    width = kernel["kernel"].shape[0] - recipe.num_classes
    y_t = rng.standard_normal((draws, *shape, recipe.num_classes)).astype(np.float32)
    condition = rng.standard_normal((draws, *shape, width))
    features = rng.standard_normal((batch, recipe.denoiser.feature_dim))
    return y_t, condition.astype(np.float32), features.astype(np.float32)


def both_answers(recipe: Recipe, variables: Any) -> tuple[np.ndarray, np.ndarray]:
    """eps_hat [n, S, B, *L, C] of every step: folded, and of the module itself."""
    own = of_network(variables, "denoiser")
    y_t, condition, features = inputs(recipe)
    visited = recipe.sampling.timesteps

    @jax.jit
    def ours(own: Any) -> Any:
        respond = on_images(folded.fold(recipe.denoiser, own, visited), condition, features)
        return jnp.stack([respond(y_t, jnp.asarray(i)) for i in range(len(visited))])

    @jax.jit
    def plain(own: Any) -> Any:
        def run(y: Any, given: Any, t: int) -> Any:
            return recipe.denoiser.apply(own, y, given, t, features, False)

        pairs = [*zip(y_t, condition, strict=True)]
        return jnp.stack([jnp.stack([run(*pair, t) for pair in pairs]) for t in visited])

    return np.asarray(ours(own)), np.asarray(plain(own))


@pytest.mark.parametrize(
    ("name", "conditioning"), [("v1", None), ("v1_public", None), ("v2", None), ("v1", "none")]
)
def test_the_folded_denoiser_is_the_plain_one(name, conditioning):
    ours, plain = both_answers(*tiny_recipe(name, denoiser__conditioning=conditioning))
    assert ours.shape == plain.shape
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    assert np.abs(np.diff(plain, axis=0)).max() > 0.01  # the steps differ


def test_in_bfloat16_it_is_as_close_to_float32():
    recipe, variables = tiny_recipe("v1", train__dtype="bfloat16")
    exact, _ = both_answers(*tiny_recipe("v1"))
    ours, plain = both_answers(recipe, variables)
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).mean() <= 1.1 * np.abs(plain - exact).mean()


@pytest.mark.parametrize("name", ["v1", "v1_public", "v2"])
def test_a_prediction_is_that_of_the_plain_denoiser(name, monkeypatch):
    recipe, variables = tiny_recipe(name)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    batch = Batch(jnp.asarray(pixels), np.zeros(3, np.int32), np.ones(3))
    key = jax.random.key(3)

    def predict() -> Any:
        # A recipe of its own, so that nothing is taken from another compilation.
        fresh = dataclasses.replace(recipe)
        return jax.jit(lambda v: steps.predict_step(fresh, v, batch, key))(variables)

    ours = predict()

    def plainly(ready: Any, condition: Any, features: Any) -> Any:
        own = of_network(variables, "denoiser")

        def run(y: Any, row: Any) -> Any:
            t = jnp.asarray(recipe.sampling.timesteps)[row]
            return jnp.stack(
                [recipe.denoiser.apply(own, each, condition[0], t, features, False) for each in y]
            )

        return run

    monkeypatch.setattr(folded, "on_images", plainly)
    np.testing.assert_allclose(ours.y0_hat, predict().y0_hat, rtol=1e-4, atol=1e-4)
