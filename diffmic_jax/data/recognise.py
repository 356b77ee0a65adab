"""From what a user names, a folder, a table or a data set, to the fields of `data`."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.data import columns, csvfile, folders, images, tables
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.csvfile import normal
from diffmic_jax.data.named import close_paths
from diffmic_jax.errors import InputError, Problems
from diffmic_jax.fields import did_you_mean

log = logging.getLogger("diffmic_jax")

TABLES, SHEETS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")
"""Endings."""
COMMON = ("train.csv", "labels.csv", "test.csv")
"""Tables that any data set may have, by which none is recognised."""


def data_fields(data: str | Path) -> dict[str, Any]:
    """The fields of a configuration that name a data set.

    A folder is a published data set if it holds that one's table of labels; with a table of images
    and labels of its own, that one counts; else its folders are the classes, or if it has fewer
    than two, a file of MedMNIST is taken, or a table for that of the labels. A table of images and
    groups beside any of these is taken too.

    Args:
      data: a folder, a CSV, an NPZ of MedMNIST, or the name of a data set.

    Raises:
      InputError: there is no such thing, or several tables that could be meant.
    """
    if not str(data).strip():
        raise InputError("no data is named; name a folder, a CSV or a data set")
    path = Path(data).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _of_npz(path)
    if path.is_file() and images.is_image(path, path.parent):
        raise InputError(f"{path}: is an image; name the folder of the class folders, or a CSV")
    if path.is_file():
        return _of_table(path)
    known = ["phantom", *CATALOG, *MEDMNIST]
    if data in known:
        return {"data.name": str(data)}
    raise InputError(
        f"{data}: no such folder or CSV, and not one of the data sets "
        f"{', '.join(['phantom', *CATALOG])}"
        f"{did_you_mean(close_paths(path) or difflib.get_close_matches(str(data), known, 1))}"
    )


def name_of(data: str | Path) -> str:
    """What to call a data set: as its folder, also where a table in it is named."""
    path = Path(os.path.normpath(Path(data).expanduser().absolute()))
    return (path.parent if path.is_file() else path).name or "data"


def _of_folder(folder: Path) -> dict[str, Any]:
    for known in CATALOG.values():
        named = [name for name in known.labels if (folder / name).is_file() and name not in COMMON]
        if named:
            log.info("%s is %s, by its %s", folder, known.name, named[0])
            return {"data.name": known.name, "data.root": str(folder)}
    if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: is the workdir of a run; name the folder of its images")
    classes = folders.folders_in(folder)
    csvs = {path: _read(path) for path in _files(folder, *TABLES)}
    found = [path for path, table in csvs.items() if table and columns.has_labels(table)]
    groups = [path for path, table in csvs.items() if table and table.column(columns.GROUP_COLUMNS)]
    if not found and len(classes) < 2:
        if len(archives := sorted(folder.glob("*.npz"))) == 1:
            return _of_npz(archives[0])
        found = [path for path in csvs if path not in groups][:1]  # its error is the one to tell
    if not found and (sheets := _files(folder, *SHEETS)) and len(classes) < 2:
        raise InputError(
            f"{sheets[0]}: is a spreadsheet; save its sheet of images and labels as CSV"
        )
    fields = {"data.name": "images", "data.root": str(folder)}
    if labels := _fullest(found):
        fields = _of_table(labels)
        log.info("%s has the labels", labels)
        if len(classes) > 1 and not _same_classes(labels, classes):
            names = ", ".join(each.name for each in classes[:3]) + ", ..." * (len(classes) > 3)
            log.warning(
                "the folders %s are not taken as classes, since %s has labels; if they are the "
                "classes, move the table away",
                *(names, labels),
            )
    if labels in groups or not groups:
        return fields
    if len(groups) > 1:
        names = ", ".join(path.name for path in groups)
        log.warning("several tables have groups (%s), none is used; name one in --groups", names)
        return fields
    log.info("%s has the groups (lesions, patients)", groups[0])
    return fields | {"data.groups": groups[0].name}


def _same_classes(table: Path, folders: Sequence[Path]) -> bool:
    """Whether the labels of a table are the names of the folders: then nothing is replaced."""
    with contextlib.suppress(InputError):  # its error is told when it is opened
        told = tables.labels_of(tables.read_labels(table).rows)
        return {normal(label).casefold() for label in told} == {
            normal(folder.name).casefold() for folder in folders
        }
    return False


def _fullest(found: Sequence[Path]) -> Path | None:
    """Of tables with the same labels the one that tells more than the others; None if there is no
    table.

    Raises:
      InputError: they differ, or none tells more.
    """
    if len(found) < 2:
        return found[0] if found else None
    with contextlib.suppress(InputError):  # a table that is not whole is like no other
        rows = {path: tables.read_labels(path).rows for path in found}
        told = {path: len({(r.part, r.group) for r in rows[path]}) for path in found}
        first, second = sorted(found, key=told.__getitem__, reverse=True)[:2]
        same = {frozenset((row.image, row.label) for row in each) for each in rows.values()}
        if len(same) == 1 and told[first] > told[second]:
            return first
    names = ", ".join(path.name for path in found)
    raise InputError(
        f"{found[0].parent} has several tables of images and labels ({names}); name the right one, "
        f"as {found[-1]}"
    )


def _of_table(path: Path) -> dict[str, Any]:
    return {"data.name": "images", "data.root": str(path.parent), "data.labels": path.name}


def _of_npz(path: Path) -> dict[str, Any]:
    """A MedMNIST file by the name of its data set, without the size that follows it."""
    name = path.stem.split("_")[0]
    if name in MEDMNIST:
        return {"data.name": name, "data.root": str(path.parent)}
    return {"data.name": "images", "data.root": str(path)}


def _files(folder: Path, *endings: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)


def _read(path: Path) -> csvfile.Table | None:
    """A table that has a column of images."""
    known = (*columns.IMAGE_COLUMNS, *columns.LABEL_COLUMNS, *columns.GROUP_COLUMNS)
    try:
        table = csvfile.read(path, "labels", known, Problems())
    except InputError:
        return None
    return table if table.column(columns.IMAGE_COLUMNS) else None
