"""Batches in a reproducible order, read ahead in the background.

The only state is the step: batch k of training is a pure function of the examples, the seed and k.
The numbers of threads, worker processes and shards do not change it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Sized
from dataclasses import dataclass
from functools import partial

import numpy as np
from absl import flags

from diffmic_jax.data.cache import Examples
from diffmic_jax.data.order import Balanced, shuffled
from diffmic_jax.errors import InputError
from diffmic_jax.types import Batch

READ_AHEAD = 4
"""Batches."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The size of batches, and who reads them.

    Raises:
        InputError: a batch cannot be shared evenly.
    """

    batch_size: int
    """Images in a batch, over all shards."""
    shard_index: int = 0
    """Which piece of each batch this process takes: joined in the order of their index, the pieces
    are the batch."""
    shard_count: int = 1
    """Processes that share a batch."""
    num_workers: int = 0
    """Processes that read for this one; 0 reads in a thread, which is enough for most devices."""

    def __post_init__(self) -> None:
        """Check that every shard has as many images."""
        if self.batch_size % self.shard_count:
            raise InputError(
                f"a batch of {self.batch_size} images is not divisible by {self.shard_count} "
                "processes; choose a multiple as config.train.batch_size"
            )

    @property
    def rows(self) -> np.ndarray:
        """Where this shard's images are in a batch: [batch_size / shard_count] positions."""
        count = self.batch_size // self.shard_count
        return self.shard_index * count + np.arange(count)


def train_batches(
    examples: Examples,
    batching: Batching,
    *,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    balance: float = 0.0,
) -> Generator[Batch, None, None]:
    """The training batches of steps `start_step` to `num_steps` - 1, full, not augmented.

    Every epoch has its own order, and leaves out the last images if they do not fill a batch. With
    a balance, classes have the frequencies of `order.Balanced`, and an epoch as many steps.

    Args:
        examples: what to read.
        batching: the size of a batch, and which piece of it.
        seed: of the order.
        num_steps: of the whole run.
        start_step: the step to begin (or resume) with.
        balance: 0 shows every image once in an epoch, 1 every class equally often, which needs one
            label per image.

    Raises:
        InputError: there are fewer examples than a batch holds.
    """
    size = batching.batch_size * steps_per_epoch(examples, batching.batch_size)
    order: Callable[[int], np.ndarray] = partial(shuffled, seed, count=len(examples))
    if balance:
        order = Balanced(label=examples.label, seed=seed, balance=balance, size=size).epoch
    steps = _TrainSteps(examples, batching, order, num_steps)
    return _iterate(steps, start_step, batching.num_workers)


def eval_batches(examples: Examples, batching: Batching) -> Generator[Batch, None, None]:
    """One pass over the examples in their own order.

    The last batch is padded with copies of the first image, whose mask is 0.

    Args:
        examples: what to read.
        batching: the size of a batch, and which piece of it.

    Raises:
        InputError: there are no images.
    """
    if not len(examples):
        raise InputError("config.data: the part has no images; evaluate another part or cut one")
    return _iterate(_EvalSteps(examples, batching), 0, batching.num_workers)


def steps_per_epoch(examples: Sized, batch_size: int) -> int:
    """Full batches in the training part.

    Raises:
        InputError: there is none.
    """
    if not 0 < batch_size <= len(examples):
        raise InputError(
            f"config.train.batch_size={batch_size} does not fit the {len(examples)} training "
            f"images; choose 1 to {len(examples)}"
        )
    return len(examples) // batch_size


@dataclass(frozen=True)
class _TrainSteps:
    """A shard's piece of every training batch, by step."""

    examples: Examples
    batching: Batching
    order: Callable[[int], np.ndarray]
    """Positions of an epoch's images."""
    num_steps: int

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Batch:
        size, rows = self.batching.batch_size, self.batching.rows
        epoch, step = divmod(step, len(self.examples) // size)
        index = self.order(epoch)[step * size + rows]
        return _batch(self.examples, index, np.ones(len(rows), bool))


@dataclass(frozen=True)
class _EvalSteps:
    """A shard's piece of every batch of one pass; after the last image the first one, masked."""

    examples: Examples
    batching: Batching

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batching.batch_size)

    def __getitem__(self, step: int) -> Batch:
        position = step * self.batching.batch_size + self.batching.rows
        real = position < len(self.examples)
        return _batch(self.examples, np.where(real, position, 0), real)


def _batch(examples: Examples, index: np.ndarray, real: np.ndarray) -> Batch:
    return Batch(
        examples.images(index),
        examples.label[index],
        real.astype(np.float32),
        index.astype(np.int32),
    )


def _leave_signals(worker: int, workers: int) -> None:
    """Leave signals to the main process, which still needs the current batch."""
    del worker, workers
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def _iterate(
    steps: _TrainSteps | _EvalSteps, start: int, num_workers: int
) -> Generator[Batch, None, None]:
    """The batches from a step on: read ahead a few, and stop reading when the caller stops."""
    if len(steps) - start == 1:  # there is nothing to read ahead of
        yield steps[start]
        return
    import grain  # here, since it takes longer to import than a few images to classify

    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=READ_AHEAD)
    batches = grain.MapDataset.source(steps)[start:].to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, and would crash
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        batches = batches.mp_prefetch(workers, _leave_signals)
    iterator = iter(batches)
    try:
        for batch in iterator:
            # Arrays of a worker are in shared memory, which is freed when the iterator is closed.
            yield Batch(*map(np.array, batch)) if num_workers else batch
    finally:
        iterator.close()
