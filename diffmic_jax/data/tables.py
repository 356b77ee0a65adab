"""Tables of images with their labels, groups or parts: CSV files and lists of names.

Nothing here reads an image. A row has its file and line number, for errors that are found later.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffmic_jax.errors import InputError
from diffmic_jax.method.task import SEPARATOR

IMAGE_COLUMNS = ("image", "image_id", "id_code", "image index")
LABEL_COLUMNS = ("label", "diagnosis", "dx", "finding labels")
GROUP_COLUMNS = ("group", "lesion_id", "patient_id", "patient id")
NO_LABEL = ("", "no finding")
PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}


class Row(NamedTuple):
    """One image in a table or list."""

    where: str
    """File and row number, for messages."""
    image: str
    label: str
    """A class name or an index; several of them, or none, in a multi-label table."""
    part: str = "train"
    group: str = ""


def read_labels(path: Path, multi_label: bool = False) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a CSV of labels, and its class columns if it has one for each class (else none).

    The header has an image column, then either a label column or one 0/1 column per class, and
    perhaps a `split` and a group column. With `multi_label` any number of classes applies to an
    image: a cell like 'Mass|Nodule', or several columns of 1.
    """
    header, lines = _read_csv(path, "labels")
    image, label = _column(header, IMAGE_COLUMNS), _column(header, LABEL_COLUMNS)
    part, group = _column(header, ("split",)), _column(header, GROUP_COLUMNS)
    classes = () if label else tuple(c for c in header if c not in (image, part, group))
    if multi_label:  # 'No Finding' means that no class applies
        classes = tuple(c for c in classes if c.casefold() not in NO_LABEL)
    if not image or not (label or len(classes) > 1):
        needed = f"a label column ({', '.join(LABEL_COLUMNS)}) or one 0/1 column per class"
        raise _unknown_columns(path, header, needed)
    rows = [
        Row(
            where,
            line[image],
            _label(line[label], where, multi_label)
            if label
            else _hot_columns(line, classes, where, multi_label),
            _part(line[part], where) if part else "train",
            line[group] if group else "",
        )
        for where, line in lines
    ]
    return rows, classes


def _label(cell: str, where: str, multi_label: bool) -> str:
    if not cell and not multi_label:
        raise InputError(f"{where}: no label; give one or remove the row")
    return cell


def _mapped(pairs: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """From (where, image, value) to a map, unless an image has two values."""
    found: dict[str, str] = {}
    for where, image, value in pairs:
        if found.setdefault(image, value) != value:
            raise InputError(
                f"{where}: {image!r} is {found[image]!r} in an earlier row; keep only one"
            )
    return found


def read_groups(path: Path) -> dict[str, str]:
    """A CSV's map from image to group (lesion, patient)."""
    header, lines = _read_csv(path, "groups")
    image, group = _column(header, IMAGE_COLUMNS), _column(header, GROUP_COLUMNS)
    if not image or not group:
        raise _unknown_columns(path, header, f"a group column ({', '.join(GROUP_COLUMNS)})")
    return _mapped(((where, line[image], line[group]) for where, line in lines))


def read_parts(path: Path) -> dict[str, str]:
    """A CSV's map from image to part (train, validation, test), as a run writes its split."""
    # A run writes it, with file names as the system gives them.
    header, lines = _read_csv(path, "split", "surrogateescape")
    image, part = _column(header, IMAGE_COLUMNS), _column(header, ("split",))
    if not image or not part:
        raise _unknown_columns(path, header, "a split column (train, validation, test)")
    pairs = ((where, line[image], _part(line[part], where)) for where, line in lines)
    return _mapped(pairs)


def read_names(path: Path, part: str) -> dict[str, str]:
    """The image names in a text file, one a line, all mapped to `part`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a readable list of images ({error}); download it again"
        ) from error
    return {line.strip(): part for line in lines if line.strip()}


def class_names_of(rows: Sequence[Row], multi_label: bool = False) -> tuple[str, ...]:
    """The classes where no names are given: 0, 1, ... for integer labels, else sorted names."""
    labels = {label for row in rows for label in _labels(row.label, multi_label)}
    if not all(map(_is_integer, labels)):
        return tuple(sorted(labels))
    indices = {int(label) for label in labels if int(label) >= 0}
    if indices != set(range(len(indices))):
        gaps = ",".join(map(str, sorted(indices)))
        raise InputError(
            f"config.data.class_names: not set, and labels {gaps} have gaps; name all classes"
        )
    return tuple(map(str, range(len(indices))))


def label_lookup(class_names: Sequence[str]) -> dict[str, int]:
    """From a cell to its label: class names in any case; also indices, if no name is a number."""
    lookup = {name.casefold(): index for index, name in enumerate(class_names)}
    if len(lookup) < len(class_names):
        raise InputError(
            f"config.data.class_names: {','.join(class_names)} has a name twice; rename one"
        )
    if not any(map(_is_integer, class_names)):
        lookup |= {str(index): index for index in range(len(class_names))}
    return lookup


def find_labels(
    cell: str, lookup: Mapping[str, int], where: str, num_classes: int
) -> tuple[int, ...]:
    """The multi-hot label [C] of a cell like 'Mass|Nodule'; errors as `find_label`."""
    found = {find_label(name, lookup, where) for name in _labels(cell, multi_label=True)}
    return tuple(int(index in found) for index in range(num_classes))


def _labels(cell: str, multi_label: bool) -> list[str]:
    if not multi_label:
        return [cell]
    names = [name.strip() for name in cell.split(SEPARATOR)]
    return [name for name in names if name.casefold() not in NO_LABEL]


def find_label(cell: str, lookup: Mapping[str, int], where: str) -> int:
    """The class index of a cell.

    Raises:
        InputError: it is neither a class nor an index of one; `where` is named.
    """
    if cell.casefold() in lookup:
        return lookup[cell.casefold()]
    if _is_integer(cell):
        problem = f"label {cell} is out of range 0..{max(lookup.values(), default=-1)}"
    else:
        problem = f"unknown class {cell!r}"
    raise InputError(f"{where}: {problem}; fix it or config.data.class_names")


def _is_integer(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()


def _read_csv(
    path: Path, field: str, errors: str = "strict"
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The header of a CSV, and its rows, each with its file and row number."""
    if not path.is_file():
        raise InputError(f"config.data.{field}: no file {path}; put it there or fix the field")
    try:
        with path.open(newline="", encoding="utf-8-sig", errors=errors) as file:
            return _parse_csv(csv.reader(file, strict=True), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}); save it as UTF-8 CSV") from error


