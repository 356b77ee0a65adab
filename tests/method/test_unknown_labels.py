"""What is not known of a label teaches neither network anything."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task
from diffmic_jax.method.train_step import diffusion_loss, guidance_loss, guide
from diffmic_jax.types import Batch
from tests.tiny import CLASSES, make_config, variables_of


@pytest.fixture(scope="module")
def losses_of():
    """(label of every image [C]) -> the losses of both networks, summed, and their gradient."""
    task = Task(class_names=CLASSES, multi_label=True)
    method = build(make_config(Path()), task, steps_per_epoch=3)
    of_batch = jax.jit(partial(losses_and_slopes, method))
    return lambda label: of_batch(variables_of(method), batch(label))


def batch(label: list[int]) -> Batch:
    image = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(image), jnp.asarray([label] * 4), np.ones(4, np.float32))


def losses_and_slopes(method, variables, given):
    guidance = guide(method, variables, given)
    eps = jax.random.normal(jax.random.key(0), (4, *method.cells, 3))
    t = jnp.full((4, *method.cells), 500)

    def both(params):
        own = variables | {"params": params}
        first = guidance_loss(method, own, given)[0]["guidance_loss"]
        return first + diffusion_loss(method, own, given, guidance, t, eps)[0]["mse"]

    return jax.value_and_grad(both)(variables["params"])


def test_a_label_of_which_nothing_is_known_has_no_gradient(losses_of):
    value, slopes = losses_of([-1, -1, -1])
    assert value == 0
    assert all(not np.any(slope) for slope in jax.tree.leaves(slopes))


def test_a_label_of_which_something_is_known_has_a_finite_one(losses_of):
    value, slopes = losses_of([1, -1, 0])
    assert value > 0
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))
    assert any(np.any(slope) for slope in jax.tree.leaves(slopes))


def test_a_batch_of_which_nothing_is_known_has_finite_scalars():
    """Training stops at what is not finite."""
    method = build(make_config(Path()), Task(class_names=CLASSES, multi_label=True))
    scalars, _ = guidance_loss(method, variables_of(method), batch([-1, -1, -1]))
    assert all(np.isfinite(value) for value in scalars.values())
    known, _ = guidance_loss(method, variables_of(method), batch([1, -1, -1]))
    assert 0 <= known["guidance_accuracy"] <= 1
