"""Every image of a source decoded and resized once, in one file that batches are read from.

The file is a memory-mapped [N, S, S, 3] uint8 array, in a folder named after the records and the
image size; another split, seed or recipe uses the same one. A second file holds, for every row, the
state (size and times) of the file that it was decoded from, and is written after the pixels. So a
run decodes the rows that are missing, because an earlier run was interrupted, and those whose file
has changed since. Runs that need the same cache wait for each other.

Gray images of more than eight bits are first decoded on the scale of the bits that each uses. Those
that use fewer than another one are then decoded again, so that all are on one scale.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from diffmic_jax.config import Data
from diffmic_jax.data import transforms
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import Read, Record, label_array
from diffmic_jax.data.places import user_cache
from diffmic_jax.data.sources import Source
from diffmic_jax.data.store import STATES, Scratch, Store, number
from diffmic_jax.errors import InputError

VERSION = 2
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
    digest: dict[str, int] = field(default_factory=dict)
    """A hash of the prepared pixels of each image that can be read, by its id."""
    notes: dict[str, str] = field(default_factory=dict)
    """What was done about a flaw of an image, by its id."""
    bits: dict[int, int] = field(default_factory=dict)
    """How many gray images of more than eight bits use so many."""
    gray_bits: int = 0
    """The bits of the scale of these; 0: there are none, or each is on its own."""


def cached(
    source: Source,
    image_size: int,
    folder: Path | None = None,
    *,
    on_bad_image: str = "error",
    gray_bits: int = 0,
    num_threads: int = 0,
) -> Cached:
    """Decode the images of a source that the cache does not have yet.

    Args:
        source: what to read.
        image_size: S, side in pixels.
        folder: of all caches; default `user_cache()`.
        on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' leaves it out.
        gray_bits: of the scale of gray images of more than eight bits; 0: the most that one uses.
        num_threads: that decode; 0: one for each core.

    Raises:
        InputError: an image is bad, or the folder cannot be written or is too small.
    """
    _check_policy(on_bad_image)
    records = _in_order(source)
    home = _home(_common(source, records, image_size, folder), gray_bits)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            store = Store(home, len(records), image_size)
            decoder = _Decoder(source, records, store, image_size, num_threads)
            decoder.run(gray_bits, on_bad_image)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"config.data.cache_dir: {home} cannot be used ({reason}); name another folder"
        ) from error
    return _by_part(source, records, store, gray_bits)


def missing(source: Source, image_size: int, folder: Path | None = None) -> int:
    """How many images of a source `cached` would have to decode.

    Args:
        source: what to read.
        image_size: S, side in pixels.
        folder: of all caches; default `user_cache()`.
    """
    records = _in_order(source)
    try:
        kept = np.load(_common(source, records, image_size, folder) / STATES)
        return int((kept != _states(source, records)).sum())
    except Exception:  # absent; or damaged, which raises nearly anything
        return len(records)


def decoded_once(
    source: Source, image_size: int, *, on_bad_image: str = "error", gray_bits: int = 0
) -> Cached:
    """Decode the images of a source for this process alone: no file of them has a name.

    Arguments as in `cached`, but that without `gray_bits` each gray image of more than eight bits
    is on the scale of its own bits: it is the same image alone and among others.

    Raises:
        InputError: an image is bad, or there is no space for so many.
    """
    _check_policy(on_bad_image)
    try:
        store = Scratch(len(source.records), image_size)
        decoder = _Decoder(source, source.records, store, image_size, 0, together=False)
        decoder.run(gray_bits, on_bad_image)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no space for {len(source.records)} decoded images "
            f"({error.strerror}); name another folder in TMPDIR"
        ) from error
    return replace(_by_part(source, source.records, store, gray_bits), gray_bits=gray_bits)


def _check_policy(on_bad_image: str) -> None:
    if on_bad_image not in ON_BAD_IMAGE:
        raise InputError(
            f"config.data.on_bad_image={on_bad_image!r} is unknown; choose one of "
            f"{', '.join(ON_BAD_IMAGE)}"
        )


def _in_order(source: Source) -> list[Record]:
    """All images, in an order that does not depend on the split."""
    return sorted(source.records, key=lambda record: (record.id, record.path))


def _common(
    source: Source, records: Sequence[Record], image_size: int, folder: Path | None
) -> Path:
    """The folder of a cache, whatever the scale of gray images."""
    return (folder or user_cache()) / f"{source.name}-{image_size}-{_hash(source, records)}"


def _home(common: Path, gray_bits: int) -> Path:
    """The folder of a cache: one of its own for a scale that the images do not ask for."""
    if not gray_bits:
        return common
    try:
        fits = int(np.load(common / "facts.npy")["bits"].max(initial=0)) in (0, gray_bits)
    except Exception:  # absent; or damaged, which raises nearly anything
        fits = False
    return common if fits else common.with_name(f"{common.name}-{gray_bits}")


@dataclass(frozen=True)
class _Decoder:
    """Brings a store up to date."""

    source: Source
    records: Sequence[Record]
    store: Store
    size: int
    num_threads: int
    together: bool = True
    """Gray images of more than eight bits are all on one scale; else each on its own."""

    def run(self, gray_bits: int, on_bad_image: str) -> None:
        """Decode what is due.

        Raises:
            InputError: an image is bad, and that is to stop it.
        """
        stop = on_bad_image == "error"
        for _ in self.decode(gray_bits):
            if self.store.bad and stop:
                break
        if self.store.bad and stop:
            raise InputError(self.store.bad[min(self.store.bad)])

    def decode(self, gray_bits: int) -> Iterator[None]:
        """Decode what is due, a chunk at a time, gray images of more than 8 bits on one scale."""
        store, states = self.store, _states(self.source, self.records)
        # Bad images are tried again: a limit or a library may have changed.
        due = sorted({*np.flatnonzero(store.states != states).tolist(), *store.bad})
        if np.any(store.states[due]):
            store.detach()
        yield from self._fill(due, states, gray_bits)
        if not self.together:
            return
        scale = gray_bits or store.gray_bits
        other = (store.facts["bits"] > 0) & (store.facts["scale"] != scale)
        yield from self._fill(np.flatnonzero(other).tolist(), states, scale)

    def _fill(self, due: Sequence[int], states: np.ndarray, gray_bits: int) -> Iterator[None]:
        source = self.source.read
        if gray_bits:
            source = partial(source, gray_bits=gray_bits)
        read = partial(_decoded, source, size=self.size, framing=self.source.framing)
        bar = tqdm(total=len(due), unit="image", desc="decode", leave=False, disable=None)
        with ThreadPoolExecutor(self.num_threads or os.cpu_count()) as pool, bar:
            for start in range(0, len(due), CHUNK):
                rows = due[start : start + CHUNK]
                found = pool.map(read, [self.records[row] for row in rows])
                self.store.fill(rows, states[rows], found, gray_bits)
                bar.update(len(rows))
                yield


def _decoded(read: Read, record: Record, size: int, framing: Framing) -> Decoded | InputError:
    """The image, its pixels prepared."""
    try:
        decoded = read(record)
        framed = framing.frame(decoded.pixels, str(record.path))
    except InputError as error:
        return error
    return decoded._replace(pixels=transforms.prepare(framed, size))


def _hash(source: Source, records: Sequence[Record]) -> str:
    """Of the names and places of the images; the states cover what is in their files."""
    facts = [str(VERSION), str(source.max_pixels), *map(_absolute, source.files)]
    if source.framing != Framing():
        facts.append(repr(source.framing))
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
        return np.full(len(records), number(common.encode()), np.uint64)
    return np.array([number(_file_state(record.path).encode()) for record in records], np.uint64)


def _file_state(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "absent"  # decoding reports it
    # The change time shows a replacement of the same size and date.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _by_part(source: Source, records: Sequence[Record], store: Store, gray_bits: int) -> Cached:
    """The examples of every part, without those that could not be decoded."""
    rows = {record.id: row for row, record in enumerate(records)}
    pixels = store.pixels()
    examples = {}
    for part, listed in source.splits.items():
        good = [record for record in listed if rows[record.id] not in store.bad]
        where = np.array([rows[record.id] for record in good], np.int64)
        examples[part] = Examples(tuple(good), label_array(good, source.task), pixels, where)
    bad, notes = (
        {records[row].id: text for row, text in sorted(texts.items())}
        for texts in (store.bad, store.notes)
    )
    digests = zip(records, store.facts["digest"].tolist(), strict=True)
    used = store.facts["bits"][store.facts["bits"] > 0].tolist()
    return Cached(
        examples=examples,
        skipped=bad,
        digest={record.id: digest for record, digest in digests if digest},
        notes=notes,
        bits=dict(sorted(Counter(used).items())),
        gray_bits=gray_bits or store.gray_bits,
    )