def _parse_csv(
    reader: Iterator[list[str]], path: Path
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    header = [cell.strip() for cell in next(reader, [])]
    repeated = {name for name in header if name and _count(header, name) > 1}
    if repeated:
        raise InputError(f"{path}: has column {min(repeated)} twice; rename one")
    lines = []
    for number, cells in enumerate(reader, start=2):
        where = f"{path} row {number}"
        if cells and len(cells) != len(header):
            raise InputError(
                f"{where}: {len(cells)} cells under {len(header)} columns; fix the row"
            )
        if cells:
            lines.append((where, dict(zip(header, (c.strip() for c in cells), strict=True))))
    if not lines:
        raise InputError(f"{path}: no rows; it needs a header and a row for each image")
    return header, lines


def _count(header: Sequence[str], name: str) -> int:
    return sum(other.casefold() == name.casefold() for other in header)


def _column(header: Iterable[str], accepted: Sequence[str]) -> str:
    """The first accepted column that the header has, in any case; '' if none."""
    actual = {name.casefold(): name for name in header}
    return next((actual[name] for name in accepted if name in actual), "")


def _unknown_columns(path: Path, header: Sequence[str], needed: str) -> InputError:
    return InputError(
        f"{path}: columns {','.join(header)} are unknown; it needs an image column"
        f" ({', '.join(IMAGE_COLUMNS)}) and {needed}"
    )


def _hot_columns(
    line: Mapping[str, str], classes: Sequence[str], where: str, multi_label: bool
) -> str:
    """The class whose column holds 1 while all others hold 0, or any number of such classes."""
    try:
        values = [float(line[name]) for name in classes]
    except ValueError:
        values = [-1.0]
    if not set(values) <= {0.0, 1.0} or not (multi_label or sum(values) == 1):
        wanted = "each" if multi_label else "one"
        others = "0 or 1" if multi_label else "1, the others 0"
        raise InputError(f"{where}: {wanted} of {','.join(classes)} must be {others}; fix the row")
    if multi_label and any(SEPARATOR in name for name in classes):
        raise InputError(f"{where}: a class name holds {SEPARATOR!r}; rename its column")
    return SEPARATOR.join(name for name, value in zip(classes, values, strict=True) if value)


def _part(cell: str, where: str) -> str:
    if cell.casefold() not in PART_NAMES:
        raise InputError(f"{where}: split {cell!r} is not one of {', '.join(PART_NAMES)}")
    return PART_NAMES[cell.casefold()]
