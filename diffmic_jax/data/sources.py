"""Where images and labels come from: every supported layout becomes one `Source`.

Opening a source reads its tables, checks that each image is there and settles the split; pixels
are decoded later. What lies under `root` decides the layout:

- the name 'phantom': the embedded phantom, which needs no files;
- a MedMNIST `.npz`, or a folder with one, by the name of the data set;
- the folder that `prepare` wrote;
- `train_list`, `test_list`: pickled split lists;
- `labels`, or the table that a known data set comes with: a CSV of images and labels;
- otherwise a folder per class, in `root` or in each of `root/train`, `root/test`, `root/val`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmic_jax.data import archives, layouts, splits, tables
from diffmic_jax.data.catalog import CATALOG, MEDMNIST, MEDMNIST_WHERE, DataSet
from diffmic_jax.data.images import MAX_PIXELS, Decoded
from diffmic_jax.data.layouts import PARTS, Layout, Options, Parts, Record
from diffmic_jax.errors import InputError

CLEAN = "test_clean"
"""The part of a leaking test split whose groups are not in training."""


@dataclass(frozen=True)
class Source:
    """Labelled images in disjoint parts."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[Record, ...]]
    """Keys 'train', 'validation' (may be empty) and 'test'; also 'test_clean', a part of 'test',
    where test images show groups (lesions, patients) of the training images."""
    read: Callable[[Record], Decoded]
    multi_label: bool = False
    files: tuple[str, ...] = ()
    """The files that hold all images, if there is not one for each record."""
    max_pixels: int = MAX_PIXELS
    """The largest image that `read` decodes."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Every image once, by part."""
        return tuple(record for part in PARTS for record in self.splits[part])


def open_source(
    name: str,
    root: str | os.PathLike[str] = "",
    *,
    labels: str = "",
    train_list: str = "",
    test_list: str = "",
    groups: str = "",
    split: str = "",
    class_names: Sequence[str] = (),
    multi_label: bool = False,
    protocol: str = "given",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    image_size: int = 224,
    max_pixels: int = MAX_PIXELS,
) -> Source:
    """Open a data set, check it and settle its split.

    Args:
        name: 'phantom', a data set of the catalog or of MedMNIST, or what to call the images under
            `root`.
        root: the folder of the images. The files below are looked for in it, then as they are.
        labels: a CSV of images and labels.
        train_list: a pickled split list; wins over `labels`.
        test_list: its test half.
        groups: a CSV that says which lesion or patient each image shows.
        split: a CSV that says which part each image belongs to, as a run writes it; wins over
            every protocol.
        class_names: the classes in label order. Without it: a one-hot table's columns in their
            order, 0, 1, ... for integer labels, else the sorted names.
        multi_label: any number of classes applies to an image.
        protocol: 'given' keeps the parts that the data set comes with; 'authors' takes DiffMIC's
            lists; 'random' and 'grouped' pool all images and cut a test part anew, by class, or by
            class with groups kept whole. A data set that is given no test part has one cut, with
            groups whole where known.
        validation_fraction: of the training part, cut off for validation unless that is given;
            groups stay whole where they are known. 0 for none.
        test_fraction: of all images, where a test part has to be cut.
        seed: of the cuts, and of the phantom.
        image_size: pixels a side that are wanted; chooses among MedMNIST's sizes.
        max_pixels: the largest image that is decoded.

    Raises:
        InputError: naming the field, the file or the row at fault.
    """
    _check_options(protocol, validation_fraction, test_fraction, seed)
    _check_root(name, root)
    known = CATALOG.get(name)
    options = Options(
        Path(root),
        labels,
        train_list,
        test_list,
        tuple(class_names) or (known.class_names if known else ()),
        multi_label or bool(known and known.multi_label),
        max_pixels,
        known,
    )
    if name == "phantom":
        layout = layouts.open_phantom(seed)
    else:
        layout = _open_layout(name, options, protocol, image_size)
        layout = _with_groups(layout, options, groups)
    _check_classes(layout)
    parts = layout.parts
    rng = np.random.default_rng(seed)
    if split:
        path = options.table(split)
        parts = splits.by_table(parts, tables.read_parts(path), str(path))
    else:
        if protocol == "authors":
            parts = splits.by_table(parts, _authors(layout, options), "data.protocol=authors")
        parts = splits.cut_test(parts, protocol, test_fraction, rng)
    parts = splits.cut_validation(parts, validation_fraction, rng)
    _check_parts(parts, validation_fraction)
    return Source(
        name,
        layout.class_names,
        _frozen(parts),
        layout.read,
        layout.multi_label,
        layout.files,
        max_pixels,
    )


def open_native(name: str, root: Path) -> Layout:
    """A data set of the catalog as it is distributed, with its own parts and groups.

    Raises:
        InputError: naming the file or the row at fault, and what to download.
    """
    _check_root(name, root)
    known = CATALOG[name]
    options = Options(
        root, class_names=known.class_names, multi_label=known.multi_label, known=known
    )
    layout = layouts.open_files(_with_known_files(options))
    return _with_groups(layout, options, "")


def write_split(source: Source) -> str:
    """The text of a CSV with the part of every image, which `split` takes back."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "group", "split"])
    for part in PARTS:
        for record in source.splits[part]:
            writer.writerow([record.id, label_text(source, record), record.group, part])
    return text.getvalue()


def label_text(source: Source, record: Record) -> str:
    """The names of a record's classes, as a table of labels has them."""
    if isinstance(record.label, int):
        return source.class_names[record.label]
    names = zip(source.class_names, record.label, strict=True)
    return tables.SEPARATOR.join(name for name, holds in names if holds)


