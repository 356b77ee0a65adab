"""Tables of images with their labels, groups or parts: CSV files and lists of names.

Nothing here reads an image. A row has its file and line number, for errors that are found later.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffmic_jax.config import Data
from diffmic_jax.data import csvfile, labels
from diffmic_jax.data.columns import (
    GROUP_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    PART_COLUMNS,
    PART_NAMES,
    Columns,
    hot,
    unknown,
)
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError, Problems
from diffmic_jax.method.task import SEPARATOR, name_classes

log = logging.getLogger("diffmic_jax")


class Row(NamedTuple):
    """One image in a table or list."""

    where: str
    """File and row number, for messages."""
    image: str
    label: str
    """A class name or an index; several of them as 'a|b', or none, in a multi-label table."""
    part: str = "train"
    group: str = ""


class Labels(NamedTuple):
    """A table of labels."""

    rows: list[Row]
    columns: tuple[str, ...] = ()
    """The classes, if there is a column for each."""

    def names(self, options: Options) -> tuple[str, ...]:
        """The classes in label order: as they are given, those of the columns, or the labels'."""
        if options.class_names or self.columns:
            return options.class_names or self.columns
        return class_names_of(self.rows, options.multi_label)


def class_names_of(rows: Sequence[Row], multi_label: bool = False) -> tuple[str, ...]:
    """The classes where no names are given, see `labels.class_names`."""
    return labels.class_names(labels_of(rows, multi_label))


def labels_of(rows: Sequence[Row], multi_label: bool = False) -> set[str]:
    """All labels that occur."""
    if not multi_label:
        return {row.label for row in rows}
    return {label for row in rows for label in row.label.split(SEPARATOR) if label}


def read_labels(path: Path, options: Options | None = None) -> Labels:
    """A CSV of labels.

    The header has an image column, then either a label column or one 0/1 column per class, and
    perhaps a `split` and a group column; `data.label_columns` names those of the labels. With
    several labels per image a cell is like 'Mass|Nodule', or several columns hold 1.

    Raises:
      InputError: the file cannot be used; of problems in rows it tells the first ones.
    """
    options, problems = options or Options(Data()), Problems()
    known = (*IMAGE_COLUMNS, *LABEL_COLUMNS)
    table = csvfile.read(path, "labels", known, problems)
    columns = Columns.of(table, options)
    table.tell()
    columns.tell(table)
    reader = _Reader(table, columns, options, problems)
    rows = [row for where, line in table.lines for row in reader.row(where, line)]
    reader.settle()
    problems.check()
    if not columns.label:
        return Labels(rows, columns.classes)
    rows = _unified(rows, options.multi_label)
    return Labels(_united(rows, path) if options.multi_label else rows)


def _unified(rows: Sequence[Row], multi_label: bool) -> list[Row]:
    """The rows with labels that are all whole numbers in one writing."""
    found = labels.unified(labels_of(rows, multi_label))

    def write(label: str) -> str:
        return SEPARATOR.join(found[each] for each in label.split(SEPARATOR) if each)

    return [
        row._replace(label=write(row.label) if multi_label else found[row.label]) for row in rows
    ]


def _united(rows: Sequence[Row], path: Path) -> list[Row]:
    """One row for each image of a table that has a row for each label; told.

    Rows of one image that contradict each other, as by no label and one, stay as they are.
    """
    found: dict[tuple[str, str, str, bool], Row] = {}
    more = 0
    for row in rows:
        key = (row.image, row.part, row.group, bool(row.label))
        first = found.setdefault(key, row)
        if first is not row:
            both = dict.fromkeys(first.label.split(SEPARATOR) + row.label.split(SEPARATOR))
            united = SEPARATOR.join(both)
            more += united != first.label
            found[key] = first._replace(label=united)
    if not more:
        return list(rows)
    log.warning(
        "%s: %d rows have another label of an image of an earlier one; each of %d images has all "
        "labels of its rows",
        *(path, more, len(found)),
    )
    return list(found.values())


