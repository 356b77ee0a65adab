"""The files of a cache of decoded images."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffmic_jax.data.pixels import Decoded
from diffmic_jax.errors import InputError, StorageError

STATES = "states.npy"
"""Of the files; without it all images are decoded again."""
FACTS = np.dtype([("bits", "u1"), ("scale", "u1"), ("digest", "u8")])
"""Of a row: the bits that gray of more than eight uses and those of its scale (0: another image),
and a hash of the prepared pixels."""


class Store:
    """A cache on disk: pixels, facts of each row, the state of its file, and notes or errors."""

    def __init__(self, home: Path, count: int, size: int) -> None:
        self.path, self._states, self._facts, self._bad, self._notes = (
            home / name for name in ("images.npy", STATES, "facts.npy", "bad.json", "notes.json")
        )
        self.bad: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        shape = (count, size, size, 3)
        try:
            self._load(shape)
        except Exception:  # new; or damaged, which raises nearly anything
            check_space(home, count * size * size * 3, "a smaller config.data.image_size")
            self.path.unlink(missing_ok=True)  # a process that reads the old one keeps it
            np.lib.format.open_memmap(self.path, "w+", np.uint8, shape)
            reserve(self.path)
            self.states, self.facts = np.zeros(count, np.uint64), np.zeros(count, FACTS)
            self._write()
            self._load(shape)

    def _load(self, shape: tuple[int, ...]) -> None:
        self.states, self.facts = np.load(self._states), np.load(self._facts)
        self.bad, self.notes = map(_read_texts, (self._bad, self._notes))
        shapes = np.load(self.path, mmap_mode="r").shape, self.states.shape, self.facts.shape
        if shapes != (shape, shape[:1], shape[:1]):
            raise ValueError("of another shape")

    @property
    def gray_bits(self) -> int:
        """The most that a gray image of more than eight bits uses; 0: there is none."""
        return int(self.facts["bits"].max(initial=0))

    def fill(
        self,
        rows: Sequence[int],
        states: np.ndarray,
        images: Iterable[Decoded | InputError],
        gray_bits: int,
    ) -> None:
        """Store prepared images that were decoded from files in the given states."""
        with self._opened() as (file, offset):
            for row, image in zip(rows, images, strict=True):
                self.bad.pop(row, None)
                self.notes.pop(row, None)
                self.facts[row] = 0
                if isinstance(image, InputError):
                    self.bad[row] = str(image)
                    continue
                content = image.pixels.tobytes()
                written = os.pwrite(file, content, offset + row * len(content))
                if written != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                scale = (gray_bits or image.bits) if image.bits else 0
                self.facts[row] = image.bits, scale, number(content)
                if image.note:
                    self.notes[row] = image.note
            os.fsync(file)
        self.states[rows] = states
        self._write()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        """The open file of the pixels, and where in it the first row is."""
        offset = np.load(self.path, mmap_mode="r").offset
        with self.path.open("r+b", buffering=0) as file:
            yield file.fileno(), offset

    def pixels(self) -> Rows:
        """The images, by row."""
        return CachedPixels(self.path, self.facts["digest"])

    def detach(self) -> None:
        """Go on in a copy of the pixels: a process that reads them now keeps what it began with."""
        check_space(self.path.parent, self.path.stat().st_size, "a smaller config.data.image_size")
        part = self.path.with_suffix(".part")
        shutil.copyfile(self.path, part)
        os.replace(part, self.path)

    def _write(self) -> None:
        """The states last: they show that the rest is complete."""
        for path, save in (
            (self._bad, lambda file: file.write(json.dumps(self.bad).encode())),
            (self._notes, lambda file: file.write(json.dumps(self.notes).encode())),
            (self._facts, lambda file: np.save(file, self.facts)),
            (self._states, lambda file: np.save(file, self.states)),
        ):
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                save(file)
            os.replace(part, path)


class Scratch(Store):
    """A store whose pixels lie in a file without a name, which goes with this process."""

    def __init__(self, count: int, size: int) -> None:
        """Of so many images of a size in pixels.

        Raises:
          OSError: there is no space for them.
        """
        self.bad, self.notes = {}, {}
        self.states, self.facts = np.zeros(count, np.uint64), np.zeros(count, FACTS)
        self._shape = (count, size, size, 3)
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        if hasattr(os, "posix_fallocate") and count:
            os.posix_fallocate(self._file.fileno(), 0, math.prod(self._shape))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        yield self._file.fileno(), 0

    def pixels(self) -> Rows:
        """The images, by row."""
        return Rows(os.dup(self._file.fileno()), self._shape, np.dtype(np.uint8))

    def detach(self) -> None:
        """Nobody else reads them."""

    def _write(self) -> None:
        """Nothing is kept."""


class Rows:
    """The rows of an array in an open file.

    They are read, not mapped: where a file was cut off, a process that has mapped it is killed.
    """

    def __init__(
        self, fd: int, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0, name: str = ""
    ) -> None:
        """Take over the open file; `name` is for messages."""
        self._fd, self._shape, self._dtype, self._offset = fd, shape, dtype, offset
        self._size = math.prod(shape[1:]) * dtype.itemsize
        self._name = name
        weakref.finalize(self, os.close, fd)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n] rows -> [n, S, S, 3] uint8, a copy.

        Raises:
          StorageError: the file is not what it was.
        """
        found = np.empty((len(rows), *self._shape[1:]), self._dtype)
        for each, row in zip(found, np.asarray(rows).tolist(), strict=True):
            try:
                content = os.pread(self._fd, self._size, self._offset + row * self._size)
            except OSError as error:
                raise self._changed(f"cannot be read ({error.strerror})") from error
            if len(content) != self._size:
                raise self._changed("was cut off while it was in use")
            self._check(row, content)
            each[...] = np.frombuffer(content, self._dtype).reshape(each.shape)
        return found

    def _check(self, row: int, content: bytes) -> None:
        """Compare a row with what was written, where that is known."""

    def _changed(self, what: str) -> StorageError:
        return StorageError(f"{self._name or tempfile.gettempdir()}: {what}")


