"""Denoisers trained where the probability of each class given the features is known."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import predict_step
from diffmic_jax.method.state import init_state
from diffmic_jax.method.train_step import train_step
from diffmic_jax.types import Batch, Prior, Variables
from tests.tiny import make_method

FEATURES, STEPS, BATCH = 16, 400, 128


def method_of(parameterization: str, **changes: object) -> Method:
    """A diffusion on features, around a guidance that knows nothing of them."""
    fields: dict[str, object] = {
        "guidance__network": "classifier",
        "guidance__tune": "head",
        "guidance__frozen": True,
        "guidance__warmup_epochs": 0,
        "denoiser__encoder": "guidance",
        "denoiser__parameterization": parameterization,
        "denoiser__conditioning": "fused",
        "denoiser__gates": "ones",
        "denoiser__feature_dim": 64,
        "train__mmd_weight": 0.0,
        "train__epochs": 1,
        "sampling__num_steps": 10,
        "sampling__num_samples": 16,
        "sampling__start_std": "matched",
    }
    if parameterization == "posterior":
        fields |= {"train__noise_weight": 0.0, "train__label_weight": 1.0}
    elif parameterization != "eps":
        fields |= {"train__timestep_weight": "label"}
    return make_method(steps_per_epoch=STEPS, **fields | changes)


def probabilities(features: jax.Array) -> jax.Array:
    """p(y | x): three classes by two of the features, never certain."""
    logits = jnp.stack([features[:, 0], features[:, 1], 0 * features[:, 0]], axis=1)
    return 0.1 + 0.7 * jax.nn.softmax(3 * logits)


def trained(method: Method) -> Variables:
    """The variables after one epoch of labels that are drawn from p(y | x)."""

    def step(state, key):
        of_features, of_labels = jax.random.split(key)
        x = jax.random.normal(of_features, (BATCH, FEATURES))
        label = jax.random.categorical(of_labels, jnp.log(probabilities(x)))
        batch = Batch(x, label.astype(jnp.int32), jnp.ones(BATCH))
        return train_step(method, state, batch, jax.random.key(1))[0], None

    state = init_state(method, jax.random.key(0))
    keys = jax.random.split(jax.random.key(2), STEPS)
    return jax.jit(partial(jax.lax.scan, step))(state, keys)[0].variables()


def total_variation(method: Method, variables: Variables) -> float:
    """Mean distance between predicted and true probabilities, 0..1, on new features."""
    x = jax.random.normal(jax.random.key(3), (256, FEATURES))
    batch = Batch(x[:, None], jnp.zeros(256, jnp.int32), jnp.ones(256))
    found = jax.jit(partial(predict_step, method))(variables, batch, jax.random.key(4))
    return float(np.abs(found.probabilities - probabilities(x)).sum(axis=1).mean() / 2)


@pytest.mark.parametrize("parameterization", ["v", "y0", "edm", "posterior"])
def test_a_denoiser_of_the_label_learns_the_posterior(parameterization):
    method = method_of(parameterization, sampling__readout="chain")
    assert method.on_features
    variables = trained(method)
    assert total_variation(method, variables) < 0.15
    if parameterization == "y0":  # and the last step alone, from the mean of 16 samples
        method = method_of(parameterization)
        assert total_variation(method, variables) < 0.15


def test_a_denoiser_of_the_noise_learns_it_not_in_that_time():
    method = method_of("eps")
    assert total_variation(method, trained(method)) > 0.3


def test_the_start_has_the_noise_of_its_timestep():
    noise = np.float32([[[1.0, -2.0, 0.5]]])
    prior = Prior(np.full((1, 3), 1 / 3, np.float32), np.zeros((1, 0)), 0)
    for start, first in (("full", 999), ("truncated", 9)):
        method = make_method(
            sampling__num_steps=10, sampling__start=start, sampling__start_std="matched"
        )
        assert method.sampling.timesteps[0] == first
        std = np.sqrt(1 - method.schedule.alpha_bar[first])
        np.testing.assert_allclose(
            method.sampling.initial(prior, noise), prior.mean + std * noise, rtol=1e-6
        )
