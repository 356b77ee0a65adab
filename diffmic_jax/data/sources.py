"""Where images and labels come from: every supported layout becomes one `Source`.

Opening a source reads its tables, checks that each image is there and settles the split; pixels
are decoded later. The name and the content of `data.root` decide the layout:

- the name 'phantom': the embedded phantom, which needs no files;
- a MedMNIST `.npz`, or a folder with one, by the name of the data set;
- the folder that `prepare` wrote;
- `data.lists`: pickled split lists;
- `data.labels`, or the table of a known data set: a CSV of images and labels;
- otherwise a folder per class, in the root or in each of its folders `train`, `test`, `val`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from diffmic_jax.config import Data
from diffmic_jax.data import archives, grouping, layouts, splits, tables
from diffmic_jax.data.catalog import CATALOG, MEDMNIST, MEDMNIST_WHERE
from diffmic_jax.data.files import table_text
from diffmic_jax.data.folders import open_folders
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.images import MAX_PIXELS
from diffmic_jax.data.layouts import MOST_CLASSES, PARTS, Layout, Parts, Read, Record
from diffmic_jax.data.listed import open_lists, open_table
from diffmic_jax.data.lists import authors_parts
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.fields import specs
from diffmic_jax.method.task import Task

log = logging.getLogger("diffmic_jax")

FEW_CLASSES = 10
"""So many may have a single image each."""
CLEAN = "test_clean"
"""The part of a leaking test split whose groups are not in training."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled images in disjoint parts."""

    name: str
    task: Task
    splits: dict[str, tuple[Record, ...]]
    """Keys 'train', 'validation' (may be empty) and 'test'; also 'test_clean', a part of 'test',
    where test images show groups (lesions, patients) of the training images."""
    read: Read
    files: tuple[str, ...] = ()
    """The files that hold all images, if there is not one for each record."""
    max_pixels: int = MAX_PIXELS
    """The largest image that `read` decodes."""
    framing: Framing = Framing()
    """What of each picture the networks see."""

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Every image once, by part."""
        return tuple(record for part in PARTS for record in self.splits[part])


def open_source(data: Data) -> Source:
    """Open a data set, check it and settle its split: `open_layout`, then `settle`.

    Args:
      data: the group of a configuration.

    Raises:
      InputError: naming the field, the file or the row at fault.
    """
    return settle(open_layout(data), data)


def settle(layout: Layout, data: Data) -> Source:
    """The records of an opened data set in their final parts.

    A test or validation part that is not given is cut off, with groups kept whole where they are
    known.

    Args:
      layout: of the data set.
      data: as it was opened by; what decides the parts may be other.

    Raises:
      InputError: naming the field, the file or the row at fault.
    """
    _check_fields(data)
    options = Options(data)
    _check_classes(layout.task)
    _check_labels(layout, options)
    parts = _split(layout, options)
    _check_parts(parts, data.validation_fraction)
    return Source(
        name=data.name,
        task=layout.task,
        splits=_with_clean_part(parts),
        read=layout.read,
        files=layout.files,
        max_pixels=data.max_pixels,
        framing=Framing.of(data),
    )


def open_layout(data: Data, testing: bool = False) -> Layout:
    """A data set as it is on disk, not yet split. Errors as in `open_source`.

    What chance should not part, or training lacks, is no error where all is for `testing`.

    Classes without given names are the columns of a one-hot table in their order, 0, 1, ... for
    integer labels, else the sorted names. `split_seed` is also the seed of the phantom, and
    `image_size` chooses among the sizes of MedMNIST.
    """
    _check_fields(data)
    return (
        layouts.open_phantom(data.split_seed)
        if data.name == "phantom"
        else _open(Options(data, testing))
    )


def open_native(name: str, root: Path) -> Layout:
    """A data set of the catalog as it is distributed, with its own parts and groups.

    Raises:
      InputError: naming the file or the row at fault, and what to download.
    """
    options = Options(Data(name=name, root=str(root)))
    _check_root(options.data)
    return _with_groups(_open_files(options.completed()), options)


def write_split(source: Source) -> str:
    """The text of a CSV with the part of every image, as `data.split` takes it."""
    rows = [
        (record.id, source.task.name(record.label), record.group, part)
        for part in PARTS
        for record in source.splits[part]
    ]
    return table_text(["image", "label", "group", "split"], rows)


def _check_fields(data: Data) -> None:
    """Refuse values that cannot work with any data set."""
    for spec in specs(Data, "data."):
        spec.check(getattr(data, spec.name.removeprefix("data.")))
    if data.validation_fraction == 1:
        raise InputError(
            "config.data.validation_fraction=1.0 leaves nothing to train on; give less"
        )
    if data.test_fraction in (0, 1):
        raise InputError(
            f"config.data.test_fraction={data.test_fraction} leaves a part empty; give a number "
            "between 0 and 1"
        )
    if data.folds == 1 or data.fold >= max(data.folds, 1):
        raise InputError(
            f"config.data.fold={data.fold} of config.data.folds={data.folds}: give at least 2 "
            "folds, counted from 0, or neither"
        )
    if not re.fullmatch(r"[\w.-]{1,64}", data.name):
        raise InputError(
            f"config.data.name={data.name!r} cannot name a folder; use up to 64 letters, digits, "
            "'.', '_' and '-'"
        )
    if data.name != "phantom":
        _check_root(data)


def _check_root(data: Data) -> None:
    root = Path(data.root)
    if not (data.root and (root.is_dir() or root.suffix == ".npz" and root.is_file())):
        raise InputError(
            f"config.data.root={data.root!r} is not there; {_where(data.name)}. Another place goes "
            "into config.data.root; config.data.name=phantom needs no files"
        )


def _where(name: str) -> str:
    """What to put into the root for a data set."""
    if name in MEDMNIST:
        return MEDMNIST_WHERE.format(name=name)
    return CATALOG[name].where if name in CATALOG else "put a folder of images for each class there"


def _open(options: Options) -> Layout:
    """The images under the root, in whichever layout they are, with their groups."""
    name, root = options.data.name, options.root
    if name in MEDMNIST or root.suffix == ".npz":
        _refuse(options, "an NPZ has", "labels", "lists")
        npz = archives.find_npz(root, name, options.data.image_size)
        if not npz:
            raise InputError(f"config.data.root: no {name}*.npz in {root}; {_where(name)}")
        layout = archives.open_npz(npz, name, options.class_names)
    elif prepared := archives.find_prepared(root, name):
        lists = () if options.data.protocol == "authors" else ("lists",)
        _refuse(options, f"{prepared} has", "labels", *lists)
        layout = archives.open_prepared(prepared, options.data.max_pixels)
    else:
        layout = _open_files(_labelled(options).completed())
    ordered = options.ordered(layout.task.class_names)
    layout = layout._replace(task=replace(layout.task, ordered=ordered))
    return _with_groups(layout, options)


def _open_files(options: Options) -> Layout:
    """Split lists if they are named, a CSV of labels if there is one, else class folders."""
    if options.data.lists:
        return open_lists(options)
    return open_table(options) if options.data.labels else open_folders(options)


def _labelled(options: Options) -> Options:
    """Without the lists where they only give the parts, and a table or folders the labels."""
    if options.data.protocol != "authors":
        return options
    return Options(replace(options.data, lists=""))


def _refuse(options: Options, what: str, *fields: str) -> None:
    """Refuse fields that would be ignored."""
    for field in fields:
        if getattr(options.data, field):
            raise InputError(f"config.data.{field}: {what} its own labels; leave this field empty")


def _check_classes(task: Task) -> None:
    if task.num_classes < 2 - task.multi_label:
        names = ",".join(task.class_names) or "none"
        raise InputError(f"config.data.root: fewer than two classes ({names}); check the labels")
    if task.num_classes > MOST_CLASSES:
        raise InputError(
            f"config.data.root: {task.num_classes} classes, of at most {MOST_CLASSES}; is "
            f"{task.class_names[0][:50]!r} the name of one?"
        )


def _check_labels(layout: Layout, options: Options) -> None:
    """Refuse a column of a table that has nearly another value for each image."""
    count, images = layout.task.num_classes, sum(map(len, layout.parts.values()))
    if options.class_names or layout.task.multi_label or not options.data.labels:
        return
    if count > FEW_CLASSES and 2 * count > images:
        raise InputError(
            f"{options.tables[0]}: {count} classes in {images} images, as "
            f"{', '.join(layout.task.class_names[:3])}; are these the labels? name their column in "
            "config.data.label_columns"
        )


def _with_groups(layout: Layout, options: Options) -> Layout:
    """The same records with their groups: of a CSV, by id or file name, or of a pattern."""
    if options.data.group_regex:
        if options.data.groups:
            raise InputError("config.data.group_regex: config.data.groups is given; name one")
        return layout._replace(parts=grouping.with_groups(layout.parts, options.data.group_regex))
    groups, known = options.data.groups, options.known
    if not groups and known:
        groups = next((name for name in known.groups if (options.root / name).is_file()), "")
        if known.groups and not groups:
            log.warning(
                "no %s in %s: groups (lesions, patients) may be on both sides of the split",
                *(" or ".join(known.groups), options.root),
            )
    if not groups:
        return layout
    path = options.table(groups)
    table = tables.read_groups(path)
    records = [record for listed in layout.parts.values() for record in listed]
    missing = (
        f"{path}: no row for image {{}}, or not for it alone; add it or set config.data.groups=''"
    )
    found = iter(layouts.look_up(table, records, missing))
    parts = {
        part: [record._replace(group=next(found)) for record in listed]
        for part, listed in layout.parts.items()
    }
    return layout._replace(parts=parts)


def _split(layout: Layout, options: Options) -> Parts:
    """The records in their final parts: a table's, or those of the protocol."""
    data, parts = options.data, layout.parts
    rng = np.random.default_rng(data.split_seed)
    if data.split:
        path = options.table(data.split)
        parts = splits.by_table(parts, tables.read_parts(path), str(path))
    else:
        if data.protocol == "authors":
            authors = authors_parts(options, layout.authors)
            parts = splits.by_table(parts, authors, "config.data.protocol=authors")
        cut = splits.Cut(task=layout.task, fraction=data.test_fraction, rng=rng)
        parts = splits.cut_test(parts, data.protocol, cut)
    cut = splits.Cut(task=layout.task, fraction=data.validation_fraction, rng=rng)
    if data.folds:
        return splits.hold_out(parts, cut, data.folds, data.fold)
    return splits.cut_validation(parts, cut)


def _check_parts(parts: Parts, validation_fraction: float) -> None:
    """Refuse a split that leaves a part empty."""
    for part in PARTS:
        if not parts[part] and (part != "validation" or validation_fraction):
            groups = {record.group for own in parts.values() for record in own} - {""}
            few = ", since all images are of few groups" if 0 < len(groups) < 10 else ""
            raise InputError(
                f"config.data.root: no image is left for the {part} part{few}; add images, or "
                "change config.data.protocol, test_fraction or validation_fraction"
            )


def _with_clean_part(parts: Parts) -> dict[str, tuple[Record, ...]]:
    """The parts of a source, with the clean part of a test split that leaks."""
    frozen = {part: tuple(parts[part]) for part in PARTS}
    leaking = set(splits.leaked(parts))
    if leaking and len(leaking) < len(parts["test"]):
        frozen[CLEAN] = tuple(record for record in parts["test"] if record not in leaking)
    return frozen
