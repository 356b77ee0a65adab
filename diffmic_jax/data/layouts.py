"""The layouts of images on disk; each becomes a `Layout`: records in the parts that are given.

Opening a layout reads its tables and checks that every image exists. Pixels are decoded later, one
image at a time, by the layout's `read`, which can be pickled for worker processes.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffmic_jax.data import images, phantom, tables
from diffmic_jax.data.catalog import DataSet
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.lists import read_lists
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task

PARTS = ("train", "validation", "test")
Label = int | tuple[int, ...]
"""A class index, or C zeros and ones."""


class Record(NamedTuple):
    """One image, not yet read."""

    id: str
    label: Label
    path: str
    """A file, or another name that the layout's `read` understands."""
    group: str = ""
    """The lesion or patient it shows; '' if unknown."""


Parts = dict[str, list[Record]]
"""Records by part; without a given split all are in 'train'."""


class Layout(NamedTuple):
    """Images as they are on disk."""

    task: Task
    parts: Parts
    read: Callable[[Record], Decoded]
    files: tuple[str, ...] = ()
    """The files that hold all images, if there is not one for each."""
    authors: Mapping[str, str] = {}
    """DiffMIC's part of each image id, if a prepared data set has it."""


def label_array(records: Sequence[Record], task: Task) -> np.ndarray:
    """The labels of N records: [N] int32 class indices, or [N, C] zeros and ones."""
    shape = (len(records), task.num_classes) if task.multi_label else (len(records),)
    return np.array([record.label for record in records], np.int32).reshape(shape)


def unlabelled(name: str, path: str, task: Task) -> Record:
    """An image whose label is unknown; it gets one without meaning, of the task's form."""
    return Record(name, (0,) * task.num_classes if task.multi_label else 0, path)


def look_up(table: Mapping[str, str], records: Sequence[Record], missing: str) -> list[str]:
    """The value that a table has for each record, listed by id, file name or file stem.

    Args:
      table: name of an image to value.
      records: the images.
      missing: message of the error, with {} in place of the image.

    Raises:
      InputError: a record is not in the table, or another record has the same name there.
    """
    names = [_names(record) for record in records]
    owners = Counter(name for each in names for name in set(each))
    values = []
    for record, each in zip(records, names, strict=True):
        key = next((name for name in each if name in table), None)
        if key is None or (key != record.id and owners[key] > 1):
            raise InputError(missing.replace("{}", record.id))
        values.append(table[key])
    return values


def _names(record: Record) -> list[str]:
    """The names that a record may have in a table, the best first."""
    paths = [Path(path) for path in (record.path, record.id)]
    stems = [path.stem for path in paths if path.suffix.lower() in images.EXTENSIONS]
    return [record.id, *(path.name for path in paths), *stems]


def read_file(record: Record, max_pixels: int = images.MAX_PIXELS) -> Decoded:
    """Decode the record's own file."""
    return images.decode(Path(record.path), record.path, max_pixels)


def open_phantom(seed: int) -> Layout:
    """The embedded phantom, which needs no files."""
    parts: Parts = {part: [] for part in PARTS}
    for index, grade, part in phantom.records(seed):
        parts[part].append(Record(f"phantom_{index:04d}", grade, f"{seed}/{index}"))
    # Its images change only with its code.
    task = Task(class_names=phantom.GRADES)
    return Layout(task, parts, _read_phantom, files=(phantom.__file__,))


def _read_phantom(record: Record) -> Decoded:
    gray = phantom.generate(*map(int, record.path.split("/")))
    return Decoded(np.repeat(gray[..., None], 3, axis=-1), "L")


def open_files(options: Options) -> Layout:
    """Split lists if they are named, a CSV of labels if there is one, else class folders.

    Raises:
      InputError: naming the field, the file or the row at fault.
    """
    if options.data.lists:
        return _open_lists(options)
    if options.data.labels:
        return _open_table(options)
    return _open_folders(options)


def _open_lists(options: Options) -> Layout:
    """Split lists, whose labels are always indices."""
    rows = read_lists(options)
    names = options.class_names or tables.class_names_of(rows)
    lookup = {str(i): i for i in range(len(names))}
    return _of_rows(options, rows, names, lookup)


