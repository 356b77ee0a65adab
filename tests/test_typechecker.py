"""Shapes are checked in the tests: what does not fit is refused, and tracing changes nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jaxtyping import TypeCheckError

from diffmic_jax.diffusion import losses, process, readout, samplers
from diffmic_jax.diffusion.link import SOFTMAX
from diffmic_jax.diffusion.schedules import make_schedule
from diffmic_jax.nn import dcg, folded, trunks
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Prior
from tests import tiny_trunks  # noqa: F401  (registers `tiny`)

SCHEDULE = make_schedule(num_steps=10)
Y, IMAGE = np.zeros((2, 3), np.float32), np.zeros((2, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: process.q_sample(SCHEDULE, Y, 3, Y[:, :2], Y),
        lambda: process.predict_y0(SCHEDULE, Y, np.zeros(3, int), Y, Y),
        lambda: process.predict_y0(SCHEDULE, Y, np.zeros(2), Y, Y),
        lambda: losses.noise_mse(Y, Y[None]),
        lambda: losses.cross_entropy(Y, Y[:1]),
        lambda: readout.clip(Y, SOFTMAX),
        lambda: samplers.ddim(lambda y, t: y, SCHEDULE, Y, Y, np.arange(3)[::-1], Y),
        lambda: dcg.crop_regions(IMAGE, np.zeros((2, 4, 3), int), 8),
        lambda: trunks.create("tiny_vit")[0].init(jax.random.key(0), IMAGE[..., 0], train=False),
    ],
)
def test_a_wrong_shape_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


@pytest.fixture(scope="module")
def denoiser() -> tuple[Denoiser, Any]:
    net = Denoiser(
        num_classes=3,
        encoder=trunks.build("tiny", width=8, stem="small"),
        feature_dim=16,
        num_train_steps=10,
    )
    init = jax.jit(lambda key: net.init(key, IMAGE, None, (Prior(Y, Y, 0),), method="initialize"))
    return net, init(jax.random.key(0))


def test_the_denoiser_refuses_features_of_another_size(denoiser):
    net, variables = denoiser
    net.apply(variables, Y, Y, 3, np.zeros((2, 16)), False)
    with pytest.raises(TypeCheckError):
        net.apply(variables, Y, Y, 3, np.zeros((2, 8)), False)
    with pytest.raises(TypeCheckError):
        net.apply(variables, Y, Y, np.zeros(3, int), np.zeros((2, 16)), False)


def test_a_batch_of_any_size_is_traced(denoiser):
    """As export does it, with a symbol for the size."""
    net, variables = denoiser
    steps = samplers.timesteps(SCHEDULE, 3)

    def sample(image: Any, y: Any) -> Any:
        features = net.apply(variables, image, None, False, method="encode")
        respond = folded.on_images(folded.fold(net, variables, steps), y[None], features)

        def eps_fn(y_t: Any, t: Any) -> Any:
            return respond(y_t, t // 4)

        return samplers.ddim(eps_fn, SCHEDULE, y[None], y, steps)

    shapes = (
        jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), jnp.float32)
        for scope in [export.SymbolicScope()]
        for shape in ("b, 32, 32, 3", "b, 3")
    )
    program = export.export(jax.jit(sample))(*shapes)
    assert program.call(IMAGE, Y).shape == (1, 2, 3)


def test_one_example_at_a_time_is_traced():
    many = jnp.ones((4, 2, 3))
    t = jnp.arange(4)
    found = jax.vmap(lambda y, t: process.predict_y0(SCHEDULE, y, t, y, 0.0))(many, t)
    each = [process.predict_y0(SCHEDULE, y, i, y, 0.0) for i, y in enumerate(many)]
    np.testing.assert_allclose(found, jnp.stack(each), rtol=1e-5)
