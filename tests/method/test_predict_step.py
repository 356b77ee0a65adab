"""What must hold of any prediction, on small networks at 32 px."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import _mixed, content_hash, fold, predict_step
from diffmic_jax.method.train_step import guide
from diffmic_jax.types import Batch, Prediction, Variables
from tests.tiny import make_method, variables_of


@pytest.fixture(scope="module")
def method() -> Method:
    return make_method()


@pytest.fixture(scope="module")
def variables(method) -> Variables:
    return variables_of(method)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    label = np.arange(8, dtype=np.int32) % 3
    image[np.arange(8), :, :, label] += 1
    return Batch(jnp.asarray(image), label, np.ones(8, np.float32))


def mirrored(batch: Batch, *axes: int) -> Batch:
    """The batch with its images mirrored: 1 upside down, 2 left to right."""
    return batch._replace(image=np.flip(batch.image, axes))


def predict(method: Method, variables: Variables, batch: Batch, **sampling: Any) -> Prediction:
    """A prediction with other values in `method.sampling`."""
    changed = dataclasses.replace(method.sampling, **sampling)
    method = dataclasses.replace(method, sampling=changed)
    run = jax.jit(lambda v, batch: predict_step(method, v, batch, jax.random.key(7)))
    return run(variables, batch)


@pytest.fixture(scope="module")
def prediction(method, variables, batch) -> Prediction:
    return predict(method, variables, batch)


def test_prediction(prediction):
    assert prediction.y0_hat.shape == (2, 8, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.spread, prediction.y0_hat.std(0), rtol=1e-6)
    assert np.all(prediction.spread > 0)


def test_prediction_depends_neither_on_batching_nor_on_the_number_of_samples(
    method, variables, batch, prediction
):
    # The same images in another order, beside padding, known by their positions.
    order = np.array([5, 2, 7])
    part = Batch(
        np.concatenate([batch.image[order], np.zeros((1, 32, 32, 3), np.float32)]),
        np.append(batch.label[order], 0),
        np.array([1, 1, 1, 0], np.float32),
        np.append(order, 0),
    )
    ours = predict(method, variables, part, num_samples=3)
    np.testing.assert_allclose(ours.y0_hat[:2, :3], prediction.y0_hat[:, order], atol=1e-4)

    # Samples of their own.
    assert np.abs(ours.y0_hat[0] - ours.y0_hat[1]).max() > 1e-3


def test_what_is_folded_once_serves_every_batch(method, variables, batch, prediction):
    ready = jax.jit(lambda v: fold(method, v))(variables)
    run = jax.jit(lambda v, b, ready: predict_step(method, v, b, jax.random.key(7), ready))
    found = run(variables, batch, ready)
    np.testing.assert_allclose(found.y0_hat, prediction.y0_hat, rtol=1e-5)


def test_without_a_denoiser_the_prediction_is_the_guidance_prediction(batch):
    method = make_method("gmic")
    variables = variables_of(method)
    assert fold(method, variables) is None
    found = predict(method, variables, batch)
    expected = jax.nn.softmax(found.guidance.fused)
    assert found.y0_hat.shape == (1, 8, 3)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(found.spread, np.zeros((8, 3)))


COPIES = {"horizontal": [(), (2,)], "both": [(), (2,), (1,), (1, 2)]}


@pytest.fixture(scope="module")
def slanted(batch) -> Batch:
    """Images that are unlike their mirror images."""
    rows, columns = np.mgrid[:32, :32, :1][:2] / 8
    return batch._replace(image=(batch.image * rows + columns**2).astype(np.float32))


@pytest.mark.parametrize("flips", COPIES)
def test_without_a_denoiser_flips_give_the_mean_probability_over_the_copies(slanted, flips):
    method = make_method("gmic")
    variables = variables_of(method)
    run = jax.jit(lambda v, b: predict_step(method, v, b, jax.random.key(7)))
    alone = [run(variables, mirrored(slanted, *axes)) for axes in COPIES[flips]]
    found = predict(method, variables, slanted, flips=flips)
    each = np.stack([one.probabilities for one in alone])
    assert np.abs(each - each[0]).max() > 1e-2
    np.testing.assert_allclose(found.probabilities, each.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.y0_hat, each, atol=1e-5)
    np.testing.assert_allclose(found.spread, each.std(axis=0), atol=1e-5)
    own = jax.nn.softmax(found.guidance.fused)
    np.testing.assert_allclose(own, each.mean(axis=0), atol=1e-5)
    # What is drawn on the image belongs to the image as it is.
    for name in ("corners", "saliency", "patches", "attention", "features"):
        ours, theirs = getattr(found.guidance, name), getattr(alone[0].guidance, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("flips", ["none", "both"])
def test_features_of_the_copies_stand_for_the_image(slanted, flips):
    method = make_method("classifier", guidance__tune="head", sampling__flips=flips)
    variables = variables_of(method)
    run = jax.jit(lambda v, b: predict_step(method, v, b, jax.random.key(7)))
    copies = [mirrored(slanted, *axes) for axes in COPIES.get(flips, [()])]
    alone = jax.jit(partial(guide, method, variables))
    seen = np.stack([alone(copy).features for copy in copies], axis=1)
    assert seen.shape == (8, len(copies), 16)
    of_features = run(variables, slanted._replace(image=seen))
    of_images = run(variables, slanted)
    for name in ("probabilities", "spread", "y0_hat"):
        ours, theirs = getattr(of_features, name), getattr(of_images, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_with_flips_an_image_and_its_mirror_images_get_the_same_prediction(slanted):
    method = make_method("gmic", sampling__flips="both")
    variables = variables_of(method)
    run = jax.jit(lambda v, b: predict_step(method, v, b, jax.random.key(7)))
    first, *others = (run(variables, mirrored(slanted, *axes)) for axes in COPIES["both"])
    for other in others:
        np.testing.assert_allclose(other.probabilities, first.probabilities, atol=1e-5)
        np.testing.assert_allclose(other.spread, first.spread, atol=1e-5)


def test_copies_have_further_samples_of_the_diffusion(method, variables, batch, prediction):
    found = predict(method, variables, batch, flips="both")
    assert found.y0_hat.shape == (8, 8, 3)
    np.testing.assert_allclose(found.y0_hat[:2], prediction.y0_hat, atol=1e-4)
    np.testing.assert_allclose(found.spread, found.y0_hat.std(0), rtol=1e-5)
    readout = method.sampling.readout
    each = np.stack([readout(found.y0_hat[i : i + 2]) for i in range(0, 8, 2)])
    np.testing.assert_allclose(found.probabilities, each.mean(axis=0), atol=1e-6)
    # Images of one value are their own mirror images: their copies differ by the noise alone.
    flat = batch._replace(image=np.ones_like(batch.image))
    first, _, second, _ = predict(method, variables, flat, flips="horizontal").y0_hat
    assert np.abs(first - second).max() > 1e-3


def test_samples_depend_on_the_image_alone(method, variables, batch):
    """Not on where it stands, nor on what stands beside it, nor on how many samples are drawn."""
    image = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)

    def samples(order: list[int], **changes: object) -> np.ndarray:
        rows = Batch(image[order], np.zeros(len(order), np.int32), np.ones(len(order)))
        return np.asarray(predict(method, variables, rows, **changes).y0_hat)

    whole = samples([0, 1, 2])
    np.testing.assert_allclose(
        samples([2, 2, 0])[:, [0, 2]], whole[:, [2, 0]], rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(
        samples([2, 2, 0])[:, 0], samples([2, 2, 0])[:, 1], rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(samples([1], num_samples=3)[:2], whole[:, [1]], rtol=1e-5, atol=1e-4)
    assert np.abs(whole[:, 0] - whole[:, 1]).max() > 1e-2


def test_one_pixel_changes_the_number_of_an_image():
    images = np.zeros((4, 6, 5, 3), np.uint8)
    images[1, 0, 0, 0] = images[2, 0, 0, 1] = 1
    images[3, 5, 4, 2] = 255
    numbers = np.asarray(content_hash(images))
    assert numbers.dtype == np.uint32 and len({*numbers.tolist()}) == 4
    np.testing.assert_array_equal(jax.jit(content_hash)(images), numbers)
    floats = np.float32(images)
    assert len({*np.asarray(content_hash(floats)).tolist()}) == 4
    # Of many images no two have the same one, and its bits are even.
    many = np.random.default_rng(0).integers(0, 2, (2000, 4, 4, 3), np.uint8)
    found = np.asarray(content_hash(many))
    assert len({*found.tolist()}) == 2000
    ones = np.unpackbits(found.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.01


def test_the_number_of_an_image_is_of_murmurhash3():
    """Its published hashes of nothing, by seed: samples are the same in every version."""
    for words, hashed in (([0], 0), ([1], 0x514E28B7), ([0xFFFFFFFF], 0x81F16F39)):
        assert int(_mixed(jnp.array(words, jnp.uint32))[0]) == hashed
    # A byte at the first place is hashed with the hash of 1, and what other places have is added.
    images = np.array([[[[7]]], [[[200]]]], np.uint8)
    expected = _mixed(jnp.array([7, 200], jnp.uint32) ^ jnp.uint32(0x514E28B7))
    np.testing.assert_array_equal(content_hash(images), expected)


def test_copies_depend_on_the_image_alone(method, variables, batch):
    whole = predict(method, variables, batch, flips="horizontal")
    order = np.array([5, 2])
    part = Batch(batch.image[order], batch.label[order], np.ones(2, np.float32))
    found = predict(method, variables, part, flips="horizontal", num_samples=3)
    for ours, theirs in (
        (found.y0_hat[:2], whole.y0_hat[:2]),
        (found.y0_hat[3:5], whole.y0_hat[2:]),
    ):
        np.testing.assert_allclose(ours, theirs[:, order], rtol=1e-5, atol=1e-4)
