from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import transforms
from diffmic_jax.nn import preprocess


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_prepare_crops_the_centre_square(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - 30) // 2, (shape[1] - 30) // 2
    picture[top : top + 30, left : left + 30] = 200
    prepared = transforms.prepare(picture, 10)
    assert prepared.shape == (10, 10, 3)
    assert prepared.dtype == np.uint8
    assert (prepared == 200).all()


def test_prepare_shrinks_with_a_triangle_filter():
    # A pixel 0.5 from one new centre and 1.5 from the other, in a triangle of half-width 2.
    image = np.zeros((8, 8), np.uint8)
    image[:, 4] = 200
    np.testing.assert_array_equal(transforms.prepare(image, 4)[2, :, 0], [0, 25, 75, 0])


def test_prepare_averages_when_it_shrinks():
    # Without antialiasing, every second column would alias to black or white.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = transforms.prepare(stripes, 8)[:, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() <= 8


def test_prepare_repeats_gray_and_is_idempotent(image):
    prepared = transforms.prepare(image[..., 0], 16)
    assert prepared.shape == (16, 16, 3)
    assert (prepared == prepared[..., :1]).all()
    np.testing.assert_array_equal(transforms.prepare(prepared, 16), prepared)


def augmented(image: np.ndarray, count: int, seed: int = 0, **options) -> np.ndarray:
    """Many augmentations of one image."""
    images = np.repeat(image[None], count, axis=0)
    run = jax.jit(partial(transforms.augment, **options))
    return np.asarray(run(images, np.arange(count), jax.random.key(seed)))


def test_augment_can_be_turned_off(image):
    same = augmented(image, 8, flip="none", rotation=0)
    np.testing.assert_array_equal(same, np.stack([image] * 8))


def flips(results: np.ndarray, image: np.ndarray) -> np.ndarray:
    """[N, 2] whether each result is mirrored and whether it is upside down."""
    found = np.zeros((len(results), 2), bool)
    for i, result in enumerate(results):
        (found[i],) = (
            (mirrored, flipped)
            for mirrored in (False, True)
            for flipped in (False, True)
            if np.array_equal(result, image[:: 1 - 2 * flipped, :: 1 - 2 * mirrored])
        )
    return found


def test_augment_flips_half_of_the_images(image):
    both = flips(augmented(image, 200, rotation=0, flip="both"), image)
    assert (np.abs(both.mean(axis=0) - 0.5) < 0.15).all()
    assert abs(both.all(axis=1).mean() - 0.25) < 0.1  # the one does not depend on the other
    horizontal = flips(augmented(image, 200, rotation=0, flip="horizontal"), image)
    np.testing.assert_array_equal(horizontal[:, 0], both[:, 0])
    assert not horizontal[:, 1].any()


def test_augment_turns_within_the_limit_and_fills_with_black():
    bar = np.zeros((65, 65, 3), np.uint8)
    bar[32, 34:60] = 255  # points to the right of the centre
    bar[0, 0] = 255
    rows, columns = np.mgrid[-32:33, -32:33]
    angles = []
    for turned in augmented(bar, 200, flip="none", rotation=30)[..., 0]:
        weight = turned * (np.hypot(rows, columns) < 30)
        angles.append(np.degrees(np.arctan2((weight * rows).sum(), (weight * columns).sum())))
    assert np.abs(angles).max() < 31
    assert np.abs(angles).max() > 27
    np.testing.assert_allclose(np.std(angles), 60 / 12**0.5, rtol=0.15)
    white = np.full((65, 65, 3), 255, np.uint8)
    assert augmented(white, 20, rotation=30)[:, 0, 0].max(axis=-1).min() == 0


@pytest.mark.parametrize("degrees", [-90, -30, -7.5, 0, 0.2, 19, 30, 45])
def test_rotate_is_that_of_pillow(image, degrees):
    ours = np.asarray(transforms.rotate(image, np.deg2rad(degrees)))
    turned = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
    # Pillow rounds down, and may see a point on the border as outside.
    far = np.abs(ours.astype(int) - np.asarray(turned).astype(int)) > 1
    assert far.any(axis=-1).sum() <= 4


def test_augment_depends_on_the_key_and_the_index_alone(image):
    options = {"flip": "both", "rotation": 30.0}
    images = np.stack([image, image[::-1], image[:, ::-1]])
    index = np.array([7, 2, 5])
    whole = np.asarray(transforms.augment(images, index, jax.random.key(3), **options))
    order = [2, 0]
    piece = transforms.augment(images[order], index[order], jax.random.key(3), **options)
    np.testing.assert_array_equal(piece, whole[order])
    other = transforms.augment(images, index, jax.random.key(4), **options)
    assert not np.array_equal(other, whole)


def test_normalise_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    result = preprocess.IMAGENET.normalise(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-5)
    again = preprocess.IMAGENET.normalise(result)
    np.testing.assert_array_equal(again, result)  # floats are left alone
