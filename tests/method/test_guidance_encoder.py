"""`denoiser.encoder=guidance`: the denoiser embeds what the guidance has computed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import embed, predict_step
from diffmic_jax.types import Batch, Variables
from tests.tiny import make_method, variables_of


@pytest.fixture(scope="module")
def method() -> Method:
    return make_method(denoiser__encoder="guidance")


@pytest.fixture(scope="module")
def variables(method) -> Variables:
    return variables_of(method)


@pytest.fixture(scope="module")
def batch() -> Batch:
    image = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(image), np.arange(4, dtype=np.int32) % 3, np.ones(4, np.float32))


def denoiser_loss(method, variables, batch):
    eps = jnp.linspace(-1, 1, 12).reshape(4, 3)
    t = jnp.arange(4)
    return steps._denoiser_loss(method, variables, batch, t, eps, jnp.ones(4))


def test_the_denoiser_has_no_trunk(variables):
    assert "encoder" not in variables["params"]["denoiser"]
    assert variables["batch_stats"]["denoiser"].keys() == {
        "embed_norm",
        *(f"norms_{i}" for i in range(3)),
    }


@pytest.mark.parametrize("network", ["dcg", "classifier"])
def test_the_embedding_is_that_of_an_encoder_with_the_weights_of_the_guidance(batch, network):
    method, other = (
        make_method(denoiser__encoder=encoder, guidance__network=network)
        for encoder in ("guidance", "tiny")
    )
    variables = variables_of(method)
    copied = {
        kind: tree | {"denoiser": tree["denoiser"] | {"encoder": tree["guidance"]["global_trunk"]}}
        for kind, tree in variables.items()
    }

    def run(method, variables):
        guidance = steps.guide(method, variables, batch)
        return embed(method, variables, batch, guidance)

    run = jax.jit(run, static_argnums=0)
    ours, theirs = run(method, variables), run(other, copied)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.std(ours) > 0.01


def convolutions(run, *inputs) -> int:
    return str(jax.make_jaxpr(run)(*inputs)).count("conv_general_dilated[")


def test_nothing_is_computed_twice(method, variables, batch):
    once = convolutions(partial(steps.guide, method), variables, batch)
    assert once > 5
    predict = partial(predict_step, method, key=jax.random.key(0))
    for step in (predict, partial(denoiser_loss, method)):
        assert convolutions(step, variables, batch) == once
    own = make_method()
    assert convolutions(partial(denoiser_loss, own), variables_of(own), batch) > once


def test_no_gradient_reaches_the_guidance(method, variables, batch):
    @jax.jit
    def slope(params):
        def loss(params):
            return denoiser_loss(method, variables | {"params": params}, batch)[0]["loss"]

        return jax.grad(loss)(params)

    found = slope(variables["params"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(found["guidance"]))
    assert np.abs(found["denoiser"]["embed"]["linear"]["kernel"]).max() > 1e-6