class _Reader:
    """Reads the rows of a table of labels, and keeps what is to be told about all of them."""

    def __init__(
        self, table: csvfile.Table, columns: Columns, options: Options, problems: Problems
    ) -> None:
        self._path, self._columns, self._options = table.path, columns, options
        self._problems = problems
        self._names = options.class_names
        self._missing: list[tuple[str, str]] = []  # where, and the cell
        self._unsure: list[tuple[str, str]] = []
        self._joined: list[tuple[str, str]] = []
        self._several: list[str] = []
        if columns.label and not options.multi_label:
            cells = [labels.unlisted(line[columns.label], self._names) for _, line in table.lines]
            self._several = labels.several(set(cells), self._names)
        self._found: list[tuple[str, str]] = []

    def row(self, where: str, line: Mapping[str, str]) -> list[Row]:
        """The row; none if its label is missing or cannot be used."""
        columns = self._columns
        with self._problems.collect():
            part = _part(line[columns.part], where) if columns.part else "train"
            label = self._label(line, where) if columns.label else self._hot(line, where)
            if label is not None:
                group = line[columns.group] if columns.group else ""
                return [Row(where, line[columns.image], label, part, _group(group))]
        return []

    def _label(self, line: Mapping[str, str], where: str) -> str | None:
        cell = line[self._columns.label]
        cell = cell if self._options.multi_label else labels.unlisted(cell, self._names)
        if labels.is_missing(cell, self._names):
            self._missing.append((where, cell))
            return None
        if self._options.multi_label:
            found = labels.split_cell(cell, self._names)
            self._found += [(where, label) for label in found]
            return SEPARATOR.join(found)
        if cell in self._several:
            self._joined.append((where, cell))
        return cell

    def _hot(self, line: Mapping[str, str], where: str) -> str | None:
        """The class whose column holds 1 while all others hold 0, or any number of such classes."""
        classes, several = self._columns.classes, self._options.multi_label
        values = [self._hot_cell(line[name], where) for name in classes]
        if -1.0 in values and self._options.data.uncertain == "error":
            return None  # told by `settle`
        allowed = {0.0, 1.0, -1.0} if several else {0.0, 1.0}
        if not set(values) <= allowed or not (several or sum(values) == 1):
            wanted = "each" if several else "one"
            others = "0 or 1" if several else "1, the others 0"
            fix = "" if several else "set config.data.multi_label=True if any number can be 1, "
            raise InputError(
                f"{where}: {wanted} of {','.join(classes)} must be {others}; fix the row, {fix}or "
                "name the columns of the classes in config.data.label_columns"
            )
        if several and any(SEPARATOR in name for name in classes):
            raise InputError(f"{where}: a class name holds {SEPARATOR!r}; rename its column")
        return name_classes(classes, values)

    def _hot_cell(self, cell: str, where: str) -> float:
        """As `columns.hot`; where it is not known as `data.uncertain` says."""
        value = hot(cell)
        if value != -1.0:
            return value
        self._unsure.append((where, cell))
        return {"zero": 0.0, "one": 1.0}.get(self._options.data.uncertain, -1.0)

    def settle(self) -> None:
        """Tell what concerns many rows: missing labels, and cells that are not known.

        Raises nothing: what is wrong is added to the problems.
        """
        self._tell(
            self._missing,
            "no label",
            "give one, set config.data.unlabelled=skip, or name it in config.data.class_names if "
            "it is a class",
            "left out" if self._options.data.unlabelled == "skip" else "",
        )
        uncertain = self._options.data.uncertain
        self._tell(
            self._unsure,
            "a class is neither 0 nor 1",
            "choose config.data.uncertain=ignore, zero or one, or fix it",
            {"error": "", "ignore": "ignored"}.get(uncertain, f"taken as {uncertain}"),
        )
        joined = set(labels.several({label for _, label in self._found}, self._names))
        self._joined += [each for each in self._found if each[1] in joined]
        self._tell(
            self._joined,
            "several labels",
            "separate them by | or ; and set config.data.multi_label=True, or name it in "
            "config.data.class_names if it is one class",
        )

    def _tell(self, cells: list[tuple[str, str]], what: str, fix: str, done: str = "") -> None:
        """One line about cells of a kind: a problem, or a warning of what is done about them."""
        if not cells:
            return
        counts = _counted(cell for _, cell in cells)
        told = f"{cells[0][0]}: {what}; {len(cells)} such cells ({counts})"
        if done:
            log.warning("%s are %s", told, done)
        else:
            self._problems.add(f"{told}; {fix}")


def _counted(cells: Iterable[str]) -> str:
    """Cells with their counts, as 'nan 100, blank 3'."""
    found = Counter(cell or "blank" for cell in cells).most_common(5)
    return ", ".join(f"{cell} {count}" for cell, count in found)


def _group(cell: str) -> str:
    """A group; '' where the cell says that it is not known."""
    return "" if cell.casefold() in labels.MISSING else cell


def read_groups(path: Path) -> dict[str, str]:
    """A CSV's map from image to group (lesion, patient)."""
    return _read_map(path, "groups", GROUP_COLUMNS, "a group column (group, lesion_id, patient_id)")


def read_parts(path: Path) -> dict[str, str]:
    """A CSV's map from image to part (train, validation, test), as a run writes its split."""
    return _read_map(path, "split", PART_COLUMNS, "a split column (train, validation, test)")


def _read_map(path: Path, field: str, accepted: Sequence[str], needed: str) -> dict[str, str]:
    """From image to the value of another column, unless an image has two values."""
    problems = Problems()
    table = csvfile.read(path, field, (*IMAGE_COLUMNS, *accepted), problems)
    image, column = table.column(IMAGE_COLUMNS), table.column(accepted)
    if not image or not column:
        raise unknown(table, needed)
    table.tell()
    found: dict[str, str] = {}
    for where, line in table.lines:
        with problems.collect():
            name = line[image]
            value = _part(line[column], where) if field == "split" else _group(line[column])
            if found.setdefault(name, value) != value:
                raise InputError(
                    f"{where}: {name!r} is {found[name]!r} in an earlier row; keep only one"
                )
    problems.check()
    return found


def read_names(path: Path, part: str) -> dict[str, str]:
    """The image names in a text file, one a line, all mapped to `part`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a readable list of images ({error}); download it again"
        ) from error
    return {csvfile.normal(line): part for line in lines if line.strip()}


def _part(cell: str, where: str) -> str:
    if cell.casefold() not in PART_NAMES:
        raise InputError(f"{where}: split {cell!r} is not one of {', '.join(PART_NAMES)}")
    return PART_NAMES[cell.casefold()]
