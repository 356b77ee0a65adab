"""What the cells of a table, or the names of folders, say about the class of an image.

The rules, each of which is told in the log where it changes something:

- Labels that are whole numbers are the same in every writing: 1, 01 and 1.0.
- Classes that are numbers are ordered as numbers, others by their letters and the numbers in them.
- Where classes have names, numbers count them from 0; or from 1, if 0 does not occur and the
  largest number does.
- `MISSING` cells are no labels.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from diffmic_jax.data.csvfile import normal
from diffmic_jax.data.options import numbers_of
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import DOUBT, SEPARATOR, UNKNOWN

log = logging.getLogger("diffmic_jax")

MISSING = frozenset(
    (
        *("", "nan", "n/a", "na", "n.a.", "n.a", "#n/a", "<na>", "none", "null", "nil", "nat"),
        *("?", "??", "-", "--", ".", "missing", "unknown", "unk", "undefined", "not available"),
        *("unlabeled", "unlabelled", "not labeled", "not labelled", "tbd"),
    )
)
"""Cells that say that the label is not known, in lower case."""
NO_FINDING = "no finding"
_WHOLE = re.compile(r"([+-]?\d{1,18})(\.0*)?")
"""Longer ones are text."""
_EXPONENT = re.compile(r"[+-]?\d(\.\d*)?e[+-]?\d{1,3}", re.IGNORECASE)
_MOST_EXACT = 2**53  # of floating point
_SEVERAL, _JOINED = re.compile(r"[;|]|,"), re.compile(r"[+/&]")
_LIST = re.compile(r"\[(.*)\]")


def canonical(label: str) -> str:
    """A whole number in its shortest writing; other text as it is."""
    if whole := _WHOLE.fullmatch(label):
        return str(int(whole[1]))
    number = float(label) if _EXPONENT.fullmatch(label) else math.inf
    return str(int(number)) if abs(number) < _MOST_EXACT and number.is_integer() else label


def natural(label: str) -> tuple[tuple[str | int, ...], str]:
    """A key to sort by letters, but whole numbers in a name as numbers: 'grade 2', 'grade 10'."""
    parts = re.split(r"(\d{1,18})", label)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), label


def unified(labels: Collection[str]) -> dict[str, str]:
    """Each label in the writing that all share: whole numbers in their shortest, if all are."""
    if not all(_is_whole(canonical(label)) for label in labels):
        return {label: label for label in labels}
    found = {label: canonical(label) for label in labels}
    changed = [f"{label} as {number}" for label, number in sorted(found.items()) if label != number]
    if changed:
        log.info("labels are whole numbers: %s", ", ".join(changed))
    return found


def is_missing(cell: str, names: Sequence[str]) -> bool:
    """Whether a cell says that there is no label, and is not the name of a class.

    In a column of labels -1 says so as well.
    """
    says_so = cell.casefold() in MISSING or canonical(cell) == "-1"
    return says_so and cell.casefold() not in folded(names)


def folded(names: Iterable[str]) -> set[str]:
    """Names as they are compared."""
    return {normal(name).casefold() for name in names}


def split_cell(cell: str, names: Sequence[str]) -> list[str]:
    """The labels in a cell like 'Mass|Nodule', 'Mass;Nodule', 'Mass, Nodule' or "['Mass']".

    A name of a class stays whole, whatever it holds; 'No Finding' is none.
    """
    known = folded(names)
    if cell.casefold() in known:
        return [cell]
    separators = "|;" if any("," in name for name in known) else "|;,"
    listed = _LIST.fullmatch(cell)
    found = (normal(part) for part in re.split(f"[{separators}]", listed[1] if listed else cell))
    found = (normal(part.strip("'\"")) if listed else part for part in found)
    return [part for part in found if part.casefold() not in ("", NO_FINDING)]


def unlisted(cell: str, names: Sequence[str]) -> str:
    """What a cell like "['Mass']" lists, if it is one and no class of that name."""
    listed = _LIST.fullmatch(cell)
    if not listed or cell.casefold() in folded(names):
        return cell
    found = normal(listed[1].strip().strip("'\""))
    return cell if re.search(r"['\",|;]", found) else found


def several(cells: Collection[str], names: Sequence[str]) -> list[str]:
    """The cells that seem to hold several labels, where each should hold one.

    A part of them is a label of its own in another cell, or a part of another one; a name like
    'duct, connecting' is not meant. Of those joined as 'Mass + Nodule', all parts are such labels.
    """
    known = folded(names)
    distinct = {cell for cell in cells if cell.casefold() not in known}
    listed = {cell for cell in distinct if _LIST.fullmatch(cell)}
    parts = {cell: _parts(_SEVERAL, cell) for cell in distinct if _SEVERAL.search(cell)}
    occurs = Counter(part for each in parts.values() for part in each)
    alone = folded(distinct - parts.keys())
    separated = {
        cell
        for cell, each in parts.items()
        if len(each) > 1 and any(part in alone or occurs[part] > 1 for part in each)
    }
    both = ((cell, _parts(_JOINED, cell)) for cell in distinct if _JOINED.search(cell))
    joined = {cell for cell, each in both if len(each) > 1 and each <= alone}
    return sorted(listed | separated | joined)


def _parts(separators: re.Pattern[str], cell: str) -> set[str]:
    return folded(separators.split(cell)) - {""}


class GapsError(InputError):
    """Labels are whole numbers, of which some between them are no label."""


def class_names(labels: Collection[str], gaps: bool = False) -> tuple[str, ...]:
    """The classes where no names are given: numbers in their order, else names as `natural` sorts.

    Args:
      labels: of the images, as `canonical` gives them.
      gaps: whole numbers between the labels may be missing.

    Raises:
      GapsError: they are whole numbers with gaps, of which the missing ones may be classes.
    """
    numbers = numbers_of(sorted(labels))
    if numbers is None:
        return tuple(sorted(labels, key=natural))
    names = tuple(sorted(labels, key=float))
    indices = sorted({int(name) for name in names if _is_whole(name) and int(name) >= 0})
    if gaps or not all(map(_is_whole, names)):
        return names
    if indices != list(range(indices[0] if indices else 0, len(indices) + (indices or [0])[0])):
        listed = ",".join(map(str, indices[:20])) + ",..." * (len(indices) > 20)
        raise GapsError(
            f"config.data.class_names: not set, and labels {listed} have gaps; name all classes, "
            f"as config.data.class_names={listed}"
        )
    if indices and indices[0]:
        log.info(
            "labels %d..%d are classes %s", indices[0], indices[-1], ", ".join(map(str, indices))
        )
    return tuple(map(str, indices))


def lookup(names: Sequence[str], labels: Iterable[str] = ()) -> dict[str, int]:
    """From a label to its class: names in any case; also numbers, if no name is one.

    Args:
      names: of the classes, in label order.
      labels: all that occur; they show from which number classes are counted.

    Raises:
      InputError: two names are the same.
    """
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        first = found.setdefault(normal(name).casefold(), index)
        if first != index:
            raise InputError(
                f"classes {names[first]!r} and {name!r} are the same name; write it in one way "
                "everywhere, or rename one of them"
            )
    found |= {canonical(name): index for name, index in list(found.items())}
    if not any(map(_is_whole, names)):
        first = _first_number(names, labels)
        found |= {str(index + first): index for index in range(len(names))}
    return found


def _first_number(names: Sequence[str], labels: Iterable[str]) -> int:
    """The number of the first class."""
    numbers = {int(label) for label in labels if _is_whole(label)}
    if numbers and min(numbers) > 0 and max(numbers) < len(names):
        lowest, highest = min(numbers), max(numbers)
        log.warning("labels %d..%d count the classes %s from 0", lowest, highest, ", ".join(names))
    if not numbers or min(numbers) != 1 or max(numbers) != len(names):
        return 0
    log.info("labels 1..%d are the classes %s", len(names), ", ".join(names))
    return 1


def find(label: str, known: Mapping[str, int], where: str) -> int:
    """The class of a label.

    Raises:
      InputError: there is none; `where` is named.
    """
    for text in (label.casefold(), canonical(label)):
        if text in known:
            return known[text]
    if _is_whole(label):
        numbers = sorted(int(each) for each in known if _is_whole(each)) or [0, -1]
        problem = f"label {label} is out of range {numbers[0]}..{numbers[-1]}"
    else:
        problem = f"unknown class {label!r}"
    raise InputError(f"{where}: {problem}; fix it or config.data.class_names")


def find_several(
    cell: str, known: Mapping[str, int], where: str, num_classes: int
) -> tuple[int, ...]:
    """The multi-hot label [C] of labels 'Mass|?Nodule'; errors as `find`."""
    found = [0] * num_classes
    for text in filter(None, cell.split(SEPARATOR)):
        label = text.removeprefix(DOUBT)
        found[find(label, known, where)] = UNKNOWN if label != text else 1
    return tuple(found)


def _is_whole(label: str) -> bool:
    return label.removeprefix("-").isdecimal() and len(label) < 20
