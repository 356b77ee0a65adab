from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples
from diffmic_jax.data.layouts import Record
from diffmic_jax.data.loader import Batching
from diffmic_jax.data.store import CachedPixels
from diffmic_jax.errors import InputError
from diffmic_jax.types import Batch

SIZE = 8
COUNT = 23


@pytest.fixture
def examples(tmp_path) -> Examples:
    """23 images of noise; their rows in the file are in another order."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT + 5, SIZE, SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    rows = np.random.default_rng(1).permutation(len(pixels))[:COUNT]
    records = tuple(Record(f"id{i}", i % 3, str(i)) for i in range(COUNT))
    label = np.arange(COUNT, dtype=np.int32) % 3
    return Examples(records, label, CachedPixels(tmp_path / "images.npy"), rows)


def train(
    examples: Examples,
    num_steps: int = 12,
    *,
    seed: int = 0,
    start_step: int = 0,
    balance: float = 0.0,
    **options,
) -> list[Batch]:
    batching = Batching(**({"batch_size": 4} | options))
    order = {"seed": seed, "num_steps": num_steps, "start_step": start_step, "balance": balance}
    return list(loader.train_batches(examples, batching, **order))


def evaluate(examples: Examples, **options) -> list[Batch]:
    return list(loader.eval_batches(examples, Batching(**options)))


def assert_same(left: Iterable[Batch], right: Iterable[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def indices(batches: list[Batch]) -> np.ndarray:
    return np.stack([np.asarray(batch.index) for batch in batches])


def test_a_batch_has_the_shapes_and_types_of_the_contract(examples):
    (batch,) = train(examples, 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch._asdict().items()} == {
        "image": ((4, SIZE, SIZE, 3), "uint8"),
        "label": ((4,), "int32"),
        "mask": ((4,), "float32"),
        "index": ((4,), "int32"),
    }
    assert (batch.mask == 1).all()
    np.testing.assert_array_equal(batch.label, np.asarray(batch.index) % 3)


def test_a_multi_label_batch_has_a_column_for_each_class(examples):
    label = np.random.default_rng(0).integers(0, 2, (COUNT, 5), np.int32)
    (batch,) = train(replace(examples, label=label), 1)
    np.testing.assert_array_equal(batch.label, label[batch.index])


def test_images_are_those_of_the_index(examples):
    everything = np.load(examples.pixels._path)[examples.rows]
    for batch in [*train(examples), *evaluate(examples, batch_size=6)]:
        np.testing.assert_array_equal(batch.image, everything[batch.index])


def test_an_epoch_shows_no_image_twice_and_the_next_has_another_order(examples):
    epochs = indices(train(examples, 50)).reshape(10, 20)  # 23 images: 5 steps of 4 an epoch
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    left_out = {tuple(sorted(set(range(COUNT)) - set(epoch))) for epoch in epochs}
    assert len(left_out) > 5  # the remainder is dropped after the shuffle
    assert set(epochs.ravel()) == set(range(COUNT))


def test_order_follows_the_seed(examples):
    first, again, other = (indices(train(examples, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("start", [0, 3, 5, 11, 12])
def test_resuming_at_a_step_continues_bitwise(examples, start):
    assert_same(train(examples)[start:], train(examples, start_step=start))


@pytest.mark.parametrize("count", [2, 4])
def test_the_pieces_of_the_shards_joined_are_the_batch(examples, count):
    shards = [train(examples, shard_index=i, shard_count=count) for i in range(count)]
    joined = [
        Batch(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
        for pieces in zip(*shards, strict=True)
    ]
    assert_same(train(examples), joined)


@pytest.mark.parametrize(("workers", "balance"), [(1, 0.0), (2, 0.0), (3, 0.7)])
def test_worker_processes_give_the_same_batches(examples, workers, balance):
    alone = train(examples, 7, balance=balance)
    assert_same(alone, train(examples, 7, num_workers=workers, balance=balance))


def test_evaluation_counts_every_image_once_in_order(examples):
    batches = evaluate(examples, batch_size=9)
    assert [len(b.label) for b in batches] == [9, 9, 9]
    mask = np.concatenate([b.mask for b in batches])
    np.testing.assert_array_equal(mask, [1] * COUNT + [0] * 4)
    np.testing.assert_array_equal(indices(batches).ravel()[:COUNT], range(COUNT))
    np.testing.assert_array_equal(batches[2].image[5:], np.stack([batches[0].image[0]] * 4))


def test_evaluation_does_not_depend_on_batching_or_shards(examples):
    flat = np.concatenate([b.image for b in evaluate(examples, batch_size=3)])[:COUNT]
    whole = evaluate(examples, batch_size=COUNT)[0]
    np.testing.assert_array_equal(flat, whole.image)
    shards = [evaluate(examples, batch_size=4, shard_index=i, shard_count=2) for i in range(2)]
    for i, shard in enumerate(shards):
        assert len(shard) == 6
        np.testing.assert_array_equal(shard[0].index, [2 * i, 2 * i + 1])
    assert sum(b.mask.sum() for shard in shards for b in shard) == COUNT


def test_steps_per_epoch(examples):
    assert loader.steps_per_epoch(examples, 4) == 5
    assert loader.steps_per_epoch(examples, COUNT) == 1


@pytest.mark.parametrize("batch_size", [0, COUNT + 1])
def test_a_batch_larger_than_training_is_refused(examples, batch_size):
    with pytest.raises(InputError, match=r"^config\.train\.batch_size=.* 1 to 23$"):
        train(examples, batch_size=batch_size)


def test_a_batch_that_shards_cannot_share_is_refused(examples):
    with pytest.raises(InputError, match=r"^a batch of 4 images is not divisible by 3"):
        train(examples, shard_count=3)
    with pytest.raises(InputError, match=r"^a batch of 4 images is not divisible by 3"):
        evaluate(examples, batch_size=4, shard_count=3)


def test_an_empty_part_is_refused(examples):
    empty = replace(examples, records=(), label=examples.label[:0], rows=examples.rows[:0])
    with pytest.raises(InputError, match="the part has no images"):
        loader.eval_batches(empty, Batching(batch_size=4))


def test_an_abandoned_iterator_does_not_keep_the_interpreter_alive(examples):
    script = f"""
        import numpy as np
        from pathlib import Path
        from diffmic_jax.data import loader
        from diffmic_jax.data.cache import Examples
        from diffmic_jax.data.store import CachedPixels

        pixels = CachedPixels(Path({str(examples.pixels._path)!r}))
        examples = Examples(("a",) * 8, np.zeros(8, np.int32), pixels, np.arange(8))
        batching = loader.Batching(batch_size=2)
        batches = loader.train_batches(examples, batching, seed=0, num_steps=10**6)
        next(batches)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Old releases of Grain say what they cannot do with an old jaxlib.
    said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING:absl:Grain")]
    assert (done.returncode, said) == (0, [])


