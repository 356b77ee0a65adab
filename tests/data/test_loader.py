from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from diffmic_jax.data import loader
from diffmic_jax.data.sources import Record, Source
from diffmic_jax.types import Batch, InputError

SIZE = 8
TRAIN, TEST = 23, 10


def read(record: Record) -> np.ndarray:
    """Noise that only depends on the record, larger than asked for."""
    return np.random.default_rng(int(record.path)).integers(0, 256, (12, 14, 3), np.uint8)


def read_broken(record: Record) -> np.ndarray:
    raise InputError(f"{record.path}: broken")


@pytest.fixture
def source() -> Source:
    def records(start: int, count: int) -> tuple[Record, ...]:
        return tuple(Record(f"id{i}", i % 3, str(i)) for i in range(start, start + count))

    parts = {"train": records(0, TRAIN), "validation": (), "test": records(TRAIN, TEST)}
    return Source("noise", ("a", "b", "c"), parts, read)


def train(source: Source, num_steps: int = 12, **options) -> list[Batch]:
    options = {"batch_size": 4, "image_size": SIZE, "seed": 0} | options
    return list(loader.train_batches(source, num_steps=num_steps, **options))


def evaluate(source: Source, **options) -> list[Batch]:
    return list(loader.eval_batches(source, "test", image_size=SIZE, **options))


