from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.data import transforms


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


def test_augment_can_be_turned_off(image):
    rng = np.random.default_rng(0)
    for _ in range(8):
        same = transforms.augment(image, rng, horizontal_flip=False, rotation=0)
        np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize(("vertical_flip", "axis"), [(False, 1), (True, 0)])
def test_augment_flips_half_of_the_images(image, vertical_flip, axis):
    rng = np.random.default_rng(0)
    flipped = np.flip(image, axis)
    options = {"horizontal_flip": not vertical_flip, "vertical_flip": vertical_flip}
    results = [transforms.augment(image, rng, rotation=0, **options) for _ in range(200)]
    share = np.mean([np.array_equal(result, flipped) for result in results])
    assert all(np.array_equal(r, flipped) or np.array_equal(r, image) for r in results)
    assert 0.35 < share < 0.65


def test_augment_turns_within_the_limit_and_fills_with_black():
    bar = np.zeros((65, 65, 3), np.uint8)
    bar[32, 34:60] = 255  # points to the right of the centre
    bar[0, 0] = 255
    rows, columns = np.mgrid[-32:33, -32:33]
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(200):
        turned = transforms.augment(bar, rng, horizontal_flip=False, rotation=30)[..., 0]
        weight = turned * (np.hypot(rows, columns) < 30)
        angles.append(np.degrees(np.arctan2((weight * rows).sum(), (weight * columns).sum())))
    assert np.abs(angles).max() < 31
    assert np.abs(angles).max() > 27
    np.testing.assert_allclose(np.std(angles), 60 / 12**0.5, rtol=0.15)
    white = np.full((65, 65, 3), 255, np.uint8)
    corners = [transforms.augment(white, rng, rotation=30)[0, 0].max() for _ in range(20)]
    assert min(corners) == 0


def test_augment_interpolates_between_pixels():
    half = np.zeros((32, 32, 3), np.uint8)
    half[16:] = 200
    turned = transforms.augment(half, np.random.default_rng(0), rotation=30)
    assert len(np.unique(turned)) > 10


def test_augment_is_a_function_of_the_generator(image):
    first, second, other = (
        transforms.augment(image, np.random.default_rng(seed), rotation=30) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_normalise_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    result = transforms.normalise(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-6)
