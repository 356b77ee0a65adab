"""What the networks are given in a training step, and what is made of it, by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.state import init_state
from diffmic_jax.method.train_step import train_step
from diffmic_jax.types import Batch, Variables
from tests.tiny import make_method, variables_of

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
"""The paper's schedule."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


def batch_of(image: np.ndarray) -> Batch:
    return Batch(jnp.asarray(image), np.arange(8, dtype=np.int32) % 3, np.ones(8, np.float32))


def test_bytes_are_normalised_before_they_reach_a_network(pixels):
    method = make_method(steps_per_epoch=10)
    state = jax.jit(partial(init_state, method))(jax.random.key(0))
    floats = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    step = jax.jit(partial(train_step, method))
    of_bytes, of_floats, of_raw = (
        step(state, batch_of(image), jax.random.key(1))[1]
        for image in (pixels, floats.astype(np.float32), pixels.astype(np.float32))
    )
    for name in ("guidance_loss", "loss", "mse", "mmd_1", "mmd_2"):
        assert float(of_bytes[name]) == pytest.approx(float(of_floats[name]), rel=1e-4), name
    assert abs(float(of_raw["mse"]) / float(of_bytes["mse"]) - 1) > 1e-2


@pytest.mark.parametrize(("recipe", "mirrored"), [("v1", True), ("v1_public", True), ("v2", False)])
def test_timesteps_are_antithetic_in_v1_and_of_every_cell_in_v2(recipe, mirrored):
    method = make_method(recipe, guidance__num_regions=6)
    t, eps, _ = steps._timesteps_and_noise(method, 64, jax.random.key(0))
    cells = (6, 6) if recipe == "v2" else ()
    assert (t.shape, eps.shape) == ((64, *cells), (64, *cells, 3))
    assert np.array_equal(t[33:], 999 - t[:31]) == mirrored
    if cells:  # 36 of 1,000 are hardly ever fewer than 30 different ones
        assert min(len(np.unique(each)) for each in np.asarray(t)) >= 30
    assert len(np.unique(eps)) == eps.size


def without_output(variables: Variables) -> Variables:
    """The variables with a last layer of zeros: the denoiser predicts no noise."""
    params = variables["params"]
    output = jax.tree.map(jnp.zeros_like, params["denoiser"]["output"])
    return variables | {
        "params": params | {"denoiser": params["denoiser"] | {"output": output}},
    }


def test_the_loss_of_the_denoised_label_counts_by_the_share_of_the_signal(pixels):
    changes = {"train__label_weight": 0.7, "train__noise_weight": 0.2, "train__mmd_weight": 0.0}
    method = make_method(**changes)
    variables = without_output(variables_of(method))
    batch = batch_of((pixels / 128 - 1).astype(np.float32))
    guidance = jax.jit(partial(steps.guide, method))(variables, batch)
    t = np.array([0, 100, 300, 400, 500, 600, 700, 999])
    eps = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    loss = jax.jit(partial(steps.diffusion_loss, method))
    scalars, _ = loss(variables, batch, guidance, t, eps)

    total = 0.0
    for i, ab in enumerate(ALPHA_BAR[t]):
        label = np.eye(3)[i % 3]
        # Without noise in the estimate, what was added stays in the label.
        logits = label + np.sqrt(1 - ab) / np.sqrt(ab) * eps[i].astype(np.float64)
        total += ab * (np.log(np.exp(logits).sum()) - logits[i % 3])
    assert float(scalars["label_loss"]) == pytest.approx(total / 8, rel=1e-4)
    assert float(scalars["mse"]) == pytest.approx(np.mean(np.square(eps)), rel=1e-5)
    expected = 0.7 * total / 8 + 0.2 * np.mean(np.square(eps))
    assert float(scalars["loss"]) == pytest.approx(expected, rel=1e-4)
