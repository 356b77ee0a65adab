from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.data import splits
from diffmic_jax.data.layouts import Record
from diffmic_jax.method.task import Task


def test_stratified_has_the_exact_size_and_the_class_proportions():
    labels = np.repeat([0, 1, 2], [600, 300, 99])
    mask = splits.stratified(labels, 0.1, np.random.default_rng(0))
    assert mask.sum() == 100
    np.testing.assert_array_equal(np.bincount(labels[mask]), [60, 30, 10])


def test_stratified_leaves_the_only_image_of_a_class_behind():
    mask = splits.stratified([0] * 9 + [1], 0.8, np.random.default_rng(0))
    assert not mask[-1]
    assert mask.sum() == 7


def test_stratified_picks_by_seed():
    def cut(seed: int) -> list[bool]:
        return splits.stratified([0, 1] * 50, 0.3, np.random.default_rng(seed)).tolist()

    assert cut(1) == cut(1)
    assert cut(1) != cut(2)


def test_stratified_picks_every_image_about_as_often():
    rng = np.random.default_rng(0)
    often = sum(splits.stratified([0] * 10 + [1] * 10, 0.3, rng).astype(int) for _ in range(1000))
    np.testing.assert_allclose(often, 300, atol=75)  # five standard deviations


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_grouped_keeps_groups_whole_and_proportions_near(fraction):
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(0, 600, 1500))
    label = (group % 10 >= 7).astype(int)
    mask = splits.grouped([f"g{g}" for g in group], np.eye(2)[label], fraction, rng)
    assert not set(group[mask]) & set(group[~mask])
    np.testing.assert_allclose(np.bincount(label[mask]), fraction * np.bincount(label), atol=2)


def test_grouped_picks_by_seed():
    groups = [str(i // 3) for i in range(90)]

    def cut(seed: int) -> list[bool]:
        return splits.grouped(groups, np.ones((90, 1)), 0.3, np.random.default_rng(seed)).tolist()

    assert cut(1) == cut(1)
    assert cut(1) != cut(2)


def test_grouped_never_takes_a_group_far_larger_than_the_part():
    assert not splits.grouped(["a"] * 50, np.ones((50, 1)), 0.1, np.random.default_rng(0)).any()


def test_grouped_cuts_enough_where_no_group_fits_its_class():
    labels = np.repeat(np.arange(20), 6)
    groups = np.arange(120) // 2
    mask = splits.grouped(groups, np.eye(20)[labels], 0.1, np.random.default_rng(0))
    assert mask.sum() == 12
    assert np.bincount(labels[mask]).max() == 2  # at most one group of a class


def test_nothing_to_cut():
    rng = np.random.default_rng(0)
    assert splits.stratified([], 0.1, rng).shape == (0,)
    assert splits.grouped([], np.ones((0, 2)), 0.1, rng).shape == (0,)


@pytest.mark.parametrize("groups", [False, True])
def test_every_image_is_held_out_by_one_fold(groups):
    task = Task(class_names=("a", "b"))
    records = [
        Record(str(i), int(i % 5 == 0), "", f"p{i // 2}" if groups else "") for i in range(60)
    ]
    parts = {"train": records[:50], "validation": records[50:], "test": []}
    held: list[str] = []
    for fold in range(3):
        cut = splits.Cut(task=task, fraction=0.1, rng=np.random.default_rng(7))
        found = splits.hold_out(parts, cut, 3, fold)
        names = [record.id for record in found["validation"]]
        assert len(names) == pytest.approx(20, abs=2)
        assert sum(record.label for record in found["validation"]) == pytest.approx(4, abs=1)
        assert {r.id for r in found["train"]} == {r.id for r in records} - {*names}
        if groups:
            sides = [{r.group for r in found[part]} for part in ("train", "validation")]
            assert not sides[0] & sides[1]
        held += names
    assert sorted(held) == sorted(record.id for record in records)
