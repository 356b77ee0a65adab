"""A prediction goes through the folded denoiser, and is that of the plain one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import recipes
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.predict_step import predict_step
from diffmic_jax.method.state import init_variables, of_network
from diffmic_jax.method.task import Task
from diffmic_jax.nn import folded
from diffmic_jax.types import Batch
from tests import tiny_trunks  # noqa: F401  (registers `tiny`)
from tests.helpers import arbitrary_variables

CHANGES = {
    "data.image_size": 32,
    "model.width": 8,
    "model.stem": "small",
    "guidance.backbone": "tiny",
    "guidance.num_regions": 2,
    "guidance.region_size": 16,
    "denoiser.encoder": "tiny",
    "denoiser.feature_dim": 16,
    "sampling.num_steps": 3,
    "sampling.num_samples": 2,
}


def tiny_method(name: str) -> tuple[Method, Any]:
    """A recipe on tiny networks, and values for their variables."""
    local = {"denoiser.local_encoder": "tiny"} if name == "v2" else {}
    method = build(recipes.get(name).changed(CHANGES | local), Task(class_names=("a", "b", "c")))
    shapes = jax.eval_shape(lambda key: init_variables(method, key), jax.random.key(0))
    return method, arbitrary_variables(shapes)


@pytest.mark.parametrize("name", ["v1", "v1_public", "v2"])
def test_a_prediction_is_that_of_the_plain_denoiser(name, monkeypatch):
    method, variables = tiny_method(name)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    batch = Batch(jnp.asarray(pixels), np.zeros(3, np.int32), np.ones(3, np.float32))
    key = jax.random.key(3)

    def predict() -> Any:
        # A method of its own, so that nothing is taken from another compilation.
        fresh = dataclasses.replace(method)
        return jax.jit(lambda v: predict_step(fresh, v, batch, key))(variables)

    ours = predict()

    def plainly(ready: Any, condition: Any, features: Any) -> Any:
        own = of_network(variables, "denoiser")

        def run(y: Any, row: Any) -> Any:
            t = jnp.asarray(method.sampling.timesteps)[row]
            return jnp.stack(
                [method.denoiser.apply(own, each, condition[0], t, features, False) for each in y]
            )

        return run

    monkeypatch.setattr(folded, "on_images", plainly)
    np.testing.assert_allclose(ours.y0_hat, predict().y0_hat, rtol=1e-4, atol=1e-4)