SKEWED = (30, 6, 0, 3)
"""Images of each class; one class has none."""


def skewed(tmp_path, counts=SKEWED) -> Examples:
    label = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    np.save(tmp_path / "skewed.npy", np.zeros((len(label), 1, 1, 3), np.uint8))
    records = tuple(Record(f"id{i}", int(c), str(i)) for i, c in enumerate(label))
    pixels = CachedPixels(tmp_path / "skewed.npy")
    return Examples(records, label, pixels, np.arange(len(label)))


@pytest.mark.parametrize("balance", [0.25, 0.5, 1.0])
def test_balance_shows_classes_by_a_power_of_their_count(tmp_path, balance):
    examples = skewed(tmp_path)
    steps = loader.steps_per_epoch(examples, 4)
    epochs = indices(train(examples, 50 * steps, balance=balance)).reshape(50, -1)
    shown = np.stack([np.bincount(examples.label[epoch], minlength=4) for epoch in epochs])
    weight = np.array([n ** (1 - balance) if n else 0 for n in SKEWED])
    expected = epochs.shape[1] * weight / weight.sum()
    assert (np.abs(shown - expected) < 1).all()  # in every epoch
    np.testing.assert_allclose(shown.mean(axis=0), expected, atol=0.05)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balance_shows_all_of_a_class_before_it_repeats_one(tmp_path, balance):
    examples = skewed(tmp_path)
    index = indices(train(examples, 400, balance=balance)).ravel()
    for c, count in enumerate(SKEWED):
        turns = index[examples.label[index] == c]
        times = np.bincount(turns, minlength=len(examples.label))[examples.label == c]
        assert count == 0 or times.max() - times.min() <= 2
    # The rare class is there in every part of an epoch, not at one end.
    assert len(set(index[:36])) < 36
    orders = index[:360].reshape(10, 36)
    assert len({tuple(order) for order in orders}) == 10
    where = np.nonzero(examples.label[orders] == 3)[1]
    assert where.min() < 4 and where.max() > 31


def test_balance_of_0_is_the_order_without_it_and_other_seeds_have_other_orders(tmp_path):
    examples = skewed(tmp_path)
    plain = indices(train(examples, 20))
    np.testing.assert_array_equal(plain, indices(train(examples, 20, balance=0.0)))
    expected = [np.random.default_rng((0, epoch)).permutation(39)[:36] for epoch in (0, 1)]
    np.testing.assert_array_equal(plain[:18].reshape(2, 36), expected)
    first, again, other = (
        indices(train(examples, 20, balance=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_balanced_batches_depend_on_the_step_alone(tmp_path):
    examples = skewed(tmp_path)
    whole = train(examples, 30, balance=0.7)
    assert_same(whole[17:], train(examples, 30, balance=0.7, start_step=17))
    shards = [
        indices(train(examples, 30, balance=0.7, shard_index=i, shard_count=2)) for i in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), indices(whole))


def test_a_class_of_less_than_one_image_an_epoch_is_shown_in_some(tmp_path):
    # An epoch of one batch: 20 of the 39 images.
    examples = skewed(tmp_path, (36, 2, 1))
    index = indices(train(examples, 100, batch_size=20, balance=0.01)).ravel()
    shown = np.bincount(examples.label[index], minlength=3)
    weight = np.array([36, 2, 1]) ** 0.99
    np.testing.assert_allclose(shown, 2000 * weight / weight.sum(), atol=1.5)
