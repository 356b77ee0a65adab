"""What of a trunk is where, and what of it learns."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffmic_jax.diffusion.losses import cross_entropy
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, init_state
from diffmic_jax.method.train_step import guidance_loss, guide, train_step
from diffmic_jax.method.tuning import make_tuning
from diffmic_jax.nn import trunks
from diffmic_jax.nn.baselines.classifier import PlainClassifier
from diffmic_jax.types import Batch
from tests.helpers import arbitrary_variables
from tests.tiny import make_config, make_method


def classifier(trunk: nn.Module) -> PlainClassifier:
    return PlainClassifier(num_classes=2, global_trunk=trunk)


def test_the_rates_of_blocks_that_nobody_knows_are_refused():
    config = make_config(Path(), "classifier", guidance__layer_decay=0.8)
    with pytest.raises(InputError, match="config.guidance.layer_decay=0.8 needs a trunk whose bl"):
        make_tuning(config, classifier(nn.Dense(3)))
    make_tuning(config, classifier(trunks.build("tiny")))
    make_tuning(config.changed({"guidance.layer_decay": 1.0}), classifier(nn.Dense(3)))


TUNED = {
    "full": {"conv1", "bn1", "layer1_0", "layer2_0", "classifier"},
    "last_blocks": {"layer2_0", "classifier"},
    "head": {"classifier"},
}
"""Parameters of a plain classifier on the trunk `tiny_two` that learn."""


def tuned_method(tune: str, **changes: object) -> Method:
    plain = {
        "guidance__backbone": "tiny_two",
        "guidance__tune": tune,
        "guidance__warmup_epochs": 0,
        "guidance__learning_rate": 1e-2,
        "train__ema": True,
    }
    return make_method("classifier", steps_per_epoch=10, **plain | changes)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    label = np.arange(8, dtype=np.int32) % 3
    image[np.arange(8), :, :, label] += 1
    return Batch(jnp.asarray(image), label, np.ones(8, np.float32))


def start(method: Method) -> TrainState:
    """A state whose statistics and averages are not those of a fresh one."""
    shapes = jax.eval_shape(partial(init_state, method), jax.random.key(0))
    variables = arbitrary_variables(shapes.variables())
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    averages = {f"ema_{kind}": jax.tree.map(lambda x: x + 1, variables[kind]) for kind in variables}
    return zeros.replace(**variables, **averages)


def changed(before: Any, after: Any) -> set[str]:
    """First names, in a trunk or of a head, of the arrays of the guidance that are not the same."""

    def names(tree: Any) -> dict[str, Any]:
        own = tree["guidance"]
        return own["global_trunk"] | {k: own[k] for k in own if k != "global_trunk"}

    before, after = names(before), names(after)
    same = {name: jax.tree.map(np.array_equal, before[name], after[name]) for name in before}
    return {name for name, equal in same.items() if not all(jax.tree.leaves(equal))}


@pytest.mark.parametrize("tune", TUNED)
def test_what_is_frozen_stays_bit_for_bit_and_has_no_moments(batch, tune):
    method = tuned_method(tune, guidance__optimizer="adamw", guidance__weight_decay=0.1)
    before = start(method)
    state, step = before, jax.jit(partial(train_step, method))
    for _ in range(2):
        state, _ = step(state, batch, jax.random.key(0))
    assert changed(before.params, state.params) == TUNED[tune]
    assert changed(before.ema_params, state.ema_params) == TUNED[tune]
    statistics = {"bn1", "layer1_0", "layer2_0"} if tune == "full" else set()
    assert changed(before.batch_stats, state.batch_stats) == statistics
    moments = state.opt_state["guidance"][0].mu
    assert set(moments.get("global_trunk", {})) | {"classifier"} == TUNED[tune]
    assert jax.tree.structure(state) == jax.tree.structure(before)


@pytest.mark.parametrize("tune", ["last_blocks", "head"])
def test_the_gradient_norm_is_that_of_what_learns(batch, tune):
    method = tuned_method(tune)
    state = start(method)

    def loss(params: Any) -> Any:
        trial = state.variables() | {"params": {"guidance": params}}
        return guidance_loss(method, trial, batch)[0]["guidance_loss"]

    grads = jax.jit(jax.grad(loss))(state.params["guidance"])
    trunk = grads.pop("global_trunk")
    grads |= {name: tree for name, tree in trunk.items() if name in TUNED[tune]}
    _, scalars = jax.jit(partial(train_step, method))(state, batch, jax.random.key(0))
    np.testing.assert_allclose(scalars["guidance_grad_norm"], optax.tree.norm(grads), rtol=1e-4)


def test_the_trunk_of_a_head_is_in_evaluation_mode(batch):
    method = tuned_method("head")
    variables = start(method).variables()
    scalars, _ = jax.jit(partial(guidance_loss, method))(variables, batch)
    logits = jax.jit(partial(guide, method))(variables, batch).fused
    expected = cross_entropy(logits, jax.nn.one_hot(batch.label, 3)).mean()
    np.testing.assert_allclose(scalars["guidance_loss"], expected, rtol=1e-5)


def test_no_backward_pass_goes_through_what_is_frozen(batch):
    def operations(tune: str) -> float:
        method = tuned_method(tune)
        lowered = jax.jit(partial(train_step, method)).lower(
            start(method), batch, jax.random.key(0)
        )
        return lowered.cost_analysis()["flops"]

    forward = jax.jit(partial(guide, tuned_method("full"))).lower(
        start(tuned_method("full")).variables(), batch
    )
    forward = forward.cost_analysis()["flops"]
    assert operations("full") > 2.5 * forward
    assert operations("last_blocks") < 2.2 * forward
    assert operations("head") < 1.1 * forward


@pytest.mark.parametrize(("tune", "rate"), [("last_blocks", 1e-2), ("head", 0.1)])
def test_what_learns_fits_a_few_images(batch, tune, rate):
    method = tuned_method(tune, guidance__learning_rate=rate)
    state, step, history = start(method), jax.jit(partial(train_step, method)), []
    for _ in range(60):
        state, scalars = step(state, batch, jax.random.key(0))
        history.append(float(scalars["guidance_loss"]))
    assert history[-1] < 0.5 * history[0]


def test_the_regions_of_a_frozen_guidance_learn_their_heads_alone(batch):
    method = tuned_method("head", guidance__network="dcg")
    before = start(method)
    after, _ = jax.jit(partial(train_step, method))(before, batch, jax.random.key(0))
    same = jax.tree.map(np.array_equal, before.params["guidance"], after.params["guidance"])
    for name, tree in same.items():
        assert all(jax.tree.leaves(tree)) == name.endswith("_trunk"), name


def test_blocks_that_nobody_knows_cannot_be_the_last():
    config = make_config(Path(), "classifier", guidance__tune="last_blocks")
    with pytest.raises(InputError, match="config.guidance.tune=last_blocks needs a trunk whose bl"):
        make_tuning(config, classifier(nn.Dense(3)))
    make_tuning(config.changed({"guidance.tune": "head"}), classifier(nn.Dense(3)))


def test_the_last_quarter_of_the_blocks():
    trunk: Any = trunks.build("resnet18")
    config = make_config(Path(), "classifier", guidance__tune="last_blocks")
    tuning = make_tuning(config, classifier(trunk))
    tree = {name: {"w": 0} for block in trunk.blocks() for name in block}
    assert set(tuning.learning({"global_trunk": tree})["global_trunk"]) == {"layer4_0", "layer4_1"}
