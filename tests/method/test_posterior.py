"""Steps of a denoiser that corrects the posterior given the guidance, on small networks."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step
from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import predict_step
from diffmic_jax.types import Batch, Prediction, Variables
from tests.tiny import make_method, variables_of


def posterior_method(**changes: object) -> Method:
    posterior = {
        "denoiser__parameterization": "posterior",
        "train__noise_weight": 0.0,
        "train__mmd_weight": 0.0,
        "train__label_weight": 1.0,
        "sampling__sampler": "ddim",
    }
    return make_method(**posterior | changes)


@pytest.fixture(scope="module")
def variables() -> Variables:
    return variables_of(posterior_method())


@pytest.fixture(scope="module")
def fresh(variables) -> Variables:
    """The variables with a last layer of zeros, as training starts."""
    output = jax.tree.map(jnp.zeros_like, variables["params"]["denoiser"]["output"])
    denoiser = variables["params"]["denoiser"] | {"output": output}
    return variables | {"params": variables["params"] | {"denoiser": denoiser}}


@pytest.fixture(scope="module")
def batch() -> Batch:
    image = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(image), np.arange(4, dtype=np.int32) % 3, np.ones(4, np.float32))


def predict(method: Method, variables: Variables, batch: Batch) -> Prediction:
    return jax.jit(lambda v: predict_step(method, v, batch, jax.random.key(0)))(variables)


def test_an_output_of_zeros_predicts_what_the_guidance_does(variables, fresh, batch):
    method = posterior_method(sampling__num_steps=1)
    assert method.denoiser is not None and method.denoiser.zero_output
    found = predict(method, fresh, batch)
    mean = method.priors(found.guidance)[0].mean
    # At the noisy end y_t holds next to nothing of the label.
    np.testing.assert_allclose(found.probabilities, mean, atol=0.01)
    trained = predict(method, variables, batch)
    assert np.abs(trained.probabilities - mean).max() > 0.05


def test_the_first_samples_are_unconditional(fresh, batch):
    method = posterior_method(
        sampling__num_steps=1, sampling__num_samples=4, sampling__unconditional=0.5
    )
    found = predict(method, fresh, batch)
    np.testing.assert_allclose(found.y0_hat[:2], np.full((2, 4, 3), 1 / 3), atol=0.01)
    mean = method.priors(found.guidance)[0].mean
    np.testing.assert_allclose(found.y0_hat[2:], np.stack([mean, mean]), atol=0.01)
    assert np.abs(mean - 1 / 3).max() > 0.03


def test_the_guidance_prediction_has_its_weight_in_the_ensemble(variables, batch):
    def ensemble(weight: float) -> Prediction:
        changes = {"sampling__ensemble_weight": weight, "sampling__num_steps": 1}
        return predict(posterior_method(**changes), variables, batch)

    without, mixed = ensemble(0.0), ensemble(0.25)
    np.testing.assert_array_equal(without.y0_hat, mixed.y0_hat)
    guidance = jax.nn.softmax(mixed.guidance.fused)
    expected = 0.75 * without.probabilities + 0.25 * guidance
    np.testing.assert_allclose(mixed.probabilities, expected, atol=1e-6)
    assert np.abs(guidance - without.probabilities).max() > 0.01


def test_conditioning_dropout_takes_the_guidance_prediction_of_its_share_away(variables, batch):
    uniform = np.array([0.0, 0.69, 0.71, 0.99], np.float32)
    t, eps = np.array([900, 900, 500, 500]), np.ones((4, 3), np.float32)
    guidance = jax.jit(partial(train_step.guide, make_method()))(variables, batch)
    whole = jax.jit(partial(train_step.diffusion_loss, posterior_method()))

    def loss(dropout: float) -> float:
        method = posterior_method(denoiser__conditioning_dropout=dropout)
        compiled = jax.jit(partial(train_step._denoiser_loss, method))
        found, _ = compiled(variables, batch, t, eps, uniform)
        return float(found["loss"])

    def expected(seen: np.ndarray) -> float:
        """The loss where the images in question have the guidance's logits, the others 0."""
        branches = ("fused", "global_", "local")
        kept = {name: getattr(guidance, name) * seen[:, None] for name in branches}
        given = guidance._replace(**kept)
        found, _ = whole(variables, batch, given, t, eps)
        return float(found["loss"])

    seen = {0.0: [1, 1, 1, 1], 0.7: [0, 0, 1, 1], 1.0: [0, 0, 0, 0]}
    losses = {share: loss(share) for share in seen}
    for share, mask in seen.items():
        assert losses[share] == pytest.approx(expected(np.array(mask, np.float32)), rel=1e-4)
    assert len({round(each, 4) for each in losses.values()}) == 3


def test_the_share_without_conditioning_is_as_asked():
    uniform = train_step._timesteps_and_noise(posterior_method(), 10_000, jax.random.key(0))[2]
    np.testing.assert_allclose(np.sort(uniform), np.linspace(0, 1, 10_000), atol=0.02)
