"""Images that a CSV or pickled lists name, with their labels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffmic_jax.data import labels, tables
from diffmic_jax.data.catalog import DataSet
from diffmic_jax.data.columns import part_of_table
from diffmic_jax.data.csvfile import nfc
from diffmic_jax.data.finder import Finder
from diffmic_jax.data.layouts import PARTS, Label, Layout, Parts, Record, reader
from diffmic_jax.data.lists import read_lists
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError, Problems
from diffmic_jax.method.task import Task

log = logging.getLogger("diffmic_jax")


def open_lists(options: Options) -> Layout:
    """Split lists, whose labels are indices; numbers as they are, where no names are given.

    Raises:
      InputError: naming the list and the entry at fault.
    """
    rows = read_lists(options)
    names = options.class_names or tables.class_names_of(rows)
    known = {str(i): i for i in range(len(names))} if options.class_names else labels.lookup(names)
    return _of_rows(options, rows, names, known)


def open_table(options: Options) -> Layout:
    """A CSV of labels, or one for each part; the split may be in text files of names.

    Raises:
      InputError: naming the field, the file or the rows at fault.
    """
    table = _labels(options)
    rows = table.rows
    if options.known and options.known.official:
        rows = _with_official_parts(rows, options.root, options.known)
    names = table.names(options)
    known = labels.lookup(names, tables.labels_of(rows, options.multi_label))
    return _of_rows(options, rows, names, known)


def _labels(options: Options) -> tables.Labels:
    """The tables of labels as one; each of several has the rows of one part, by its name."""
    paths = options.tables
    first, *others = found = [tables.read_labels(path, options) for path in paths]
    if not others:
        return first
    rows = []
    for path, table in zip(paths, found, strict=True):
        inside = path.is_relative_to(options.root)
        part = part_of_table(path.relative_to(options.root) if inside else Path(path.name))
        if not part or {row.part for row in table.rows} - {"train", part}:
            raise InputError(
                f"{path}: each of several tables has one part, and neither its name nor its folder "
                "says which, or its split column says another; rename it, or make one table of all"
            )
        if {*table.columns} != {*first.columns}:
            different = ", ".join(sorted({*table.columns} ^ {*first.columns}))
            raise InputError(f"{path}: has other classes than {paths[0]} ({different}); correct it")
        rows += [row._replace(part=part) for row in table.rows]
    return first._replace(rows=rows)


def _with_official_parts(rows: list[tables.Row], root: Path, known: DataSet) -> list[tables.Row]:
    """The rows with the parts that the lists of the data set itself give."""
    parts: dict[str, str] = {}
    for file, part in zip(known.official or (), ("train", "test"), strict=True):
        if not (root / file).is_file():
            raise InputError(f"{root / file}: no such file; {known.where}")
        listed = tables.read_names(root / file, part)
        if both := parts.keys() & listed.keys():
            raise InputError(f"{root / file}: {min(both)!r} is in both lists; download them again")
        parts |= listed
    for row in rows:
        if row.image not in parts:
            lists = " or ".join(known.official or ())
            raise InputError(f"{row.where}: {row.image!r} is not in {lists}; download them again")
    return [row._replace(part=parts[row.image]) for row in rows]


def _of_rows(
    options: Options, rows: Sequence[tables.Row], names: Sequence[str], known: Mapping[str, int]
) -> Layout:
    """The layout that rows describe, after a check that each image exists and has one label.

    Args:
      options: where the images are.
      rows: image, label and part.
      names: the classes in label order.
      known: from the text of a label to its class.
    """
    task = Task(class_names=tuple(names), multi_label=options.multi_label)
    finder, problems = _finder(options, rows), Problems()
    seen: dict[Path, tuple[str, Record, str]] = {}
    repeated, told = 0, len({row.part for row in rows}) > 1
    for row in rows:
        with problems.collect():
            label = _label(row, known, task)
            path, real = finder.find(row.image, row.where, options.fix, row.part if told else "")
            record = Record(row.image, label, str(path), row.group)
            where, first, part = seen.setdefault(real, (row.where, record, row.part))
            if (first.label, first.group, part) != (label, row.group, row.part):
                raise InputError(f"{row.where}: {row.image!r} is also in {where}; keep only one")
            repeated += where != row.where
    problems.check()
    finder.tell(len(seen))
    if repeated:
        log.warning("%d rows repeat an earlier one and are left out", repeated)
    parts: Parts = {part: [] for part in PARTS}
    named = Counter(record.id for _, record, _ in seen.values())
    for _, record, part in seen.values():
        if named[record.id] > 1:  # of images in the folders of their parts, each with its own names
            record = record._replace(id=_place(record.path, options.root))
        parts[part].append(record)
    return Layout(task, parts, reader(options))


def _place(path: str, root: Path) -> str:
    """Where an image is, from the root on if it is in there."""
    inside = Path(path).is_relative_to(root)
    return nfc((Path(path).relative_to(root) if inside else Path(path)).as_posix())


def _finder(options: Options, rows: Sequence[tables.Row]) -> Finder:
    return Finder(options.root, [row.image for row in rows], options.data.allow_outside)


def _label(row: tables.Row, known: Mapping[str, int], task: Task) -> Label:
    if task.multi_label:
        return labels.find_several(row.label, known, row.where, task.num_classes)
    return labels.find(row.label, known, row.where)
