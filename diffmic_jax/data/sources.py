"""Where images and labels come from: every supported layout becomes one `Source`.

Opening a source reads its tables and checks that each image is there; pixels are decoded later, one
image at a time. The layout follows from what is named:

- `train_list`, `test_list`: pickled split lists;
- `labels`: a CSV of images and labels;
- neither: a folder per class, in `root` or in each of `root/train`, `root/test`, `root/val`;
- the name 'phantom': the embedded phantom, which needs no files.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffmic_jax.data import splits, tables
from diffmic_jax.types import InputError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
PARTS = ("train", "validation", "test")
PROTOCOLS = ("given", "random", "grouped")


class Record(NamedTuple):
    """One image, not yet read."""

    id: str
    label: int
    path: str
    """A file, or the phantom's index."""
    group: str = ""
    """The lesion or patient it shows; '' if unknown."""


@dataclass(frozen=True)
class Source:
    """Labelled images in three disjoint parts."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[Record, ...]]
    """Keys 'train', 'validation' (may be empty) and 'test'."""
    read: Callable[[Record], np.ndarray]
    """Decodes a record to [H, W, 3] uint8."""


Parts = dict[str, list[Record]]
"""Records by part; without a given split all are in 'train'."""


def open_source(
    name: str,
    root: str | os.PathLike[str] = "",
    *,
    labels: str = "",
    train_list: str = "",
    test_list: str = "",
    groups: str = "",
    class_names: Sequence[str] = (),
    protocol: str = "given",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Source:
    """Open a data set, check it and settle its split.

    Args:
        name: 'phantom', or what to call the data set under `root`.
        root: the folder of the images. The files below are relative to it, or absolute.
        labels: a CSV of images and labels.
        train_list: a pickled split list; wins over `labels`.
        test_list: its test half.
        groups: a CSV that says which lesion or patient each image shows.
        class_names: the classes in label order. Without it: a one-hot table's columns in their
            order, 0, 1, ... for integer labels, else the sorted names.
        protocol: 'given' keeps the parts that the data set comes with; 'random' and 'grouped' pool
            all images and cut a test part anew, by class, or by class with groups kept whole. A
            data set that is given no test part has one cut, with groups whole where known.
        validation_fraction: of the training part, cut off for validation unless that is given;
            groups stay whole where they are known. 0 for none.
        test_fraction: of all images, where a test part has to be cut.
        seed: of the cuts, and of the phantom.

    Raises:
        InputError: naming the field, the file or the row at fault.
    """
    _check_options(protocol, validation_fraction, test_fraction, seed)
    read: Callable[[Record], np.ndarray] = read_record
    if name == "phantom":
        names, parts = _open_phantom(seed)
        read = functools.partial(_read_phantom, seed)
    else:
        folder = _existing_root(name, root, train_list or labels)
        if train_list or test_list:
            names, parts = _open_lists(folder, train_list, test_list, class_names)
        elif labels:
            names, parts = _open_table(folder, labels, class_names)
        else:
            names, parts = _open_folders(folder, class_names)
        if groups:
            parts = _with_groups(parts, folder / groups)
    rng = np.random.default_rng(seed)
    parts = _cut_test(parts, protocol, test_fraction, rng)
    parts = _cut_validation(parts, validation_fraction, rng)
    return Source(name, names, {part: tuple(parts[part]) for part in PARTS}, read)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode an image file to [H, W, 3] uint8; gray becomes three equal channels, alpha is dropped.

    Raises:
        InputError: the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            # Converting 16-bit or float pixels would clip them without a word.
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{path}: more than 8 bits a pixel; convert it to 8 bits")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise InputError(f"{path}: cannot be read ({reason}); replace or remove it") from error


def read_record(record: Record) -> np.ndarray:
    """`read_image` of the record's file."""
    return read_image(record.path)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files in a folder and its sub-folders, sorted; hidden ones are left out.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name a folder of images")
    images = sorted(path for path in root.rglob("*") if _is_image(path))
    if not images:
        raise InputError(f"{root}: no images in this folder; add some or remove it")
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _check_options(
    protocol: str, validation_fraction: float, test_fraction: float, seed: int
) -> None:
    if protocol not in PROTOCOLS:
        raise InputError(f"data.protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"data.validation_fraction: {validation_fraction} is not in [0, 1)")
    if not 0 < test_fraction < 1:
        raise InputError(f"data.test_fraction: {test_fraction} is not in (0, 1)")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed} is not in 0..2^32-1")


def _existing_root(name: str, root: str | os.PathLike[str], table: str) -> Path:
    if not str(root) or not Path(root).is_dir():
        what = f"its images and {table}" if table else "a folder of images for each class"
        raise InputError(
            f"data.root: no folder {str(root)!r} for {name}; put {what} there, or run on the"
            " embedded stand-in with --config.data.name=phantom"
        )
    return Path(root)


# Layouts: each gives the class names and the records by part.


def _open_phantom(seed: int) -> tuple[tuple[str, ...], Parts]:
    from diffmic_jax.data import phantom

    parts: Parts = {part: [] for part in PARTS}
    for index, grade, part in phantom.records(seed):
        parts[part].append(Record(f"phantom_{index:04d}", grade, str(index)))
    return phantom.GRADES, parts


def _read_phantom(seed: int, record: Record) -> np.ndarray:
    from diffmic_jax.data import phantom

    return np.repeat(phantom.generate(seed, int(record.path))[..., None], 3, axis=-1)


