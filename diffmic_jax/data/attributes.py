"""What is known of images beside their label: age, sex, site, from the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmic_jax.config import Data
from diffmic_jax.data import csvfile, labels, layouts
from diffmic_jax.data.columns import IMAGE_COLUMNS
from diffmic_jax.data.layouts import Record
from diffmic_jax.data.options import Options, numbers_of
from diffmic_jax.errors import InputError, Problems

MISSING = "not known"
RANGES = 4
"""Ranges that the numbers of a column are put into, with about equally many images each."""


def read_attributes(
    data: Data, records: Sequence[Record], columns: Sequence[str], table: Path | None = None
) -> dict[str, list[str]]:
    """The value that each column has for each image; numbers as ranges.

    Args:
      data: of the images, whose tables are searched for the columns.
      records: the N images.
      columns: names, in any case.
      table: a CSV with an image column, in the place of the data's own.

    Returns:
      From column to [N] values; `MISSING` where a cell is blank.

    Raises:
      InputError: no table has the column, or a table lacks an image.
    """
    found = find_columns(data, columns, table)
    return {column: _ranges(_values(*place, records)) for column, place in found.items()}


def find_columns(
    data: Data, columns: Sequence[str], table: Path | None = None
) -> dict[str, tuple[csvfile.Table, str]]:
    """The table that has each column, and its name there; arguments as above.

    Raises:
      InputError: no table has the column.
    """
    paths = [table] if table else _tables(data)
    opened = [_open(path) for path in paths]
    found = {}
    for column in columns:
        places = ((each, name) for each in opened if (name := each.column([csvfile.plain(column)])))
        if place := next(places, None):
            found[column] = place
            continue
        names = ", ".join(str(path) for path in paths)
        known = sorted({name for each in opened for name in each.header})
        there = f"no such column in {names}; there are {', '.join(known)}" if names else "no table"
        raise InputError(f"--attributes={column}: {there}. Name a table that has it in --table")
    return found


def _tables(data: Data) -> list[Path]:
    """The CSVs that come with a data set."""
    options = Options(data)
    names = [data.groups, *([*known.labels, *known.groups] if (known := options.known) else [])]
    paths = [*options.tables, *map(options.table, filter(None, names))]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def _open(path: Path) -> csvfile.Table:
    problems = Problems()
    table = csvfile.read(path, "labels", IMAGE_COLUMNS, problems)
    problems.check()
    if not table.column(IMAGE_COLUMNS):
        raise InputError(
            f"{path}: no column names the images; it needs one of {', '.join(IMAGE_COLUMNS)}"
        )
    return table


def _values(table: csvfile.Table, column: str, records: Sequence[Record]) -> list[str]:
    image = table.column(IMAGE_COLUMNS)
    cells = {line[image]: line[column] for _, line in table.lines}
    missing = f"{table.path}: no row for image {{}}; add it"
    return layouts.look_up(cells, records, missing)


def _ranges(cells: list[str]) -> list[str]:
    """The cells, or where they are many different numbers the range of each."""
    blank = [cell.casefold() in labels.MISSING for cell in cells]
    numbers = numbers_of([c for c, gone in zip(cells, blank, strict=True) if not gone])
    if numbers is None or len(set(numbers)) <= 2 * RANGES:
        return [MISSING if gone else cell for cell, gone in zip(cells, blank, strict=True)]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, RANGES + 1)))
    names = [f"{low:g} to {high:g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    place = np.clip(np.searchsorted(edges, numbers, side="left") - 1, 0, len(names) - 1)
    found = iter(place)
    return [MISSING if gone else names[next(found)] for gone in blank]
