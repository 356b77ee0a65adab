"""The layouts of images on disk; each becomes a `Layout`: records in the parts that are given.

Opening a layout reads its tables and checks that every image exists. Pixels are decoded later, one
image at a time, by the layout's `read`, which can be pickled for worker processes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffmic_jax.data import images, phantom, scan
from diffmic_jax.data.csvfile import nfc
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task

PARTS = ("train", "validation", "test")
MOST_CLASSES = 2000
"""A label column that is none easily has more."""
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


Read = Callable[..., Decoded]
"""Decodes a record; gray of more than eight bits on the scale of its own bits, or on that of
`gray_bits`."""
Parts = dict[str, list[Record]]
"""Records by part; without a given split all are in 'train'."""


class Layout(NamedTuple):
    """Images as they are on disk."""

    task: Task
    parts: Parts
    read: Read
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
    names = [[nfc(name) for name in _names(record)] for record in records]
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
    stems = [path.stem for path in paths if path.suffix.lower() in scan.EXTENSIONS]
    return [record.id, *(path.name for path in paths), *stems]


def read_file(
    record: Record, gray_bits: int = 0, *, max_pixels: int = images.MAX_PIXELS
) -> Decoded:
    """Decode the record's own file; the arguments are those of `images.decode`."""
    return images.decode(Path(record.path), record.path, max_pixels, gray_bits)


def open_phantom(seed: int) -> Layout:
    """The embedded phantom, which needs no files."""
    parts: Parts = {part: [] for part in PARTS}
    for index, grade, part in phantom.records(seed):
        parts[part].append(Record(f"phantom_{index:04d}", grade, f"{seed}/{index}"))
    # Its images change only with its code.
    task = Task(class_names=phantom.GRADES)
    return Layout(task, parts, _read_phantom, files=(phantom.__file__,))


def _read_phantom(record: Record, gray_bits: int = 0) -> Decoded:
    del gray_bits
    gray = phantom.generate(*map(int, record.path.split("/")))
    return Decoded(np.repeat(gray[..., None], 3, axis=-1), "L")


def reader(options: Options) -> Read:
    """Reads each record's own file."""
    return functools.partial(read_file, max_pixels=options.data.max_pixels)
