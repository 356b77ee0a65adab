"""CSV, JSON, text and bytes: written atomically, so that a file is complete or absent, and read.

A spreadsheet runs a cell that begins like a formula. Such text is written with an apostrophe in
front, which `restored` takes off again.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.errors import InputError

STALE = 60
"""Seconds after its last byte from which an unfinished file is taken for abandoned."""
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How text begins that a spreadsheet takes for a formula; and such text with apostrophes."""


def defused(cell: Any) -> Any:
    """A cell that no spreadsheet runs; numbers stay as they are."""
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
        return cell
    except ValueError:
        return f"'{cell}"


def restored(cell: str) -> str:
    """The cell that `defused` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV that this package wrote, by column; some columns have to be there.

    Raises:
      OSError: it cannot be read.
      InputError: it is no such CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := set(columns).difference(reader.fieldnames or ()):
                raise ValueError(f"no column {', '.join(sorted(missing))}")
            return [{name: restored(cell) for name, cell in row.items()} for row in reader]
    except (csv.Error, ValueError, TypeError, AttributeError) as error:
        # A row that is too short or too long has None as a cell or as a column.
        raise InputError(f"{path}: not a readable CSV ({error}); have it written again") from error


def fits(found: Any, shape: Any) -> bool:
    """Whether what a JSON file holds has a shape.

    Args:
      found: as JSON has it.
      shape: a type, where int and float are no bool; None; a dict of the keys that have to be there
        with the shape of each, or with `...` as its only key the shape of all; a list of the shapes
        of its elements, or with `...` behind one the shape of all; a tuple of shapes, one of which
        is enough.
    """
    if isinstance(shape, tuple):
        return any(fits(found, each) for each in shape)
    if isinstance(shape, dict):
        if not isinstance(found, dict):
            return False
        wanted = dict.fromkeys(found, shape[...]) if ... in shape else shape
        return all(key in found and fits(found[key], each) for key, each in wanted.items())
    if isinstance(shape, list):
        if not isinstance(found, list):
            return False
        wanted_items = shape[:1] * len(found) if shape[-1] is ... else shape
        return len(found) == len(wanted_items) and all(map(fits, found, wanted_items))
    if isinstance(found, float) and not math.isfinite(found):
        return False
    return type(found) is shape if shape is not None else found is None


@contextlib.contextmanager
def believed(path: Path, fix: str) -> Iterator[None]:
    """Whatever code makes of a damaged file is one line that names it.

    Args:
      path: the file, which anybody may have changed.
      fix: what to do.

    Raises:
      InputError: the code within met what this package does not write there.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r:.100}); {fix}") from error
    except RecursionError as error:
        raise InputError(f"{path}: damaged (nested too deeply); {fix}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      OSError: it cannot be read.
      InputError: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); have it written again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not an object; write it again")
    return found


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
    lines = _Lines()
    # With both of its characters, a cell that holds one is quoted.
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([defused(cell) for cell in row] for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """What a writer writes, a line at a time."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


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


def check_writable_file(path: Path) -> None:
    """Refuse a file that cannot be written, before what goes into it is computed.

    Raises:
      InputError: it is a folder, or its folder cannot be made or written.
    """
    folder = next(each for each in path.absolute().parents if each.exists())
    reason = 0
    if path.is_dir():
        reason = errno.EISDIR
    elif not folder.is_dir():
        reason = errno.EEXIST
    elif not os.access(folder, os.W_OK):
        reason = errno.EACCES
    if reason:
        raise InputError(f"{path}: cannot be written ({os.strerror(reason)}); choose another place")


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
