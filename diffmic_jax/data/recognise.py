"""From what a user names, a folder, a table or a data set, to the fields of `data`."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

from diffmic_jax.data import tables
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.named import close_paths
from diffmic_jax.errors import InputError
from diffmic_jax.fields import did_you_mean

log = logging.getLogger("diffmic_jax")

COMMON = ("train.csv", "labels.csv", "test.csv")
"""Tables that any data set may have, by which none is recognised."""


def data_fields(data: str | Path) -> dict[str, Any]:
    """The fields of a configuration that name a data set.

    A folder is a published data set if it holds that one's table of labels; with a table of images
    and labels of its own, that one counts; else its folders are the classes.

    Args:
      data: a folder, a CSV, an NPZ of MedMNIST, or the name of a data set.

    Raises:
      InputError: there is no such thing, or several tables that could be meant.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _of_npz(path)
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
    path = Path(data).expanduser().absolute()
    return path.parent.name if path.is_file() else path.name


def _of_folder(folder: Path) -> dict[str, Any]:
    for known in CATALOG.values():
        named = [name for name in known.labels if (folder / name).is_file() and name not in COMMON]
        if named:
            log.info("%s is %s, by its %s", folder, known.name, named[0])
            return {"data.name": known.name, "data.root": str(folder)}
    archives = sorted(folder.glob("*.npz"))
    if len(archives) == 1:
        return _of_npz(archives[0])
    found = [path for path in sorted(folder.glob("*.csv")) if _has_labels(path)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"{folder} has several tables of images and labels ({names}); name the right one, as "
            f"{folder / found[-1].name}"
        )
    if found:
        log.info("%s has the labels", found[0])
        return _of_table(found[0])
    return {"data.name": "images", "data.root": str(folder)}


def _of_table(path: Path) -> dict[str, Any]:
    return {"data.name": "images", "data.root": str(path.parent), "data.labels": path.name}


def _of_npz(path: Path) -> dict[str, Any]:
    """A MedMNIST file by the name of its data set, without the size that follows it."""
    name = path.stem.split("_")[0]
    if name in MEDMNIST:
        return {"data.name": name, "data.root": str(path.parent)}
    return {"data.name": "images", "data.root": str(path)}


def _has_labels(path: Path) -> bool:
    """Whether a CSV is a table of images and their labels."""
    try:
        return bool(tables.read_labels(path).rows)
    except InputError:
        return False
