"""The phantom: a pure function of seed and index whose difficulty is as intended."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffmic_jax.data import phantom

ACROSS = np.linspace(-1, 1, 401)


def placentas(grade: int, number: int = 200) -> list[phantom.Placenta]:
    return [phantom.draw_placenta(np.random.default_rng([grade, i]), grade) for i in range(number)]


def deepest(placenta: phantom.Placenta) -> float:
    return float(phantom.indentation(placenta, ACROSS).max())


def test_an_image_depends_on_seed_and_index_alone():
    forward = [phantom.generate(3, index) for index in (5, 6, 7)]
    backward = [phantom.generate(3, index) for index in (7, 6, 5)][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert (forward[0] != forward[1]).mean() > 0.3
    assert (forward[0] != phantom.generate(4, 5)).mean() > 0.3


@pytest.mark.parametrize("size", [64, 160])
def test_images_are_gray_bytes_that_use_their_range(size):
    image = phantom.generate(0, 0, size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    assert np.ptp(image) > 150


def test_size_only_changes_the_sampling_of_the_same_scene():
    # Twice the pixels: each coarse pixel's centre lies amid four fine ones.
    fine = phantom.generate(0, 1, 320).reshape(160, 2, 160, 2).mean((1, 3))
    coarse = phantom.generate(0, 1, 160)
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("index", [-1, 2098])
def test_an_index_outside_the_data_set_is_refused(index):
    with pytest.raises(IndexError, match="0 to 2097"):
        phantom.generate(0, index)


def test_counts_are_those_of_the_collection_it_stands_in_for():
    rows = phantom.records(0)
    assert [index for index, *_ in rows] == list(range(2098))
    assert Counter(grade for _, grade, _ in rows) == {0: 518, 1: 501, 2: 548, 3: 531}
    assert Counter(split for *_, split in rows) == {"train": 1678, "test": 420}


def test_every_grade_is_split_eight_to_two():
    pairs = Counter((grade, split) for _, grade, split in phantom.records(0))
    for grade, count in enumerate(phantom.COUNTS):
        assert abs(pairs[grade, "train"] - 0.8 * count) <= 0.5


def test_order_reveals_neither_grade_nor_split():
    rows = phantom.records(0)
    grades = np.array([grade for _, grade, _ in rows])
    test = np.array([split == "test" for *_, split in rows])
    order = np.arange(len(rows))
    assert abs(np.corrcoef(order, grades)[0, 1]) < 0.07
    assert abs(np.corrcoef(order, test)[0, 1]) < 0.07
    assert phantom.records(1) != rows


@pytest.mark.parametrize("index", range(6))
def test_outside_the_fan_is_black(index):
    scanner = phantom.draw_scanner(np.random.default_rng(index))
    fan = phantom.scan_convert(np.ones((160, 112)), scanner, 96)
    assert set(np.unique(fan)) == {0, 255}
    assert not fan[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    np.testing.assert_array_equal(fan, fan[:, ::-1])
    assert 0.35 < (fan > 0).mean() < 0.75

    image = phantom.generate(0, index)
    assert not image[:30, [*range(30), *range(-30, 0)]].any()


def test_indentations_deepen_with_the_grade_without_overlap():
    depths = [[deepest(placenta) for placenta in placentas(grade)] for grade in range(4)]
    for shallower, deeper in zip(depths, depths[1:], strict=False):
        assert max(shallower) < min(deeper)
    assert max(depths[0]) < 0.1  # smooth
    assert max(depths[2]) < 0.8  # short of the basal layer
    assert min(depths[3]) > 0.8  # down to it


def test_the_plate_grows_rougher_with_the_grade():
    rough = [
        np.mean([np.ptp(phantom.indentation(placenta, ACROSS)) for placenta in placentas(grade)])
        for grade in range(4)
    ]
    assert np.all(np.diff(rough) > 0.1)


def test_foci_grow_in_number_size_and_shadow():
    drawn = [[placenta.foci for placenta in placentas(grade)] for grade in range(4)]
    number = [np.mean([len(foci) for foci in grade]) for grade in drawn]
    basal = [np.mean([(foci[:, 1] > 0.86).sum() for foci in grade]) for grade in drawn]
    assert np.all(np.diff(number) > 0.5)
    assert basal[0] == 0
    assert np.all(np.diff(basal) > 0.3)
    size, loss = np.transpose([np.concatenate(grade)[:, 2:].mean(0) for grade in drawn[1:]])
    assert np.all(np.diff(size) > 0.001)
    assert np.all(np.diff(loss) > 0.1)


def test_nuisance_does_not_depend_on_the_grade():
    drawn = [placentas(grade, 400) for grade in range(4)]
    for value in (lambda p: p.thickness, lambda p: p.surface[2], lambda p: p.anterior):
        means = [np.mean([value(placenta) for placenta in grade]) for grade in drawn]
        spread = np.std([value(placenta) for placenta in drawn[0]])
        assert np.ptp(means) < 0.3 * spread


def test_a_focus_casts_a_shadow():
    """The same scene, with and without the loss in its foci, is darker below them."""
    placenta = placentas(3, 1)[0]._replace(
        foci=np.array([[0.0, 0.95, 0.02, 1.5]]), anterior=False, lakes=np.zeros((0, 4))
    )
    clear = placenta._replace(foci=placenta.foci * [1, 1, 1, 0])
    scanner = phantom.draw_scanner(np.random.default_rng(0))
    frames = [
        phantom.beam_frame(scene, scanner, np.random.default_rng(1)) for scene in (placenta, clear)
    ]
    middle, below = slice(53, 59), slice(-20, None)
    shaded, lit = (frame[below, middle].mean() for frame in frames)
    assert shaded < lit - 0.1
    beside = [frame[below, :30].mean() for frame in frames]
    assert beside[0] == pytest.approx(beside[1], abs=0.03)


def test_brightness_alone_does_not_give_the_grade_away():
    """Logistic regression on histograms of gray values stays below 0.50; chance is 0.26."""
    rows = phantom.records(0)[:800]
    images = [phantom.generate(0, index, 64) for index, *_ in rows]
    histograms = np.stack([np.histogram(image, 32, (0, 256))[0] for image in images])
    grades = np.array([grade for _, grade, _ in rows])
    train = np.array([split == "train" for *_, split in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(histograms[train], grades[train])
    assert model.score(histograms[~train], grades[~train]) < 0.5
