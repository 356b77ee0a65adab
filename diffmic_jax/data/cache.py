"""Every image of a source decoded and resized once, in one file that batches are read from.

The file is a memory-mapped [N, S, S, 3] uint8 array, in a folder named after the records and the
image size; another split, seed or recipe uses the same one. A second file holds, for every row, the
state (size and times) of the file that it was decoded from, and is written after the pixels. So a
run decodes the rows that are missing, because an earlier run was interrupted, and those whose file
has changed since. Runs that need the same cache wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from diffmic_jax.config import Data
from diffmic_jax.data import transforms
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import Record, label_array
from diffmic_jax.data.places import user_cache
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError

VERSION = 1
"""Of the pixels: raise it when decoding or resizing changes."""
CHUNK = 512
"""Images whose state is recorded at once."""
ON_BAD_IMAGE: tuple[str, ...] = typing.get_args(typing.get_type_hints(Data)["on_bad_image"])


@dataclass(frozen=True)
class Examples:
    """One part of a data set, ready for batches."""

    records: tuple[Record, ...]
    label: np.ndarray
    """[N] int32 class indices, or [N, C] zeros and ones."""
    pixels: Callable[[np.ndarray], np.ndarray]
    """[n] rows of the cache -> [n, S, S, 3] uint8; float32 where features stand for images."""
    rows: np.ndarray
    """[N] where in the cache each record is."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)

    def images(self, positions: np.ndarray) -> np.ndarray:
        """[n, S, S, 3] uint8 of the images at the given positions [n]."""
        return self.pixels(self.rows[positions])


@dataclass(frozen=True)
class Cached:
    """A source whose images are decoded."""

    examples: dict[str, Examples]
    """By part; without the bad images."""
    skipped: dict[str, str]
    """Why each image that is left out cannot be read, by its id."""


class CachedPixels:
    """The images of a cache file, by row. Cheap to send to another process."""

    def __init__(self, path: Path) -> None:
        """Opens the file before threads do: CPython 3.11 cannot parse its header in two at once."""
        self._path = path
        self._array = np.load(path, mmap_mode="r")

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n] rows -> [n, S, S, 3] uint8, a copy."""
        return self._array[rows]

    def __reduce__(self) -> tuple[type[CachedPixels], tuple[Path]]:
        return CachedPixels, (self._path,)  # pickling a memory map would copy its pixels


def cached(
    source: Source,
    image_size: int,
    folder: Path | None = None,
    *,
    on_bad_image: str = "error",
    num_threads: int = 0,
    progress: bool = True,
) -> Cached:
    """Decode the images of a source that the cache does not have yet.

    Args:
        source: what to read.
        image_size: S, side in pixels.
        folder: of all caches; default `user_cache()`.
        on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' leaves it out.
        num_threads: that decode; 0: one for each core.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        InputError: an image is bad, or the folder cannot be written or is too small.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise InputError(
            f"config.data.on_bad_image={on_bad_image!r} is unknown; choose one of "
            f"{', '.join(ON_BAD_IMAGE)}"
        )
    # In an order that does not depend on the split.
    records = sorted(source.records, key=lambda record: (record.id, record.path))
    home = (folder or user_cache()) / f"{source.name}-{image_size}-{_hash(source, records)}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            store = _Store(home, len(records), image_size)
            chunks = _decode(source, records, store, image_size, num_threads, progress)
            while next(chunks, False):
                if store.bad and on_bad_image == "error":
                    break
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"config.data.cache_dir: {home} cannot be used ({reason}); name another folder"
        ) from error
    if store.bad and on_bad_image == "error":
        raise InputError(store.bad[min(store.bad)])
    return _by_part(source, records, store)


def _decode(
    source: Source,
    records: Sequence[Record],
    store: _Store,
    size: int,
    num_threads: int,
    progress: bool,
) -> Iterator[bool]:
    """Bring the store up to date, a chunk at a time."""
    states = _states(source, records)
    # Bad images are tried again: a limit or a library may have changed.
    due = sorted({*np.flatnonzero(store.states != states).tolist(), *store.bad})
    read = partial(_decoded, source.read, size=size)
    hidden = None if progress else True
    bar = tqdm(total=len(due), unit="image", desc="decode", leave=False, disable=hidden)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool, bar:
        for start in range(0, len(due), CHUNK):
            rows = due[start : start + CHUNK]
            store.fill(rows, states[rows], pool.map(read, [records[row] for row in rows]))
            bar.update(len(rows))
            yield True


