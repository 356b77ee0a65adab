from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from diffmic_jax.config import Data
from diffmic_jax.data import operations, transforms, warp
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
    run = jax.jit(partial(transforms.augment, own=Data(**options)))
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


@pytest.mark.parametrize("options", [{}, {"crop": 0.5, "augmentation": "trivial"}])
def test_augment_depends_on_the_key_and_the_index_alone(image, options):
    run = jax.jit(partial(transforms.augment, own=Data(flip="both", rotation=30.0, **options)))
    images = np.stack([image, image[::-1], image[:, ::-1]])
    index = np.array([7, 2, 5])
    whole = np.asarray(run(images, index, jax.random.key(3)))
    order = [2, 0]
    piece = run(images[order], index[order], jax.random.key(3))
    np.testing.assert_array_equal(piece, whole[order])
    other = run(images, index, jax.random.key(4))
    assert not np.array_equal(other, whole)


def test_the_published_augmentation_keeps_its_random_numbers_and_its_rotation(image):
    def one(index):
        mirrored, flipped, turn = jax.random.uniform(jax.random.fold_in(key, index), (3,))
        flipped_once = jnp.where(mirrored < 0.5, image[:, ::-1], image)
        both = jnp.where(flipped < 0.5, flipped_once[::-1], flipped_once)
        return transforms.rotate(both, jnp.deg2rad(30.0) * (2 * turn - 1))

    key = jax.random.key(0)
    expected = jax.jit(jax.vmap(one))(np.arange(32))
    options = {"flip": "both", "rotation": 30.0, "crop": 1.0, "augmentation": "basic"}
    np.testing.assert_array_equal(augmented(image, 32, **options), expected)


def crop_numbers(index: int) -> np.ndarray:
    """The random numbers of an image's crop and operation, for a seed of 0."""
    own = jax.random.fold_in(jax.random.key(0), index)
    return np.asarray(jax.random.uniform(jax.random.fold_in(own, 1), (8,)))


def test_flips_rotation_and_crop_are_one_interpolation(image):
    # The values of the image, linear between its pixels, at places that the maps give together.
    centred = (np.indices((24, 24)).reshape(2, -1) - 11.5) / 24
    for i, result in enumerate(augmented(image, 8, flip="both", rotation=30, crop=0.5)):
        own = jax.random.fold_in(jax.random.key(0), i)
        mirrored, flipped, turn = np.asarray(jax.random.uniform(own, (3,)))
        angle = np.radians(30 * (2 * turn - 1))
        cos, sin = np.cos(angle), np.sin(angle)
        crop = np.asarray(warp.crop(0.5, crop_numbers(i)[:4]))
        y, x = crop[:2, :2] @ centred + crop[:2, 2:]
        y, x = cos * y + sin * x, cos * x - sin * y
        y, x = y * (1 - 2 * (flipped < 0.5)), x * (1 - 2 * (mirrored < 0.5))
        expected = interpolated(image, 24 * y + 11.5, 24 * x + 11.5)
        np.testing.assert_allclose(result.reshape(-1, 3), expected, atol=0.52)


def interpolated(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """SciPy's bilinear interpolation, [N, 3]; mirrored at the border."""
    planes = np.moveaxis(image.astype(float), -1, 0)
    return np.stack([map_coordinates(p, [y, x], order=1, mode="reflect") for p in planes], -1)


def test_a_crop_has_the_area_the_ratio_and_the_place_that_are_asked_for():
    numbers = np.random.default_rng(0).uniform(size=(4000, 4)).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(partial(warp.crop, 0.4)))(numbers))
    height, width, down, right = found[:, 0, 0], found[:, 1, 1], found[:, 0, 2], found[:, 1, 2]
    area, ratio = height * width, np.log(width / height)
    np.testing.assert_allclose(area, 0.4 + 0.6 * numbers[:, 0], rtol=1e-4)
    limit = np.minimum(np.log(4 / 3), -np.log(area))  # beyond it a side would exceed the image
    np.testing.assert_allclose(ratio, limit * (2 * numbers[:, 1] - 1), atol=1e-5)
    assert max(height.max(), width.max()) <= 1 + 1e-6
    # Uniform from border to border.
    np.testing.assert_allclose(down, (1 - height) * (numbers[:, 2] - 0.5), atol=1e-6)
    np.testing.assert_allclose(right, (1 - width) * (numbers[:, 3] - 0.5), atol=1e-6)
    np.testing.assert_allclose(warp.crop(1.0, numbers[0]), np.eye(3), atol=1e-6)


def amounts(**given: float) -> dict[str, jax.Array]:
    """Amounts of the operations, 0 unless given."""
    return {name: jnp.float32(given.get(name, 0)) for name in operations.LARGEST}


