"""The training step of DiffMIC-v2 against the reference's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffmic_jax import recipes
from diffmic_jax.config import Config
from diffmic_jax.interop.names import denoiser_map
from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.optimizers import learning_rate, make_optimizers
from diffmic_jax.method.task import Task
from diffmic_jax.nn import names
from diffmic_jax.types import Batch, Guidance
from tests import golden_v2
from tests.helpers import channels_last, check


def method_of(config: Config) -> Method:
    return build(config, Task(class_names=tuple("abcd")), steps_per_epoch=10)


def golden_method() -> Method:
    return dataclasses.replace(method_of(recipes.get("v2")), denoiser=golden_v2.denoiser())


@pytest.fixture(scope="module")
def step(golden):
    """Loss, gradients and updates of one step, by torch's names."""
    g, method = golden("v2_model"), golden_method()
    image = jnp.asarray(channels_last(golden("images224")["x"]))
    batch = Batch(image, g["train_labels"].astype(np.int32), np.ones(4))
    patches = jnp.repeat(g["patches"][..., None], 3, axis=-1)
    guidance = Guidance(g["y_fusion"], g["y_global"], g["y_local"], None, None, patches, None)
    t, eps = g["train_t"].reshape(4, 6, 6), g["train_noise"].reshape(4, 6, 6, 4)
    variables = golden_v2.denoiser_variables()

    @jax.jit
    def gradient(params):
        def loss(params):
            trial = {kind: {"denoiser": tree} for kind, tree in variables.items()}
            trial["params"] = {"denoiser": params}
            scalars, _ = steps.diffusion_loss(method, trial, batch, guidance, t, eps)
            return scalars["loss"]

        return jax.value_and_grad(loss)(params)

    loss, grads = gradient(variables["params"])
    optimizer = make_optimizers(method.optimization)["denoiser"]
    updates, _ = optimizer.update(grads, optimizer.init(variables["params"]))
    names_ = denoiser_map(method.denoiser)
    by_name = (names.to_state_dict({"params": tree}, names_, {}) for tree in (grads, updates))
    return loss, optax.tree.norm(grads), *by_name


def test_golden_loss(golden, step):
    g = golden("v2_model")
    check("v2 training loss", step[0], g["train_loss"], 2e-5 * abs(g["train_loss"]))
    check("v2 gradient norm", step[1], g["train_grad_norm"], 1e-4 * g["train_grad_norm"])


def test_golden_gradients_and_updates(golden, step):
    g = golden("v2_model")
    wanted = [name.removeprefix("grad/") for name in g if name.startswith("grad/")]
    assert len(wanted) == 6
    for name in wanted:
        reference = g[f"grad/{name}"]
        scale = np.abs(reference).max()
        check(f"v2 gradient of {name}", step[2][name], reference, 1e-4 * scale)
        # Adam's first step is the rate times the gradient's sign, unless that is noise.
        clear = np.abs(reference) > 0.02 * scale
        assert clear.mean() > 0.3
        check(f"v2 update of {name}", step[3][name][clear], g[f"delta/{name}"][clear], 1e-6)


def test_golden_learning_rate(golden):
    optimization = method_of(recipes.get("v2").changed({"train.epochs": 2000})).optimization
    epochs = np.arange(0, 2001, 50)
    for offset in (0, 9):  # within an epoch the rate stays
        ours = learning_rate(optimization, jnp.asarray(epochs * 10 + offset), optimization.horizon)
        check("v2 learning rate", ours[:-1], golden("v2_lr")["lr"][:-1], 1e-9)


def test_the_guidance_learns_alone_and_then_not_at_all(golden):
    method = golden_method()
    learners = [(phase.guidance, phase.denoiser) for phase in method.phases]
    assert learners == [(True, False), (False, True)]
    adam = make_optimizers(method.optimization)["guidance"]
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.array([1.0, -2.0, 0.5])}
    state = adam.init(params)
    for scale in (1.0, 0.1):
        updates, state = adam.update(jax.tree.map(lambda x, s=scale: s * x, grads), state)
    # Adam forgets the large first gradient, AMSGrad does not.
    mean, square = (0.9 * 0.1 + 0.1 * 0.1) / 0.19, (0.999 + 0.01) / 1.999
    expected = -2e-4 * mean / np.sqrt(square) * np.sign(grads["w"])
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-4)