class _Store:
    """A cache on disk: pixels, the state of each row's file, and the errors of bad rows."""

    def __init__(self, home: Path, count: int, size: int) -> None:
        self.path, self._states, self._bad = (
            home / name for name in ("images.npy", "states.npy", "bad.json")
        )
        shape = (count, size, size, 3)
        try:
            self._load(shape)
        except (OSError, ValueError, EOFError):  # new, or damaged
            check_space(home, count * size * size * 3, "a smaller config.data.image_size")
            self.path.unlink(missing_ok=True)  # a process that reads the old one keeps it
            np.lib.format.open_memmap(self.path, "w+", np.uint8, shape)
            reserve(self.path)
            self._write({}, np.zeros(count, np.uint64))
            self._load(shape)

    def _load(self, shape: tuple[int, ...]) -> None:
        self.states = np.load(self._states)
        bad = json.loads(self._bad.read_text())
        self.bad: dict[int, str] = {int(row): reason for row, reason in bad.items()}
        if np.load(self.path, mmap_mode="r").shape != shape or self.states.shape != shape[:1]:
            raise ValueError("of another shape")

    def fill(
        self, rows: list[int], states: np.ndarray, images: Iterable[np.ndarray | InputError]
    ) -> None:
        """Store images that were decoded from files in the given states."""
        array = np.lib.format.open_memmap(self.path, "r+")
        for row, image in zip(rows, images, strict=True):
            if isinstance(image, InputError):
                self.bad[row] = str(image)
            else:
                self.bad.pop(row, None)
                array[row] = image
        array.flush()
        self.states[rows] = states
        self._write(self.bad, self.states)

    def _write(self, bad: dict[int, str], states: np.ndarray) -> None:
        """The states last: they show that the rest is complete."""
        for path, save in (
            (self._bad, lambda file: file.write(json.dumps(bad).encode())),
            (self._states, lambda file: np.save(file, states)),
        ):
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                save(file)
            os.replace(part, path)


def reserve(path: Path) -> None:
    """Reserve a file's space: writing to a memory map on a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _decoded(
    read: Callable[[Record], Decoded], record: Record, size: int
) -> np.ndarray | InputError:
    try:
        return transforms.prepare(read(record).pixels, size)
    except InputError as error:
        return error


def _hash(source: Source, records: Sequence[Record]) -> str:
    """Of the names and places of the images; the states cover what is in their files."""
    facts = [str(VERSION), str(source.max_pixels), *map(_absolute, source.files)]
    for record in records:
        facts.append(f"{record.id}\0{record.path if source.files else _absolute(record.path)}")
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:16]


def _absolute(path: str) -> str:
    # Two projects may have the same relative paths.
    return os.path.abspath(path)


def _states(source: Source, records: Sequence[Record]) -> np.ndarray:
    """[N] a number for the state of the file behind each record, never 0."""
    if source.files:
        common = " ".join(str(_file_state(file)) for file in source.files)
        return np.full(len(records), _number(common), np.uint64)
    return np.array([_number(_file_state(record.path)) for record in records], np.uint64)


def _file_state(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "absent"  # decoding reports it
    # The change time shows a replacement of the same size and date.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1


def check_space(home: Path, needed: int, fix: str) -> None:
    """Refuse to write more bytes than there is space for.

    Raises:
      InputError: naming the folder, and what would need less.
    """
    free = shutil.disk_usage(home).free
    if needed > free:
        raise InputError(
            f"config.data.cache_dir: {home} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            f"free; name another folder or choose {fix}"
        )


def _by_part(source: Source, records: Sequence[Record], store: _Store) -> Cached:
    """The examples of every part, without those that could not be decoded."""
    rows = {record.id: row for row, record in enumerate(records)}
    pixels = CachedPixels(store.path)
    examples = {}
    for part, listed in source.splits.items():
        good = [record for record in listed if rows[record.id] not in store.bad]
        where = np.array([rows[record.id] for record in good], np.int64)
        examples[part] = Examples(tuple(good), label_array(good, source.task), pixels, where)
    skipped = {records[row].id: reason for row, reason in sorted(store.bad.items())}
    return Cached(examples, skipped)
