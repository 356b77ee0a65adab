"""Reading CSV files as programs and spreadsheets write them; nothing is guessed in silence.

The separator is the one of `SEPARATORS` that gives the header its known columns. The encoding is
UTF-8, or UTF-16 where the file begins with its mark or holds its zero bytes. Text is normalised to
NFC, in which equal letters are equal. Columns without a name, as an index of rows has none, are
left out. What is unusual is kept as notes, which `Table.tell` logs.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffmic_jax.data.files import restored
from diffmic_jax.errors import InputError, Problems

log = logging.getLogger("diffmic_jax")

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MOST_BYTES = 2**27
"""Of a table, which is in memory several times while it is read."""
_NAMED = re.compile(r'"?sep=([,;\t|])"?\r?\n', re.IGNORECASE)
"""A first line by which spreadsheets know the separator."""
_UNNAMED = re.compile(r"(unnamed: \d+)?")


class Table(NamedTuple):
    """The content of a CSV."""

    path: Path
    header: list[str]
    lines: list[tuple[str, dict[str, str]]]
    """File and row number, and the cells by column."""
    notes: tuple[str, ...] = ()
    """What is unusual."""

    def tell(self) -> None:
        """Log what is unusual."""
        for note in self.notes:
            log.info("%s: %s", self.path, note)

    def column(self, accepted: Sequence[str]) -> str:
        """The first accepted column that the header has, as `plain` compares; '' if none.

        Raises:
          InputError: two columns of the header are that one.
        """
        for wanted in map(plain, accepted):
            own = [name for name in self.header if plain(name) == wanted]
            if len(own) > 1:
                raise InputError(f"{self.path}: has the columns {own[0]} and {own[1]}; rename one")
            if own:
                return own[0]
        return ""


def plain(name: str) -> str:
    """A column's name as names are compared: 'Image_ID', 'image id' and 'ImageID' are the same."""
    return re.sub(r"[ _.-]+", "", name.casefold())


def normal(text: str) -> str:
    """The text in NFC, without the space around it."""
    return nfc(text.strip())


def nfc(text: str) -> str:
    """The text with letters and their accents composed, so that what looks the same is the same."""
    return unicodedata.normalize("NFC", text)


def read(path: Path, field: str, known: Sequence[str], problems: Problems) -> Table:
    """Read a CSV.

    Args:
      path: of the file.
      field: of the configuration that names it.
      known: columns of which it has one.
      problems: what is wrong with single rows, which are left out.

    Raises:
      InputError: the file is missing, damaged or empty.
    """
    if not path.is_file():
        raise InputError(f"config.data.{field}: no file {path}; put it there or fix the field")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, of at most {MOST_BYTES}; split it")
    try:
        # A run writes its split with file names as the system gives them, which may be no UTF-8.
        text = _text(path, "surrogateescape" if field == "split" else "strict")
        named = _NAMED.match(text)
        separator = named[1] if named else _separator(text, known)
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}); save it as UTF-8 CSV") from error
    table = _table(path, cells, problems, 1 if named else 0)
    if separator == ",":
        return table
    return table._replace(
        notes=(f"its cells are separated by {SEPARATORS[separator]}", *table.notes)
    )


def _text(path: Path, errors: str) -> str:
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and 0 in data[:2]:  # UTF-16 without a mark: every letter has a zero byte
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    return data.decode("utf-16" if wide else "utf-8-sig", errors)


def _separator(text: str, known: Sequence[str]) -> str:
    """The separator that gives the header a known column, of several the one with most columns."""
    first, accepted = re.split(r"[\r\n]", text, maxsplit=1)[0], set(map(plain, known))

    def columns(separator: str) -> tuple[bool, int]:
        names = next(csv.reader([first], delimiter=separator), [])
        return any(plain(normal(name)) in accepted for name in names), len(names)

    return max(SEPARATORS, key=columns)


def _table(path: Path, cells: list[list[str]], problems: Problems, first: int) -> Table:
    """The table whose header is row `first`, counted from 0."""
    header = [normal(cell) for cell in (cells[first] if len(cells) > first else [])]
    while header and not header[-1]:  # spreadsheets write empty columns at the end
        header.pop()
    named = [i for i, name in enumerate(header) if not _UNNAMED.fullmatch(name.casefold())]
    unnamed = len(header) - len(named)
    notes = (f"{unnamed} columns without a name are left out",) if unnamed else ()
    repeated = {name for name in (header[i] for i in named) if _count(header, name) > 1}
    if repeated:
        raise InputError(f"{path}: has column {min(repeated)} twice; rename one")
    lines = []
    for number, row in enumerate(cells[first + 1 :], start=first + 2):
        where = f"{path} row {number}"
        if not any(map(str.strip, row)):
            continue
        if len(row) < len(header) or any(row[len(header) :]):
            problems.add(f"{where}: {len(row)} cells under {len(header)} columns; fix the row")
            continue
        lines.append((where, {header[i]: normal(restored(row[i])) for i in named}))
    if not lines:
        problems.check()
        raise InputError(f"{path}: no rows; it needs a header and a row for each image")
    return Table(path, [header[i] for i in named], lines, notes)


def _count(header: Sequence[str], name: str) -> int:
    return sum(other.casefold() == name.casefold() for other in header)
