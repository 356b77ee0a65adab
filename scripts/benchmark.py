"""Benchmarks: one JSON line for each measurement.

    python scripts/benchmark.py --mode=input --size=224 --workers=1,2

`input` times what feeds training: decoding JPEGs into the cache, batches from the cache, and
batches from the cache with augmentation on the device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from diffmic_jax.data import loader, transforms
from diffmic_jax.data.cache import Examples, cached
from diffmic_jax.data.layouts import Record, read_file
from diffmic_jax.data.sources import Source
from diffmic_jax.training import parallel
from diffmic_jax.types import Batch


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
    return Source("benchmark", ("a", "b"), parts, read_file)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


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


def tell(measurement: str, images: int, took: float, **facts: object) -> None:
    """One JSON line."""
    rate = {"images_per_second": round(images / took, 1), "images": images}
    print(json.dumps({"mode": "input", "measurement": measurement, **rate, **facts}), flush=True)


def batches(
    examples: Examples, args: argparse.Namespace, workers: int
) -> Generator[Batch, None, None]:
    """Training batches without end; one worker is this process, more are processes of their own."""
    processes = workers if workers > 1 else 0
    return loader.train_batches(
        examples, batch_size=args.batch, seed=0, num_steps=10**9, num_workers=processes
    )


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
    facts = {"size": args.size, "batch": args.batch}
    images = args.steps * args.batch
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
                progress=False,
            )
            with on_cores(workers):
                took = seconds(decode)
            jpeg = f"{args.jpeg[1]}x{args.jpeg[0]}"
            tell("decode", args.images, took, workers=workers, jpeg=jpeg, **facts)
        examples = cached(source, args.size, folder / f"cache{args.workers[0]}").examples["train"]
        for workers in args.workers:
            with on_cores(workers):
                took = time_batches(batches(examples, args, workers), args.steps)
            tell("cache", images, took, workers=workers, **facts)
        mesh, device = parallel.make_mesh(), jax.devices()[0].device_kind
        for workers in args.workers:
            stream = batches(examples, args, workers)
            stream = parallel.augmented(mesh, stream, transforms.augment, jax.random.key(0), 0)
            took = time_batches(stream, args.steps)
            tell("cache+augment", images, took, workers=workers, device=device, **facts)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("input",), default="input")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="batches to time")
    parser.add_argument("--images", type=int, default=512, help="JPEGs to write and decode")
    parser.add_argument("--jpeg", type=_numbers, default=(450, 600), help="height,width of them")
    parser.add_argument("--workers", type=_numbers, default=(1, 2), help="as 1,2")
    measure_input(parser.parse_args())


if __name__ == "__main__":
    main()