def _open_table(options: Options) -> Layout:
    """A CSV of labels; the split may be in text files of names."""
    rows, columns = tables.read_labels(options.table(options.data.labels), options.multi_label)
    if options.known and options.known.official:
        rows = _with_official_parts(rows, options.root, options.known)
    names = options.class_names or columns or tables.class_names_of(rows, options.multi_label)
    return _of_rows(options, rows, names, tables.label_lookup(names))


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


def _open_folders(options: Options) -> Layout:
    """A folder per class, in the root itself or in each of its parts."""
    root, known = options.root, options.known
    if options.multi_label:
        raise InputError(
            "config.data.multi_label: class folders give one label; name a CSV in "
            "config.data.labels"
        )
    bases = _folders_of_parts(root)
    folders = {folder: part for base, part in bases.items() for folder in _folders(base)}
    names = options.class_names or tuple(sorted({folder.name for folder in folders}))
    if len(names) < 2 or not folders:
        fix = "give each class a folder of images, or name a CSV in config.data.labels"
        fix = known.where if known else fix
        raise InputError(f"config.data.root: fewer than two class folders in {root}; {fix}")
    lookup = tables.label_lookup(names)
    parts: Parts = {part: [] for part in PARTS}
    for folder, part in folders.items():
        label = tables.find_label(folder.name, lookup, str(folder))
        for path in images.list_images(folder):
            if not fnmatch(path.name, known.ignored if known else ""):
                parts[part].append(Record(path.relative_to(root).as_posix(), label, str(path)))
    return Layout(Task(class_names=names), parts, _reader(options))


def _folders_of_parts(root: Path) -> dict[Path, str]:
    """The folders in which the class folders lie, and their parts: `train` and so on, or the root.

    Raises:
      InputError: a folder beside `train` is not the folder of a part.
    """
    given = {f: tables.PART_NAMES.get(f.name.casefold(), "") for f in _folders(root)}
    if "train" not in given.values():
        return {root: "train"}
    for folder, part in given.items():
        if not part:
            names = ", ".join(tables.PART_NAMES)
            raise InputError(
                f"{folder}: is not one of {names}, as the folders beside it are; move it away"
            )
    return given


def _folders(root: Path) -> list[Path]:
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def _reader(options: Options) -> Callable[[Record], Decoded]:
    return functools.partial(read_file, max_pixels=options.data.max_pixels)


def _of_rows(
    options: Options, rows: Iterable[tables.Row], names: Sequence[str], lookup: Mapping[str, int]
) -> Layout:
    """The layout that rows describe, after a check that each image exists and is listed once.

    Args:
      options: where the images are.
      rows: image, label and part.
      names: the classes in label order.
      lookup: from the text of a label to its class.
    """
    task = Task(class_names=tuple(names), multi_label=options.multi_label)
    by_name = _files_by_name(options.root)
    parts: Parts = {part: [] for part in PARTS}
    seen: dict[Path, str] = {}
    for row in rows:
        label: Label = (
            tables.find_labels(row.label, lookup, row.where, task.num_classes)
            if task.multi_label
            else tables.find_label(row.label, lookup, row.where)
        )
        path = _find_image(row, options, by_name)
        real = path.resolve()
        if real in seen:
            raise InputError(f"{row.where}: {row.image!r} is also in {seen[real]}; keep only one")
        seen[real] = row.where
        parts[row.part].append(Record(row.image, label, str(path), row.group))
    return Layout(task, parts, _reader(options))


def _find_image(row: tables.Row, options: Options, by_name: Mapping[str, list[Path]]) -> Path:
    root = options.root
    if (root / row.image).is_file():
        return root / row.image
    found = by_name.get(row.image, [])
    if not found:
        raise InputError(f"{row.where}: no image {row.image!r} in {root}; {options.fix}")
    if len(found) > 1:
        raise InputError(f"{row.where}: {row.image!r} is both {found[0]} and {found[1]}; keep one")
    return found[0]


def _files_by_name(root: Path) -> Mapping[str, list[Path]]:
    """All images under a folder, by file name and by file stem."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in images.images_under(root):
        found[path.name].append(path)
        found[path.stem].append(path)
    return found