class CachedPixels(Rows):
    """The images of a cache file, by row. Cheap to send to another process.

    Each row is compared with the hash of what was decoded when it is first read.
    """

    def __init__(self, path: Path, digests: np.ndarray | None = None) -> None:
        """Open the file, which may be deleted from then on.

        Args:
          path: of an array [N, ...], as `np.save` writes it.
          digests: [N] of its rows, as `number` makes them, 0 where there is none; None: not known.

        Raises:
          StorageError: the file is not what it was.
        """
        self._path, self._digests = path, digests
        try:
            mapped = np.load(path, mmap_mode="r")
            fd = os.open(path, os.O_RDONLY)
        except (OSError, ValueError, EOFError) as error:
            raise self._changed(f"cannot be read ({error})") from error
        super().__init__(fd, mapped.shape, mapped.dtype, mapped.offset)
        self._checked = np.zeros(len(mapped), bool)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def _check(self, row: int, content: bytes) -> None:
        if self._digests is not None and self._digests[row] and not self._checked[row]:
            if number(content) != self._digests[row]:
                raise self._changed(f"has other pixels in row {row} than were decoded")
            self._checked[row] = True

    def _changed(self, what: str) -> StorageError:
        """The error; the next start decodes the images again."""
        with contextlib.suppress(OSError):
            self._path.with_name(STATES).unlink()
        return StorageError(f"{self._path}: {what}; the next start writes it anew")

    def __reduce__(self) -> tuple[type[CachedPixels], tuple[Path, np.ndarray | None]]:
        return CachedPixels, (self._path, self._digests)


def _read_texts(path: Path) -> dict[int, str]:
    """Text by row."""
    return {int(row): text for row, text in json.loads(path.read_text()).items()}


def reserve(path: Path) -> None:
    """Reserve a file's space: writing to a memory map on a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def number(content: bytes) -> int:
    """A hash of 64 bits, never 0."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") | 1


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