def _check_options(
    protocol: str, validation_fraction: float, test_fraction: float, seed: int
) -> None:
    if protocol not in splits.PROTOCOLS:
        choices = ", ".join(splits.PROTOCOLS)
        raise InputError(f"data.protocol: {protocol!r} is not one of {choices}")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"data.validation_fraction: {validation_fraction} is not in [0, 1)")
    if not 0 < test_fraction < 1:
        raise InputError(f"data.test_fraction: {test_fraction} is not in (0, 1)")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed} is not in 0..2^32-1")


def _check_root(name: str, root: str | os.PathLike[str]) -> None:
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise InputError(f"data.name: {name!r} is no name; use letters, digits, '.', '_' and '-'")
    there = Path(root).is_dir() or Path(root).suffix == ".npz" and Path(root).is_file()
    if name != "phantom" and not (str(root) and there):
        raise InputError(
            f"data.root={str(root)!r} is not there; {_where(name)}. "
            "To run on the embedded stand-in instead: --config.data.name=phantom"
        )


def _where(name: str) -> str:
    """What to put into the root for a data set."""
    if name in MEDMNIST:
        return MEDMNIST_WHERE.format(name=name)
    return CATALOG[name].where if name in CATALOG else "put a folder of images for each class there"


def _open_layout(name: str, options: Options, protocol: str, image_size: int) -> Layout:
    """The images under the root, in whichever layout they are."""
    root, authors = options.root, protocol == "authors"
    if name in MEDMNIST or root.suffix == ".npz":
        _refuse(options, "an NPZ brings", "labels", "train_list")
        if npz := archives.find_npz(root, name, image_size):
            return archives.open_npz(npz, name, options.class_names)
        raise InputError(f"data.root: no {name}*.npz in {root}; {_where(name)}")
    if prepared := archives.find_prepared(root, name):
        _refuse(options, f"{prepared} brings", "labels", *(() if authors else ("train_list",)))
        return archives.open_prepared(prepared, options.max_pixels)
    if authors:  # the lists say who is where, and the data set's own table the rest
        options = options._replace(train_list="", test_list="")
    return layouts.open_files(_with_known_files(options))


def _refuse(options: Options, what: str, *fields: str) -> None:
    """Refuse fields that would be ignored."""
    for field in fields:
        if getattr(options, field):
            raise InputError(f"data.{field}: {what} its own labels; leave this field empty")


def _check_classes(layout: Layout) -> None:
    if len(layout.class_names) < 2 - layout.multi_label:
        names = ",".join(layout.class_names) or "none"
        raise InputError(f"data.root: fewer than two classes ({names}); check the labels")


def _with_known_files(options: Options) -> Options:
    """The options with the table or lists in which a known data set is distributed."""
    root, known = options.root, options.known
    if not known or options.labels or options.train_list:
        return options
    if known.labels:
        there = [file for file in known.labels if (root / file).is_file()]
        if not there:
            raise InputError(f"{root}: has no {' or '.join(known.labels)}; {known.where}")
        return options._replace(labels=there[0])
    if (root / "train.pkl").is_file():
        test = "test.pkl" if (root / "test.pkl").is_file() else ""
        return options._replace(train_list="train.pkl", test_list=test)
    return options


def _with_groups(layout: Layout, options: Options, groups: str) -> Layout:
    """The same records with their groups, which a CSV lists by id or by file name."""
    if not groups and options.known and (options.root / options.known.groups).is_file():
        groups = options.known.groups
    if not groups:
        return layout
    path = options.table(groups)
    table = tables.read_groups(path)
    records = [record for listed in layout.parts.values() for record in listed]
    missing = f"{path}: no row for image {{}}, or not for it alone; add it or set data.groups=''"
    found = iter(layouts.look_up(table, records, missing))
    parts = {
        part: [record._replace(group=next(found)) for record in listed]
        for part, listed in layout.parts.items()
    }
    return layout._replace(parts=parts)


def _authors(layout: Layout, options: Options) -> dict[str, str]:
    """DiffMIC's part of each image: from the lists that are named, prepared, or lie about."""
    known: DataSet | None = options.known
    if options.train_list and options.test_list:
        return splits.authors_table(options.root, (options.train_list, options.test_list))
    if layout.authors:
        return dict(layout.authors)
    if not known or not known.lists:
        raise InputError(
            "data.protocol=authors: no lists are known for this data set; name them in "
            "data.train_list and data.test_list, or choose another protocol"
        )
    return splits.authors_table(options.root, known.lists)


def _check_parts(parts: Parts, validation_fraction: float) -> None:
    """Refuse a split that leaves a part empty."""
    for part in PARTS:
        if not parts[part] and (part != "validation" or validation_fraction):
            raise InputError(
                f"data.root: no image is left for the {part} part; add images, or change"
                " data.protocol, data.test_fraction or data.validation_fraction"
            )


def _frozen(parts: Parts) -> dict[str, tuple[Record, ...]]:
    """The parts of a source, with the clean part of a test split that leaks."""
    frozen = {part: tuple(parts[part]) for part in PARTS}
    leaking = set(splits.leaked(parts))
    if leaking and len(leaking) < len(parts["test"]):
        frozen[CLEAN] = tuple(record for record in parts["test"] if record not in leaking)
    return frozen