def assert_same(left: Iterable[Batch], right: Iterable[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def indices(batches: list[Batch]) -> np.ndarray:
    return np.stack([np.asarray(batch.index) for batch in batches])


def test_a_batch_has_the_shapes_and_types_of_the_contract(source):
    (batch,) = train(source, 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch._asdict().items()} == {
        "image": ((4, SIZE, SIZE, 3), "float32"),
        "label": ((4,), "int32"),
        "mask": ((4,), "float32"),
        "index": ((4,), "int32"),
    }
    assert (batch.mask == 1).all()
    np.testing.assert_array_equal(batch.label, np.asarray(batch.index) % 3)


def test_an_epoch_shows_no_image_twice_and_the_next_has_another_order(source):
    epochs = indices(train(source, 50)).reshape(10, 20)  # 23 images: 5 steps of 4 an epoch
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    left_out = {tuple(sorted(set(range(TRAIN)) - set(epoch))) for epoch in epochs}
    assert len(left_out) > 5  # the remainder is dropped after the shuffle
    assert set(epochs.ravel()) == set(range(TRAIN))


def test_an_image_is_augmented_anew_in_every_epoch(source):
    batches = train(source, 20)
    seen = [b.image[i] for b in batches for i in np.flatnonzero(np.asarray(b.index) == 7)]
    assert len(seen) >= 2
    assert not np.array_equal(seen[0], seen[1])


def test_without_augmentation_images_are_those_of_evaluation(source):
    plain = train(source, 5, horizontal_flip=False, rotation=0.0)
    source = replace(source, splits=source.splits | {"test": source.splits["train"]})
    images = np.concatenate([b.image for b in evaluate(source, batch_size=6)])
    for batch in plain:
        np.testing.assert_array_equal(batch.image, images[np.asarray(batch.index)])


def test_order_follows_the_seed(source):
    first, again, other = (indices(train(source, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("start", [0, 3, 5, 11, 12])
def test_resuming_at_a_step_continues_bitwise(source, start):
    assert_same(train(source)[start:], train(source, start_step=start))


def test_shards_share_each_batch(source):
    whole = train(source)
    shards = [train(source, shard_index=i, shard_count=2) for i in range(2)]
    for batch, *parts in zip(whole, *shards, strict=True):
        for k, part in enumerate(parts):
            assert_same([Batch(*(np.asarray(x)[k::2] for x in batch))], [part])


def test_the_cache_changes_nothing_but_the_number_of_reads(source):
    reads = []

    def counted(record: Record) -> np.ndarray:
        reads.append(record.path)
        return read(record)

    kept = loader.cached(replace(source, read=counted), SIZE)
    for _ in range(2):
        assert_same(evaluate(source, batch_size=5), evaluate(kept, batch_size=5))
    assert len(reads) == TEST
    assert_same(train(source), train(kept))


def test_the_cache_keeps_to_its_limit(source):
    reads = []

    def counted(record: Record) -> np.ndarray:
        reads.append(record.path)
        return read(record)

    cache = loader.cached(replace(source, read=counted), 256, cache_mib=1).read  # room for 5
    for _ in range(2):
        for record in source.splits["test"]:
            cache(record)
    assert len(reads) == 2 * TEST - 5


def test_evaluation_counts_every_image_once_in_order(source):
    batches = evaluate(source, batch_size=4)
    assert [len(b.label) for b in batches] == [4, 4, 4]
    mask = np.concatenate([b.mask for b in batches])
    np.testing.assert_array_equal(mask, [1] * TEST + [0] * 2)
    np.testing.assert_array_equal(indices(batches).ravel()[:TEST], range(TEST))
    np.testing.assert_array_equal(batches[2].image[2:], np.stack([batches[0].image[0]] * 2))


def test_evaluation_does_not_depend_on_batching_or_shards(source):
    flat = np.concatenate([b.image for b in evaluate(source, batch_size=3)])[:TEST]
    whole = evaluate(source, batch_size=TEST)[0]
    np.testing.assert_array_equal(flat, whole.image)
    shards = [evaluate(source, batch_size=4, shard_index=i, shard_count=2) for i in range(2)]
    for i, shard in enumerate(shards):
        assert len(shard) == 3
        assert sum(b.mask.sum() for b in shard) == TEST / 2
        np.testing.assert_array_equal(shard[0].index, [i, i + 2])


def test_worker_processes_give_the_same_batches_and_errors(source):
    assert_same(train(source, 7), train(loader.cached(source, SIZE), 7, num_workers=2))
    with pytest.raises(InputError) as caught:
        train(replace(source, read=read_broken), num_workers=1)
    assert re.fullmatch(r"\d+: broken", str(caught.value))


def test_an_unreadable_image_stops_the_iteration_with_its_name(source):
    with pytest.raises(InputError) as caught:
        train(replace(source, read=read_broken))
    assert re.fullmatch(r"\d+: broken", str(caught.value))


def test_steps_per_epoch(source):
    assert loader.steps_per_epoch(source, 4) == 5
    assert loader.steps_per_epoch(source, TRAIN) == 1


@pytest.mark.parametrize("batch_size", [0, TRAIN + 1])
def test_a_batch_larger_than_training_is_refused(source, batch_size):
    with pytest.raises(InputError, match=r"^train.batch_size: .* 1 to 23$"):
        train(source, batch_size=batch_size)


def test_a_batch_that_shards_cannot_share_is_refused(source):
    with pytest.raises(InputError, match=r"^train.batch_size: 4 is not divisible by 3"):
        train(source, shard_count=3)
    with pytest.raises(InputError, match=r"^train.batch_size: 4 is not divisible by 3"):
        evaluate(source, batch_size=4, shard_count=3)


def test_an_empty_part_is_refused(source):
    with pytest.raises(InputError, match="validation part has no images"):
        loader.eval_batches(source, "validation", batch_size=4, image_size=SIZE)


def test_an_abandoned_iterator_does_not_keep_the_interpreter_alive():
    script = """
        import numpy as np
        from diffmic_jax.data import loader
        from diffmic_jax.data.sources import Record, Source

        records = tuple(Record(str(i), 0, str(i)) for i in range(8))
        source = Source("x", ("a",), {"train": records}, lambda _: np.zeros((8, 8, 3), np.uint8))
        batches = loader.train_batches(source, batch_size=2, image_size=8, seed=0, num_steps=10**6)
        next(batches)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
