"""Mixed images and labels, smoothed labels, and what the two blocks of a step see of them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX
from diffmic_jax.method import mixing
from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import Method
from diffmic_jax.method.objectives import fused, smoothed
from diffmic_jax.method.state import init_state
from diffmic_jax.method.train_step import train_step
from diffmic_jax.types import Batch, Guidance
from tests.tiny import make_method, variables_of

COUNT, SIDE = 64, 16


@pytest.fixture(scope="module")
def images() -> jax.Array:
    """[B, S, S, 3], image i filled with the number i."""
    return jnp.broadcast_to(
        jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None], (64, 16, 16, 3)
    )


@pytest.fixture(scope="module")
def labels() -> jax.Array:
    """[B, B], so that a mixed label says whose it is."""
    return jnp.eye(COUNT)


def own_share(labels: jax.Array) -> np.ndarray:
    """[B] of mixed labels, of which the rest is the next image's."""
    own = np.diag(labels)
    np.testing.assert_allclose(np.roll(labels, -1, axis=1).diagonal(), 1 - own, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    return own


def test_mixup_is_the_weighted_sum_of_images_and_of_labels(images, labels):
    image, target = jax.jit(mixing.mixup)(images, labels, jax.random.key(0))
    share = own_share(target)
    number = np.arange(COUNT)
    expected = share * number + (1 - share) * np.roll(number, -1)
    np.testing.assert_allclose(
        image, np.broadcast_to(expected[:, None, None, None], image.shape), rtol=1e-5
    )
    # Beta(0.2, 0.2) has most of its mass at the ends: within 0.1 of them 0.67 of it.
    assert 0.5 < np.mean((share < 0.1) | (share > 0.9)) < 0.85


def test_mixup_mixes_features_too(labels):
    features = jnp.arange(COUNT, dtype=jnp.float32)[:, None]
    mixed, target = mixing.mixup(features, labels, jax.random.key(0))
    share = own_share(target)
    number = np.arange(COUNT)
    np.testing.assert_allclose(
        mixed[:, 0], share * number + (1 - share) * np.roll(number, -1), rtol=1e-5
    )


def test_cutmix_pastes_a_rectangle_and_its_share_of_the_label(images, labels):
    image, target = jax.jit(mixing.cutmix)(images, labels, jax.random.key(0))
    share, number = own_share(target), np.arange(COUNT)[:, None, None]
    image = np.asarray(image)[..., 0]
    own, pasted = image == number, image == np.roll(number, -1, axis=0)
    assert (own | pasted).all()
    np.testing.assert_allclose(own.mean((1, 2)), share, atol=1e-6)
    for each in pasted:
        rows, columns = np.flatnonzero(each.any(1)), np.flatnonzero(each.any(0))
        assert each.sum() == len(rows) * len(columns)
        assert not len(rows) or each[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert share.min() < 0.4 and share.max() > 0.9 and share.std() > 0.15


def test_both_is_one_or_the_other(images, labels):
    mix = jax.jit(mixing.both)
    blended = []
    for seed in range(12):
        image, target = mix(images, labels, jax.random.key(seed))
        blended.append(bool(np.mod(image, 1).any()))
        own_share(target)
    assert 2 <= sum(blended) <= 10


def prediction(logits: jax.Array) -> Guidance:
    return Guidance(logits, logits, logits, *[None] * 4)


@pytest.mark.parametrize(
    ("link", "label", "soft"),
    [
        (SOFTMAX, [0.0, 1.0, 0.0, 0.0], [0.05, 0.85, 0.05, 0.05]),
        (SIGMOID, [0.0, 1.0, 1.0, 0.0], [0.1, 0.9, 0.9, 0.1]),
    ],
)
def test_smoothing_spreads_a_share_of_the_label(link, label, soft):
    plain = partial(fused, link=link, counts=())
    logits = jnp.array([[0.3, 2.0, -1.0, 0.0]])
    found = smoothed(plain, 0.2, link)(prediction(logits), jnp.array([label]))
    p = np.asarray(link.activate(logits))[0]
    if link is SOFTMAX:
        expected = -np.sum(np.array(soft) * np.log(p))
    else:
        soft = np.array(soft)
        expected = -np.mean(soft * np.log(p) + (1 - soft) * np.log(1 - p))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    assert smoothed(plain, 0.0, link) is plain


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(image), np.arange(8, dtype=np.int32) % 3, np.ones(8, np.float32))


def test_only_the_guidance_sees_mixed_images(batch):
    def scalars(**changes: object) -> dict[str, jax.Array]:
        method = make_method(steps_per_epoch=10, guidance__warmup_epochs=0, **changes)
        state = jax.eval_shape(partial(init_state, method), jax.random.key(0))
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        state = state.replace(**variables_of(method))
        return jax.jit(partial(train_step, method))(state, batch, jax.random.key(0))[1]

    plain, mixed = scalars(), scalars(guidance__mix="cutmix", guidance__label_smoothing=0.1)
    np.testing.assert_allclose(mixed["loss"], plain["loss"], rtol=1e-5)
    assert abs(mixed["guidance_loss"] - plain["guidance_loss"]) > 1e-3


def deep(**changes: object) -> Method:
    plain = {"guidance__backbone": "tiny_two", "guidance__warmup_epochs": 0}
    return make_method("classifier", steps_per_epoch=10, **plain | changes)


@pytest.mark.parametrize("remat", [False, True])
def test_stochastic_depth_follows_the_key(batch, remat):
    method = deep(guidance__drop_path=0.5, train__remat=remat)
    variables, target = variables_of(method), method.task.targets(batch.label)

    @jax.jit
    def loss(keys: jax.Array) -> jax.Array:
        return steps.guidance_loss(method, variables, batch, target, keys)[0]["guidance_loss"]

    keys = jax.random.split(jax.random.key(0), 8)
    assert loss(keys) == loss(keys)
    assert loss(keys) != loss(keys[1:])
    without = jax.jit(partial(steps.guidance_loss, deep()))(variables, batch)[0]["guidance_loss"]
    assert abs(loss(keys) - without) > 1e-3
    # In evaluation every block is there.
    ours, plain = (
        jax.jit(partial(steps.guide, m))(variables, batch).fused for m in (method, deep())
    )
    np.testing.assert_array_equal(ours, plain)


def test_the_parts_of_a_batch_have_keys_of_their_own(batch):
    method = deep(guidance__drop_path=0.5, train__accumulate=2)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 3)
    mixed = steps._mixed(method, batch, key)
    variables = variables_of(method)
    run = jax.jit(partial(steps.guidance_loss, method))
    expected = []
    for i in range(2):
        scalars, stats = run(variables, *jax.tree.map(lambda x, i=i: x[i::2], mixed))
        variables = variables | {"batch_stats": variables["batch_stats"] | {"guidance": stats}}
        expected.append(scalars["guidance_loss"])
    state = jax.eval_shape(partial(init_state, method), jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    state = state.replace(**variables_of(method))
    _, scalars = jax.jit(partial(train_step, method))(state, batch, jax.random.key(0))
    np.testing.assert_allclose(scalars["guidance_loss"], np.mean(expected), rtol=1e-5)


def test_a_mixed_image_has_the_mean_accuracy_of_its_two(batch):
    method = deep()
    variables = variables_of(method)
    target = jnp.tile(jnp.array([[0.75, 0.25, 0.0]]), (8, 1))
    found = jax.jit(partial(steps.guidance_loss, method))(variables, batch, target)[0]
    logits = jax.jit(
        lambda v: (
            method.guidance.apply(
                {k: t["guidance"] for k, t in v.items()}, batch.image, True, mutable=["batch_stats"]
            )[0].fused
        )
    )(variables)
    share = np.array([0.75, 0.25, 0.0])[np.argmax(logits, axis=1)]
    np.testing.assert_allclose(found["guidance_accuracy"], share.mean(), rtol=1e-6)
