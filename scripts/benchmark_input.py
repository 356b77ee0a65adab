"""What feeds training, timed for `benchmark.py`: decoding, batches, and augmentation."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from timing import in_turns, report, seconds

from diffmic_jax.config import Data
from diffmic_jax.data import loader, transforms
from diffmic_jax.data.cache import Examples, cached
from diffmic_jax.data.layouts import Record, read_file
from diffmic_jax.data.sources import Source
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel
from diffmic_jax.types import Batch

AUGMENTATIONS = {
    "basic": Data(),
    "crop": Data(crop=0.35),
    "trivial": Data(crop=0.35, augmentation="trivial"),
}


def write_jpegs(folder: Path, count: int, height: int, width: int) -> Source:
    """A source of JPEGs with the detail of photographs, which noise would not have."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
        fine = rng.normal(0, 6, (height, width, 3))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        path = folder / f"{i:05d}.jpg"
        Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8)).save(path, quality=90)
        records.append(Record(path.name, i % 2, str(path)))
    parts = {"train": tuple(records), "validation": (), "test": ()}
    task = Task(class_names=("a", "b"))
    return Source(name="benchmark", task=task, splits=parts, read=read_file)


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keep this process, and those it starts, to some cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usual)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def batches(
    examples: Examples, args: argparse.Namespace, workers: int
) -> Generator[Batch, None, None]:
    """Training batches without end; one worker is this process, more are processes of their own."""
    processes = workers if workers > 1 else 0
    batching = loader.Batching(batch_size=args.batch, num_workers=processes)
    return loader.train_batches(examples, batching, seed=0, num_steps=10**9)


def time_batches(stream: Generator[Batch, None, None], steps: int) -> float:
    """Seconds for some batches, after those that fill what reads ahead."""

    def take(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(next(stream).image)

    with contextlib.closing(stream):
        take(2 * loader.READ_AHEAD)
        return seconds(lambda: take(steps))


def measure_input(args: argparse.Namespace) -> None:
    """Decode, read and augment."""

    def report_rate(measurement: str, images: int, took: float, **facts: object) -> None:
        rate = {"images_per_second": images / took, "seconds_per_image": took / images}
        report(args, measurement=measurement, images=images, **rate, **facts)

    facts = {"size": args.size, "batch": args.batch}
    count = args.steps or 100
    images = count * args.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_jpegs(folder, args.images, *args.jpeg)
        for workers in args.workers:
            decode = partial(
                cached,
                source,
                args.size,
                folder / f"cache{workers}",
                num_threads=workers,
            )
            with on_cores(workers):
                took = seconds(decode)
            jpeg = f"{args.jpeg[1]}x{args.jpeg[0]}"
            report_rate("decode", args.images, took, workers=workers, jpeg=jpeg, **facts)
        examples = cached(source, args.size, folder / f"cache{args.workers[0]}").examples["train"]
        for workers in args.workers:
            with on_cores(workers):
                took = time_batches(batches(examples, args, workers), count)
            report_rate("cache", images, took, workers=workers, **facts)
        mesh, device = parallel.make_mesh(), jax.devices()[0].device_kind
        for workers in args.workers:
            stream = batches(examples, args, workers)
            augment = partial(transforms.augment, own=AUGMENTATIONS["basic"])
            stream = parallel.augmented(mesh, stream, augment, jax.random.key(0), 0)
            took = time_batches(stream, count)
            report_rate("cache+augment", images, took, workers=workers, device=device, **facts)
        measure_augmentations(args, examples.images(np.arange(args.batch) % len(examples)))


def measure_augmentations(args: argparse.Namespace, images: np.ndarray) -> None:
    """Augment the same batch in every way, in turns."""
    on_device, index, key = jax.device_put(images), np.arange(len(images)), jax.random.key(0)
    runs = {
        name: partial(jax.jit(partial(transforms.augment, own=own)), on_device, index, key)
        for name, own in AUGMENTATIONS.items()
    }
    for name, took in in_turns(runs, args.repeat).items():
        report(
            args,
            measurement="augment",
            augmentation=name,
            size=args.size,
            batch=args.batch,
            images_per_second=len(images) / took.wall,
            seconds_per_image=took.wall / len(images),
            cpu_seconds_per_image=took.cpu / len(images),
        )
