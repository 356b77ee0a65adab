"""From what a user names, a folder, a table or a data set, to the fields of `data`."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.data import columns, csvfile, folders, scan, tables
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.csvfile import normal
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.named import close_paths
from diffmic_jax.errors import InputError, Problems
from diffmic_jax.fields import did_you_mean

log = logging.getLogger("diffmic_jax")

TABLES, SHEETS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")
"""Endings."""
_FORM = re.compile(r"sample[ _-]?submission", re.IGNORECASE)
"""A table to be filled in, as competitions give it: its labels are none."""
MOST_TABLES = 20
"""Below a folder; more are no tables of labels."""
COMMON = ("train.csv", "labels.csv", "test.csv")
"""Tables that any data set may have, by which none is recognised."""


def data_fields(data: str | Path) -> dict[str, Any]:
    """The fields of a configuration that name a data set.

    A folder is a published data set if it holds that one's table of labels; with a table of images
    and labels of its own, that one counts; else its folders are the classes, or if it has fewer
    than two, a file of MedMNIST is taken, or a table for that of the labels, or tables further
    below. Several tables are taken where each is of another part. A table of images and groups
    beside any of these is taken too. A folder that holds another alone stands for that one.

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
    if path.is_file() and scan.is_image(path, path.parent):
        raise InputError(f"{path}: is an image; name the folder of the class folders, or a CSV")
    if path.is_file():
        return _of_table(path)
    known = ["phantom", *CATALOG, *MEDMNIST]
    if str(data) in known:
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
    folder = _unwrapped(folder)
    for known in CATALOG.values():
        named = [name for name in known.labels if (folder / name).is_file() and name not in COMMON]
        if named:
            log.info("%s is %s, by its %s", folder, known.name, named[0])
            return {"data.name": known.name, "data.root": str(folder)}
    if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: is the workdir of a run; name the folder of its images")
    classes = folders.classes_in(folder)
    csvs = _tables(folder, classes)
    found = [path for path, table in csvs.items() if _has_labels(table)]
    if len(classes) > 1:  # that a table by ids should not replace: it may be of patients
        found = [path for path in found if (table := csvs[path]) and _names_images(table)]
        if not found:
            _check_classes(classes, csvs)
    groups = [path for path, table in csvs.items() if _has_groups(table)]
    if not found and not groups and len(classes) == 1 and csvs:
        inner = _unwrapped(classes[0])
        below = folders.classes_in(inner)
        if len(below) > 1 and not (columns.part_of(classes[0].name) or _in_a_column(below, csvs)):
            log.info("no table in %s has labels, and the class folders are in %s", folder, inner)
            return _of_folder(inner)
    if not found and len(classes) < 2:
        if len(archives := sorted(folder.glob("*.npz"))) == 1:
            return _of_npz(archives[0])
        found = [path for path in csvs if path not in groups][:1]  # its error is the one to tell
    if not found and (sheets := _files(folder, *SHEETS)) and len(classes) < 2:
        raise InputError(
            f"{sheets[0]}: is a spreadsheet; save its sheet of images and labels as CSV"
        )
    fields = {"data.name": "images", "data.root": str(folder)}
    if labels := _of_labels(found, folder):
        fields["data.labels"] = ",".join(_below(folder, path) for path in labels)
        for path in labels:
            log.info("%s has the labels%s", path, " of its part" if len(labels) > 1 else "")
        if len(classes) > 1 and not _same_classes(labels[0], classes):
            names = ", ".join(each.name for each in classes[:3]) + ", ..." * (len(classes) > 3)
            log.warning(
                "the folders %s are not taken as classes, since %s has labels; if they are the "
                "classes, move the table away",
                *(names, labels[0]),
            )
    if not groups or set(labels) & set(groups):
        return fields
    if len(groups) > 1:
        names = ", ".join(_below(folder, path) for path in groups)
        log.warning("several tables have groups (%s), none is used; name one in --groups", names)
        return fields
    log.info("%s has the groups (lesions, patients)", groups[0])
    return fields | {"data.groups": _below(folder, groups[0])}


def _unwrapped(folder: Path) -> Path:
    """The folder, or the one that holds all of it, as archives have it, with a line that says so.

    That of a part is none, nor is one with images alone, which may be a class.
    """
    inner = folder
    while len(content := _content(inner)) == 1 and content[0].is_dir():
        if columns.part_of(content[0].name) or not any(map(_leads_on, _content(content[0]))):
            break
        inner = content[0]
    if inner != folder:
        log.info("all of %s is in %s", folder, inner)
    return inner


def part_alone(data: str | Path) -> str | Path:
    """The folder of a part that is all there is in a folder, as a test set may come."""
    path = Path(data).expanduser()
    content = _content(path) if path.is_dir() else []
    alone = len(content) == 1 and content[0].is_dir() and columns.part_of(content[0].name)
    return content[0] if alone else data


