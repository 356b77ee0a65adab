"""Writing of CSV, JSON, text and bytes, atomically: a file is complete or absent."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.errors import InputError

STALE = 60
"""Seconds after its last byte from which an unfinished file is taken for abandoned."""


def write_table(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV.

    Raises:
      InputError: the file cannot be written.
    """
    write_text(path, table_text(header, rows))


def table_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Writes `values` with sorted keys; equal values give equal bytes.

    Raises:
      InputError: the file cannot be written.
      ValueError: a value is NaN or infinite, which JSON cannot express.
    """
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8. Arguments and errors as in `write_bytes`."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_bytes(path: str | os.PathLike[str], content: bytes | bytearray) -> None:
    """Writes beside `path`, then renames: a reader never sees an incomplete file.

    What a killed process left behind is removed by the next one that writes the file.

    Raises:
      InputError: the file cannot be written.
    """
    try:
        put(Path(path), content)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error


def put(path: Path, content: bytes | bytearray) -> None:
    """What `write_bytes` does.

    Raises:
      OSError: the file cannot be written.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with part.open("xb") as file:  # never through a link that lies there
            file.write(content)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole, or not at all; give what belongs into it to the one yielded.

    Args:
      path: is absent, or an empty folder.

    Raises:
      InputError: it cannot be made.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        part.mkdir()
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def _sweep(path: Path) -> None:
    """Remove the unfinished files of processes that are no more."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        process = left.name.removesuffix(".part").rpartition(".")[2]
        # On another machine it may live on: a file that still grows is left alone.
        if process == str(os.getpid()) or time.time() - left.lstat().st_mtime > STALE:
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
