"""Folders that lie where those of the classes do, and are none: parts, patients, copies, sites."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from diffmic_jax.data.columns import other_words, part_of, part_of_file, part_word
from diffmic_jax.data.csvfile import normal
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

Files = Mapping[Path, Sequence[Path]]
"""The images of each class folder."""

_UNLABELLED = re.compile(
    r"preds?|predict(?:ions?)?|unlabell?ed(?:[ _-](?:images?|data))?", re.IGNORECASE
)
_FOLD = re.compile(r"fold[ _-]?\d+", re.IGNORECASE)
_MANY = 12
"""From so many on, folders with numbers in their names may be patients."""


def check_names(folders: Collection[Path], classes: Collection[str] = ()) -> None:
    """Refuse folders beside each other that are named as parts, as folds or as without labels.

    Of parts there are several, and their names share other words: `bullet train` and `crash test`
    are none.

    Args:
      folders: beside each other.
      classes: names that are given as those of classes.

    Raises:
      InputError: naming one of them.
    """
    folders = [each for each in folders if each.name not in classes]
    parts = {word: each for each in folders if (word := part_word(each.name))}
    shared = [other_words(each.name) for each in parts.values()]
    if len(parts) > 1 and set.intersection(*shared):
        one, other, *_ = parts.values()
        raise InputError(
            f"{one}: it and {other.name} are named as parts, and would be classes; name them train "
            "and test (validation) and put class folders into each, or name a CSV of labels"
        )
    if len(folders) > 1 and all(_FOLD.fullmatch(normal(each.name)) for each in folders):
        raise InputError(
            f"{next(iter(folders))}: the folders are named as folds, and would be classes; put the "
            "class folders of all of them together, or name a CSV of labels"
        )
    for each in folders:
        if _UNLABELLED.fullmatch(normal(each.name)):
            raise InputError(
                f"{each}: is named as images without a label, and would be a class; move it away, "
                "to classify them with `diffmic predict`, or rename it"
            )


def check_parts(
    folders: Mapping[Path, str], own: Mapping[str, str], classes: Collection[str] = ()
) -> None:
    """Refuse folders of a part that seem to be classes of training under other names.

    None is a class of training; or some are none, while training has others that the part lacks. A
    class that only the test part has is told, see `findings`.

    Args:
      folders: of the classes, and their parts.
      own: the class of each name.
      classes: names that are given as those of classes.

    Raises:
      InputError: naming one of them.
    """
    names: dict[str, dict[str, Path]] = defaultdict(dict)
    given = {normal(name).casefold() for name in classes}
    for folder, part in folders.items():
        names[part][own[normal(folder.name)].casefold()] = folder
    for part, inside in names.items():
        missing = [path for name, path in inside.items() if name not in names["train"]]
        if len(missing) == len(inside) and missing:
            raise InputError(
                f"{missing[0]}: is no class of training, nor is another folder of the {part} part; "
                "put its images into class folders, or move them away to classify them with "
                "`diffmic predict`"
            )
        missing = [path for path in missing if normal(path.name).casefold() not in given]
        if missing and names["train"].keys() - inside.keys():
            raise InputError(
                f"{missing[0]}: is no class of training, which has "
                f"{', '.join(sorted(names['train']))}; rename it as one of these, or move it away"
            )


def check_copies(folders: Sequence[Path], classes_in: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse a class folder that holds the classes again, as a copy of the data set in itself.

    Args:
      folders: of the classes.
      classes_in: the class folders in each of them.

    Raises:
      InputError: naming it.
    """
    names = {normal(folder.name).casefold() for folder in folders}
    for folder in folders:
        again = [each.name for each in classes_in[folder]]
        if len([name for name in again if normal(name).casefold() in names]) > 1:
            raise InputError(
                f"{folder}: holds the class folders {', '.join(again[:3])} again; move it away, or "
                "name it alone"
            )