def _open_lists(
    root: Path, train_list: str, test_list: str, class_names: Sequence[str]
) -> tuple[tuple[str, ...], Parts]:
    """Pickled split lists, whose labels are always indices."""
    if not train_list:
        raise InputError("data.train_list: not set although data.test_list is; set both")
    rows = tables.read_list(root / train_list, "train")
    rows += tables.read_list(root / test_list, "test") if test_list else []
    rows = [_without_foreign_folders(row, root) for row in rows]
    names = tuple(class_names) or tables.class_names_of(rows)
    return names, _find_images(rows, root, {str(i): i for i in range(len(names))})


def _open_table(
    root: Path, labels: str, class_names: Sequence[str]
) -> tuple[tuple[str, ...], Parts]:
    """A CSV of labels beside the images."""
    rows, columns = tables.read_labels(root / labels)
    names = tuple(class_names) or columns or tables.class_names_of(rows)
    return names, _find_images(rows, root, tables.label_lookup(names))


def _open_folders(root: Path, class_names: Sequence[str]) -> tuple[tuple[str, ...], Parts]:
    """A folder per class, in `root` itself or in each of its parts."""
    given = {f: root / f for f in tables.PART_NAMES if (root / f).is_dir()}
    folders = {
        folder: tables.PART_NAMES[part]
        for part, base in (given if "train" in given else {"train": root}).items()
        for folder in sorted(base.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    names = tuple(class_names) or tuple(sorted({folder.name for folder in folders}))
    if len(names) < 2:
        raise InputError(
            f"data.root: fewer than two class folders in {root}; give each class a folder of"
            " images, or name a CSV in data.labels"
        )
    lookup = tables.label_lookup(names)
    parts: Parts = {part: [] for part in PARTS}
    for folder, part in folders.items():
        label = tables.find_label(folder.name, lookup, str(folder))
        for path in list_images(folder):
            parts[part].append(Record(path.relative_to(root).as_posix(), label, str(path)))
    return names, parts


def _without_foreign_folders(row: tables.Row, root: Path) -> tables.Row:
    """A list holds the paths of its author's machine; only their file names mean anything here."""
    return row if (root / row.image).is_file() else row._replace(image=Path(row.image).name)


def _find_images(rows: Iterable[tables.Row], root: Path, lookup: Mapping[str, int]) -> Parts:
    """Records by part, after checking that each row's image exists and comes only once."""
    by_name = _files_by_name(root)
    parts: Parts = {part: [] for part in PARTS}
    seen: dict[Path, str] = {}
    for row in rows:
        label = tables.find_label(row.label, lookup, row.where)
        path = root / row.image if (root / row.image).is_file() else by_name.get(row.image)
        if path is None:
            raise InputError(
                f"{row.where}: no image {row.image!r} in {root}; add it or remove the row"
            )
        if path in seen:
            raise InputError(f"{row.where}: {row.image!r} is also in {seen[path]}; keep only one")
        seen[path] = row.where
        parts[row.part].append(Record(row.image, label, str(path), row.group))
    return parts


def _files_by_name(root: Path) -> dict[str, Path]:
    """Images where data sets usually keep them, by file name with and without its extension."""
    folders = [f for f in (root, root / "images", root / "train_images") if f.is_dir()]
    images = [path for folder in folders for path in sorted(folder.iterdir()) if _is_image(path)]
    return {path.stem: path for path in images} | {path.name: path for path in images}


def _with_groups(parts: Parts, path: Path) -> Parts:
    """The same records with their groups, which the CSV lists by id or by file name."""
    table = tables.read_groups(path)

    def group_of(record: Record) -> str:
        for key in (record.id, Path(record.path).name, Path(record.path).stem):
            if key in table:
                return table[key]
        raise InputError(f"{path}: no row for image {record.id}; add it or set data.groups=''")

    return {part: [r._replace(group=group_of(r)) for r in listed] for part, listed in parts.items()}


# The split.


def _cut_test(parts: Parts, protocol: str, fraction: float, rng: np.random.Generator) -> Parts:
    """The test part: the given one, or cut out of training, or cut anew out of all images."""
    if protocol == "given":
        if parts["test"]:
            return parts
        by_group = any(record.group for record in parts["train"])
        train, test = _cut(parts["train"], fraction, rng, by_group=by_group)
        return parts | {"train": train, "test": test}
    pool = [record for part in PARTS for record in parts[part]]
    by_group = protocol == "grouped"
    if by_group and not any(record.group for record in pool):
        raise InputError("data.groups: data.protocol=grouped needs the groups; name their CSV")
    train, test = _cut(pool, fraction, rng, by_group=by_group)
    return {"train": train, "validation": [], "test": test}


def _cut_validation(parts: Parts, fraction: float, rng: np.random.Generator) -> Parts:
    """Cut validation off training unless it is given, and check that no part is left empty."""
    if fraction and not parts["validation"]:
        by_group = any(record.group for record in parts["train"])
        train, validation = _cut(parts["train"], fraction, rng, by_group=by_group)
        parts = parts | {"train": train, "validation": validation}
    for part in PARTS:
        if not parts[part] and (part != "validation" or fraction):
            raise InputError(
                f"data.root: no image is left for the {part} part; add images, or change"
                " data.protocol, data.test_fraction or data.validation_fraction"
            )
    return parts


def _cut(
    records: list[Record], fraction: float, rng: np.random.Generator, by_group: bool = False
) -> tuple[list[Record], list[Record]]:
    """What stays, and what is cut off; a record of unknown group is a group of its own."""
    labels = [record.label for record in records]
    if by_group:
        mask = splits.grouped([r.group or r.id for r in records], labels, fraction, rng)
    else:
        mask = splits.stratified(labels, fraction, rng)
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, off in zip(records, mask, strict=True):
        sides[int(off)].append(record)
    return sides
