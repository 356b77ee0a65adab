"""Batches in a reproducible order, read ahead in the background.

The only state is the step: batch k of training is a pure function of the source, the seed and k,
whatever the number of threads, worker processes or shards. That rests on an order of operations:
shuffle and augment the one global stream first, then take a shard's share of it, then batch, then
skip to the step.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grain
import numpy as np
from absl import flags

from diffmic_jax.data import transforms
from diffmic_jax.data.sources import Record, Source
from diffmic_jax.types import Batch, InputError


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    rotation: float = 30.0,
    shard_index: int = 0,
    shard_count: int = 1,
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """The training batches of steps `start_step` to `num_steps` - 1, full and augmented.

    Every epoch has its own order, and leaves out the images of its last, uneven batch.

    Args:
        source: what to read.
        batch_size: images in a batch, over all shards.
        image_size: pixels a side.
        seed: of the order and of the augmentation.
        num_steps: of the whole run.
        start_step: the step to begin (or resume) with.
        horizontal_flip: mirror half of the images.
        vertical_flip: turn half of the images upside down.
        rotation: the largest angle in degrees.
        shard_index: which rows of each batch this process takes: `shard_index`, `shard_index` +
            `shard_count` and so on.
        shard_count: the number of processes that share a batch.
        num_workers: processes that decode and augment; 0 uses threads alone, which is enough unless
            images are large.

    Raises:
        InputError: the training part is smaller than a batch, a batch cannot be shared evenly, or
            an image cannot be read.
    """
    records = source.splits["train"]
    per_epoch = steps_per_epoch(source, batch_size)
    rows = _rows_per_shard(batch_size, shard_count)
    options = {
        "horizontal_flip": horizontal_flip,
        "vertical_flip": vertical_flip,
        "rotation": rotation,
    }
    stream = (
        grain.MapDataset.source(_Examples(records, source.read, image_size, len(records)))
        .seed(seed)
        .shuffle()[: per_epoch * batch_size]
        .repeat()
        .random_map(functools.partial(_augmented, options=options))
        .map(_normalised)
    )
    steps = stream[shard_index::shard_count].batch(rows)[start_step:num_steps]
    return _iterate(steps, num_workers)


def eval_batches(
    source: Source,
    split: str,
    *,
    batch_size: int,
    image_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """One pass over a part in its own order, without augmentation.

    The last batch is filled up with copies of the first image, of mask 0. Arguments are those of
    `train_batches`.

    Raises:
        InputError: the part has no images, a batch cannot be shared evenly, or an image cannot be
            read.
    """
    records = source.splits[split]
    if not records:
        raise InputError(f"data: the {split} part has no images; evaluate another part or cut one")
    rows = _rows_per_shard(batch_size, shard_count)
    padded = -(-len(records) // batch_size) * batch_size
    examples = _Examples(records, source.read, image_size, padded)
    stream = grain.MapDataset.source(examples).map(_normalised)
    return _iterate(stream[shard_index::shard_count].batch(rows), num_workers)


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Full batches in the training part.

    Raises:
        InputError: there is none.
    """
    images = len(source.splits["train"])
    if not 0 < batch_size <= images:
        raise InputError(
            f"train.batch_size: {batch_size} does not fit the {images} training images; choose"
            f" 1 to {images}"
        )
    return images // batch_size


def cached(source: Source, image_size: int, cache_mib: int = 2048) -> Source:
    """The same source with its images prepared at `image_size` and kept in memory once read.

    What does not fit into `cache_mib` MiB is read anew every time. Batches are the same with or
    without; worker processes each keep a cache of their own.
    """
    return replace(source, read=_Cache(source.read, image_size, cache_mib))


class _Cache:
    """Reads records at one size and remembers them, by path."""

    def __init__(self, read: Callable[[Record], np.ndarray], image_size: int, cache_mib: int):
        self._read = read
        self._size = image_size
        self._capacity = cache_mib * 2**20 // (3 * image_size**2)
        self._images: dict[str, np.ndarray] = {}

    def __call__(self, record: Record) -> np.ndarray:
        # Two threads may decode the same image at once; they store the same bytes.
        image = self._images.get(record.path)
        if image is None:
            image = transforms.prepare(self._read(record), self._size)
            if len(self._images) < self._capacity:
                self._images[record.path] = image
        return image

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": {}}  # a worker process starts with an empty cache


@dataclass(frozen=True)
class _Examples:
    """Prepared images as rows of a batch; beyond the last record, the first one with mask 0."""

    records: Sequence[Record]
    read: Callable[[Record], np.ndarray]
    image_size: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Batch:
        real = position < len(self.records)
        index = position if real else 0
        record = self.records[index]
        image = transforms.prepare(self.read(record), self.image_size)
        label = np.asarray(record.label, np.int32)
        return Batch(image, label, np.asarray(real, np.float32), np.asarray(index, np.int32))


def _augmented(row: Batch, rng: np.random.Generator, options: dict[str, Any]) -> Batch:
    return row._replace(image=transforms.augment(np.asarray(row.image), rng, **options))


def _normalised(row: Batch) -> Batch:
    return row._replace(image=transforms.normalise(np.asarray(row.image)))


def _rows_per_shard(batch_size: int, shard_count: int) -> int:
    if batch_size % shard_count:
        raise InputError(
            f"train.batch_size: {batch_size} is not divisible by {shard_count} processes; choose a"
            " multiple"
        )
    return batch_size // shard_count


def _iterate(steps: grain.MapDataset, num_workers: int) -> Generator[Batch, None, None]:
    """Read ahead a few batches; stop reading when the caller stops."""
    threads = min(os.cpu_count() or 1, 8)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = steps.to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers ask for their own, and would crash
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(batches)
    try:
        for batch in iterator:
            # Arrays from a worker live in shared memory, which goes when the iterator is closed.
            yield Batch(*map(np.array, batch)) if num_workers else batch
    finally:
        iterator.close()
