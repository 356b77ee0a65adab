"""DiffMIC's split lists: pickles of `{'img_root': path, 'label': int}`, one for each part."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from diffmic_jax.data.finder import is_file
from diffmic_jax.data.options import Options
from diffmic_jax.data.tables import Row
from diffmic_jax.errors import InputError
from diffmic_jax.unpickle import BYTES, MOST_BYTES, Unpickler

PARTS = ("train", "test")


def named_lists(options: Options) -> tuple[Path, ...]:
    """The files that `data.lists` names.

    It is `TRAIN,TEST`, or `TRAIN` alone, or a folder with the lists that the catalog knows for the
    data set. Files and folder are looked for as tables are.

    Returns:
      No file, the training list, or the training and the test list; they need not exist.

    Raises:
      InputError: the field has another form, or a folder is named and the catalog knows no lists.
    """
    lists, known = options.data.lists, options.known
    if not lists:
        return ()
    folder = next((each for each in (options.root / lists, Path(lists)) if each.is_dir()), None)
    if folder:
        if not known or not known.lists:
            raise InputError(
                f"config.data.lists={lists!r} is a folder, but no lists are known for "
                f"{options.data.name}; give the files, TRAIN,TEST"
            )
        return tuple(folder / name for name in known.lists)
    names = lists.split(",")
    if not all(names) or len(names) > len(PARTS):
        raise InputError(f"config.data.lists={lists!r} must be TRAIN,TEST; name two pickled lists")
    return tuple(map(options.table, names))


def authors_parts(options: Options, prepared: Mapping[str, str]) -> dict[str, str]:
    """DiffMIC's part of each image: from the named lists, or prepared ones, or known ones.

    Args:
      options: name the lists.
      prepared: the parts that `prepare` stored with the images; may be empty.

    Returns:
      The part of each image, by id or file stem.

    Raises:
      InputError: only one list is named; or none is named, and none is known or found; or a list
        is damaged.
    """
    named = named_lists(options)
    if len(named) == 1:
        raise InputError(
            f"config.data.lists={options.data.lists!r} is one list, but "
            "config.data.protocol=authors needs both; give TRAIN,TEST"
        )
    if named:
        return _parts(*named)
    if prepared:
        return dict(prepared)
    if not options.known or not options.known.lists:
        raise InputError(
            "config.data.protocol=authors: no lists are known for this data set; name them in "
            "config.data.lists, or choose another protocol"
        )
    return known_parts(options.root, options.known.lists)


def known_parts(root: Path, names: tuple[str, str]) -> dict[str, str]:
    """DiffMIC's part of each image, by file stem, from two lists of known names.

    They are looked for in `root`, in the folder around it, and in a folder `diffmic_splits` there.

    Raises:
      InputError: they are in none of these, or damaged.
    """
    for folder in (root, root.parent, root.parent / "diffmic_splits"):
        train, test = (folder / name for name in names)
        if train.is_file() and test.is_file():
            return _parts(train, test)
    raise InputError(
        f"config.data.protocol=authors needs DiffMIC's split lists {' and '.join(names)}; put them "
        f"into {root}, or name them in config.data.lists"
    )


def _parts(train: Path, test: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for row in read_list(train, "train") + read_list(test, "test"):
        name = Path(row.image).stem
        if parts.setdefault(name, row.part) != row.part:
            raise InputError(f"{row.where}: {name!r} is in both lists; download them again")
    return parts


def read_lists(options: Options) -> list[Row]:
    """The entries of the named lists, with images as they are named under the root.

    Raises:
      InputError: as `named_lists` and `read_list` do.
    """
    paths = named_lists(options)
    rows = [
        row
        for path, part in zip(paths, PARTS[: len(paths)], strict=True)
        for row in read_list(path, part)
    ]
    return [_without_foreign_folders(row, options.root) for row in rows]


def _without_foreign_folders(row: Row, root: Path) -> Row:
    """A list holds the paths of its author's machine; only their file names mean anything here."""
    inside = is_file(root / row.image) and (root / row.image).resolve().is_relative_to(
        root.resolve()
    )
    return row if inside else row._replace(image=Path(row.image).name)


def read_list(path: Path, part: str) -> list[Row]:
    """The entries of a list, all in `part`.

    Raises:
      InputError: the file is missing, damaged or holds something else.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size > MOST_BYTES:
                raise InputError("is too large for a list; write a CSV for config.data.labels")
            entries = _SplitListUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(
            f"config.data.lists: no file {path}; put it there or fix the field"
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"{path}: not a readable pickle; write it again") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: must hold a list of {{'img_root': path, 'label': int}}")
    return [_row(entry, f"{path} entry {i}", part) for i, entry in enumerate(entries)]


class _Type:
    """Stands for a NumPy type in a pickle, of which only the kind and byte order are read."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _number(kind: _Type, content: bytes) -> int:
    """A NumPy integer of a pickle, as Python's."""
    if not re.fullmatch(r"[iu][1248]", kind.code) or not isinstance(content, bytes):
        raise InputError("holds NumPy values that are no whole numbers; write it again")
    order: Literal["big", "little"] = "big" if kind.order == ">" else "little"
    return int.from_bytes(content, order, signed=kind.code[0] == "i")


_MOST_LABEL = 10**18
_NUMPY: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}
"""What builds a NumPy integer, and what stands for it here, so that nothing of a pickle is run."""


class _SplitListUnpickler(Unpickler):
    """Builds lists, dictionaries, strings and numbers; refuses all that could run code."""

    known = MappingProxyType({**BYTES, **_NUMPY})

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function."""
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"asks for {error}, but a split list holds only lists and dictionaries;"
                " do not trust this file, write it again"
            ) from None


def _row(entry: Any, where: str, part: str) -> Row:
    match entry:
        case {"img_root": str(image), "label": int(label)} if abs(label) < _MOST_LABEL:
            return Row(where, image, str(label), part)
    raise InputError(f"{where}: must be {{'img_root': path, 'label': int}}")
