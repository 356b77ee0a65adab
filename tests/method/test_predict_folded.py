"""A prediction goes through the folded denoiser, and is that of the plain one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.predict_step import predict_step
from diffmic_jax.method.state import of_network
from diffmic_jax.nn import folded
from diffmic_jax.types import Batch
from tests.tiny import make_method, variables_of


@pytest.mark.parametrize("name", ["v1", "v1_public", "v2"])
def test_a_prediction_is_that_of_the_plain_denoiser(name, monkeypatch):
    method = make_method(name)
    variables = variables_of(method)
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