def _content(folder: Path) -> list[Path]:
    """What is of use in a folder: no text about the data, nothing hidden."""
    there = [path for path in sorted(folder.iterdir()) if not scan.is_hidden(path.name)]
    return [path for path in there if _leads_on(path) or scan.is_image(path, folder)]


def _leads_on(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in (*TABLES, *SHEETS, ".npz", ".pkl")


def _tables(folder: Path, classes: Sequence[Path]) -> dict[Path, csvfile.Table | None]:
    """The tables in a folder, or where they have no labels and no folder is a class those below."""
    csvs = {path: _read(path) for path in _files(folder, *TABLES) if not _FORM.match(path.name)}
    if not any(map(_has_labels, csvs.values())) and len(classes) < 2:
        csvs |= {path: _read(path) for path in _tables_below(folder)}
    return csvs


def _check_classes(classes: Sequence[Path], csvs: Mapping[Path, csvfile.Table | None]) -> None:
    """Refuse class folders that a table of patients names as such, with labels of its own."""
    named = {normal(folder.name).casefold() for folder in classes}
    for path, table in csvs.items():
        if table and table.column(columns.LABEL_COLUMNS):
            column = table.column((*columns.GROUP_COLUMNS, "id"))
            if column and named <= {line[column].casefold() for _, line in table.lines}:
                raise InputError(
                    f"{path}: has labels of the folders {classes[0].name}, {classes[1].name}, ... "
                    f"in {column}, so these are no classes; give each image a row, with a column "
                    "image, or move the table away"
                )


def _in_a_column(folders: Sequence[Path], csvs: Mapping[Path, csvfile.Table | None]) -> bool:
    """Whether a column of a table names all of the folders, which may be patients then."""
    named = {normal(folder.name).casefold() for folder in folders}
    return any(
        named <= {line[column].casefold() for _, line in table.lines}
        for table in filter(None, csvs.values())
        for column in table.header
    )


def _tables_below(folder: Path) -> list[Path]:
    """The tables in folders of the folder; none where they are too many to be of labels."""
    hidden = scan.is_hidden
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in TABLES and not any(map(hidden, path.relative_to(folder).parts))
    ]
    return found if len(found) <= MOST_TABLES else []


def _has_groups(table: csvfile.Table | None) -> bool:
    return bool(
        table and table.column(columns.IMAGE_COLUMNS) and table.column(columns.GROUP_COLUMNS)
    )


def _has_labels(table: csvfile.Table | None) -> bool:
    return bool(table and columns.has_labels(table))


def _names_images(table: csvfile.Table) -> bool:
    return csvfile.plain(table.column(columns.IMAGE_COLUMNS)) not in ("", "id")


def _below(folder: Path, path: Path) -> str:
    """The path below the folder, as a field names it."""
    return path.relative_to(folder).as_posix()


def _same_classes(table: Path, folders: Sequence[Path]) -> bool:
    """Whether the labels of a table are the names of the folders: then nothing is replaced."""
    with contextlib.suppress(InputError):  # its error is told when it is opened
        told = tables.labels_of(tables.read_labels(table).rows)
        return {normal(label).casefold() for label in told} == {
            normal(folder.name).casefold() for folder in folders
        }
    return False


def _of_labels(found: Sequence[Path], folder: Path) -> list[Path]:
    """The tables to take: one for each part, or of those with the same labels the fullest.

    Raises:
      InputError: they differ, or none tells more.
    """
    if len(found) < 2:
        return [*found]
    parts = [columns.part_of_table(path.relative_to(folder)) for path in found]
    if "train" in parts and all(parts) and len({*parts}) == len(parts):
        return [
            path for part in PARTS for own, path in zip(parts, found, strict=True) if own == part
        ]
    with contextlib.suppress(InputError):  # a table that is not whole is like no other
        rows = {path: tables.read_labels(path).rows for path in found}
        told = {path: len({(r.part, r.group) for r in rows[path]}) for path in found}
        first, second = sorted(found, key=told.__getitem__, reverse=True)[:2]
        same = {frozenset((row.image, row.label) for row in each) for each in rows.values()}
        if len(same) == 1 and told[first] > told[second]:
            return [first]
    names = ", ".join(_below(folder, path) for path in found)
    fix = f"name the right one, as {found[-1]}"
    if any(path.parent != folder for path in found):
        fix = f"put the right one into {folder}, alone"
    raise InputError(f"{folder} has several tables of images and labels ({names}); {fix}")


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
    """A table; None if it cannot be read."""
    known = (*columns.IMAGE_COLUMNS, *columns.LABEL_COLUMNS, *columns.GROUP_COLUMNS)
    with contextlib.suppress(InputError):
        return csvfile.read(path, "labels", known, Problems())
    return None