def test_one_operation_is_chosen_uniformly_with_uniform_strength():
    numbers = np.random.default_rng(0).uniform(size=(20_000, 2)).astype(np.float32)
    found = jax.jit(jax.vmap(operations.choose))(*numbers.T)
    names = [name for name, largest in operations.LARGEST.items() if largest]
    table = np.stack([found[name] / operations.LARGEST[name] for name in names], 1)
    assert ((table != 0).sum(axis=1) <= 1).all()
    share = (table != 0).mean(axis=0)
    np.testing.assert_allclose(share, 1 / len(operations.LARGEST), atol=0.01)
    strengths = table.sum(axis=1)[(table != 0).any(axis=1)]
    quantiles = np.quantile(strengths, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, [-1, -0.5, 0, 0.5, 1], atol=0.03)


def test_colours_by_hand():
    pixels = jnp.array([[[100.0, 50, 200], [60, 60, 60]], [[60, 60, 60], [60, 60, 60]]])
    gray = 0.299 * 100 + 0.587 * 50 + 0.114 * 200

    def first(**given: float) -> np.ndarray:
        return np.asarray(operations.recolour(pixels, amounts(**given))[0, 0])

    before = np.array([100, 50, 200.0])
    np.testing.assert_array_equal(first(), before)
    np.testing.assert_allclose(first(brightness=-0.5), before / 2, rtol=1e-5)
    mean = (gray + 180) / 4
    np.testing.assert_allclose(first(contrast=-1), [mean] * 3, rtol=1e-5)
    np.testing.assert_allclose(first(saturation=-1), [gray] * 3, rtol=1e-5)
    np.testing.assert_allclose(first(stretch=-1), (before - 50) * 255 / 150, rtol=1e-5)
    np.testing.assert_allclose(first(gamma=np.log(2)), 255 * (before / 255) ** 2, rtol=1e-4)
    # A corner of the smoothed image: 9 of 16 parts are the pixel itself.
    smooth = (9 * before + 7 * 60) / 16
    np.testing.assert_allclose(first(sharpness=-1), smooth, rtol=1e-5)
    np.testing.assert_allclose(first(sharpness=0.5), 1.5 * before - smooth / 2, rtol=1e-5)
    assert first(brightness=0.4).max() == 255


def test_smoothing_does_not_mix_channels_or_move_the_image():
    dot = np.zeros((5, 6, 3), np.float32)
    dot[2, 3, 1] = 16
    smooth = np.asarray(operations.smoothed(dot))
    np.testing.assert_array_equal(smooth[1:4, 2:5, 1], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert smooth.sum() == 16


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        # Where the point a quarter right of the centre, and one a quarter below, come from.
        ({"translate_x": 0.2}, [(0, 0.45), (0.25, 0.2)]),
        ({"translate_y": 0.2}, [(0.2, 0.25), (0.45, 0)]),
        ({"shear_x": 0.4}, [(0, 0.25), (0.25, 0.1)]),
        ({"shear_y": 0.4}, [(0.1, 0.25), (0.25, 0)]),
        ({"zoom": np.log(2)}, [(0, 0.125), (0.125, 0)]),
        ({"rotate": np.pi / 2}, [(0.25, 0), (0, -0.25)]),
        ({"brightness": 0.3}, [(0, 0.25), (0.25, 0)]),
    ],
)
def test_moves_by_hand(given, moved):
    points = np.array([[0, 0.25], [0.25, 0], [1, 1]])
    np.testing.assert_allclose((operations.move(amounts(**given)) @ points)[:2].T, moved, atol=1e-6)


def test_cutout_hides_a_square_in_the_mean_colour(image):
    pixels = image.astype(np.float32)
    cut = np.asarray(operations.cut_out(pixels, -0.25, np.array([0.5, 1.0])))
    hidden = (cut != pixels).any(axis=-1)
    expected = np.zeros((24, 24), bool)
    expected[9:15, 21:] = True  # half of it is outside
    np.testing.assert_array_equal(hidden, expected)
    np.testing.assert_allclose(cut[9, 21], pixels.mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(operations.cut_out(pixels, 0.0, np.array([0.5, 0.5])), pixels)


def test_outside_of_the_image_its_mirror_image_goes_on(image):
    beyond = warp.warp(image, [operations.move(amounts(translate_x=0.25, translate_y=-0.5))])
    mirrored = np.pad(image, ((12, 0), (0, 6), (0, 0)), mode="symmetric")[:24, 6:]
    np.testing.assert_allclose(beyond, mirrored, atol=0.02)


def test_trivial_augmentation_keeps_the_flips_and_the_rotation(image):
    # One number for all: an operation that moves nothing leaves the base as it is.
    options = {"flip": "both", "rotation": 30.0, "crop": 0.5}
    base = augmented(image, 60, **options).astype(int)
    more = augmented(image, 60, augmentation="trivial", **options).astype(int)
    same = (np.abs(base - more).reshape(60, -1).max(axis=1) <= 1).mean()
    identity = np.mean([crop_numbers(i)[4] * len(operations.LARGEST) < 1 for i in range(60)])
    assert 0 < identity <= same < 0.5


def test_normalise_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    result = preprocess.IMAGENET.normalise(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-5)
    again = preprocess.IMAGENET.normalise(result)
    np.testing.assert_array_equal(again, result)  # floats are left alone