def parts_inside(files: Files) -> dict[Path, str] | None:
    """The part of each image by the folders inside the class folders; None if these have none.

    Raises:
      InputError: some of the images only are in folders of parts, or these hold the classes.
    """
    inner: dict[Path, str] = {}
    told: dict[Path, set[str]] = {}
    for folder, inside in files.items():
        places = {path.parent: path for path in inside}  # many images are in few
        parts = {place: part_of_file(one.relative_to(folder)) for place, one in places.items()}
        inner |= {path: parts[path.parent] for path in inside}
        told[folder] = {*parts.values()} - {""}
    if all(inner.values()) and "train" in inner.values():
        _check_classes_below(files)
        return inner
    for folder, own in told.items():
        if len(own) > 1:
            raise InputError(
                f"{folder}: has folders of parts ({', '.join(sorted(own))}), but some images of "
                "class folders are in none, or none is of training; move away what is no part of "
                "the data, or put all images into train, validation or test"
            )
    return None


def _check_classes_below(files: Files) -> None:
    """Refuse parts inside class folders that hold folders again: these are the classes."""
    below: dict[str, set[str]] = defaultdict(set)
    for folder, inside in files.items():
        for path in inside:
            names = path.relative_to(folder).parts[:-1]
            at = next(i for i, name in enumerate(names) if part_of(name))
            below[names[at + 1] if len(names) > at + 1 else ""].add(part_of(names[at]))
    shared = sorted(name for name, parts in below.items() if len(parts) > 1)
    if "" not in below and len(shared) > 1:
        first = next(iter(files))
        raise InputError(
            f"{first}: its parts have the class folders {', '.join(shared[:3])}; name the folder "
            "that holds the parts"
        )


def check_inner(files: Files, classes: Collection[str] = ()) -> None:
    """Refuse class folders that are patients, with the classes inside; warn of others that may be.

    Class folders that hold nothing but folders may be sites or organs with their classes, unless
    those are numbered and differ, as patients are.

    Args:
      files: the images of each class folder.
      classes: names that are given as those of classes.

    Raises:
      InputError: for patients.
    """
    inner = {folder: _branches(folder, inside) for folder, inside in files.items()}
    split = {folder: each for folder, each in inner.items() if len(each) > 1 and "" not in each}
    names = sorted(set().union(*inner.values()) - {""})
    if not classes:
        _check_patients(files)
    if not split:
        return
    if len(split) < len(inner):
        if not _numbered(names):
            first = next(iter(split))
            log.warning(
                "%s holds folders, as %s, and others hold images; if these are the classes, give a "
                "CSV of images and labels, or name that folder",
                *(first, ", ".join(sorted(split[first])[:8])),
            )
        return
    same = len({frozenset(each) for each in split.values()}) == 1
    patients = _numbered(names) or (len(names) > _MANY and all(map(_has_digit, names)))
    if same or not patients:
        log.warning(
            "each class folder holds folders, as %s; if these are the classes, give a CSV of "
            "images and labels, or put each of them first",
            ", ".join(names[:8]),
        )


def _check_patients(files: Files) -> None:
    """Refuse class folders that are many and numbered, and hold few folders of the same names.

    Not where each holds all of them, as of both sides or sexes: a patient lacks some classes.
    """
    outer = [folder.name for folder in files]
    first = [
        {"".join(place[:1]) for place in _places(folder, inside)}
        for folder, inside in files.items()
    ]
    names = sorted(set().union(*first))
    patients = len(outer) >= _MANY and _numbered(outer) and "" not in names
    if patients and 2 <= len(names) <= _MANY and any(each != {*names} for each in first):
        raise InputError(
            f"{next(iter(files))}: the class folders are numbered as patients are, and the classes "
            f"seem to be the folders in them ({', '.join(names)}); name a CSV of image, label and "
            "group"
        )


def _branches(folder: Path, inside: Sequence[Path]) -> set[str]:
    """The folders of the first level on which there are several; '' where images lie there."""
    places = _places(folder, inside)
    while places and all(places) and len({place[:1] for place in places}) == 1:
        places = {place[1:] for place in places}
    return {"".join(place[:1]) for place in places}


def _places(folder: Path, inside: Sequence[Path]) -> set[tuple[str, ...]]:
    """The folders below a class folder in which images lie; () is itself."""
    return {place.relative_to(folder).parts for place in {path.parent for path in inside}}


def _numbered(names: Collection[str]) -> bool:
    """Whether names differ in nothing but numbers."""
    return len({re.sub(r"\d+", "", name).casefold() for name in names}) == 1


def _has_digit(name: str) -> bool:
    return any(map(str.isdigit, name))
