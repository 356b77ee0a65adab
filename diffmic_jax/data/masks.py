"""Masks among the images of class folders: in folders of their own, or named after an image."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from diffmic_jax.data.csvfile import normal
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

_WORDS = r"masks?|segmentations?|annotations?|ground[ _-]?truths?"
_NAMED = re.compile(rf"(.+?)[ _-]+(?:{_WORDS}|seg|gt)(?:[ _-]*\d+)?", re.IGNORECASE)
_FOLDER = re.compile(rf"(?:.+[ _-])?(?:{_WORDS}|gt)", re.IGNORECASE)
_BY_ITSELF = re.compile(_WORDS, re.IGNORECASE)
_TAIL = re.compile(r"[ _-]+(?=[^\W\d_])")
"""Where a name may go on after that of another image: with a letter, since numbers count."""
_CUT = re.compile(r"[ _-]+(?=[^\W_])")
"""Where the name of a crop goes on after that of its image."""
_TWINS = 0.9
"""Share of the images that are, or have, another one of the same name and the same ending."""


def without_folders(folders: Sequence[Path], classes: Collection[str] = ()) -> list[Path]:
    """The folders beside each other but those named as holding masks, if there are others.

    Not beside `no_mask`: then it is the class of faces with one.

    Args:
      folders: beside each other.
      classes: names that are given as those of classes.
    """
    named = [each for each in folders if _BY_ITSELF.fullmatch(normal(each.name))]
    kept = [each for each in folders if each not in named or each.name in classes]
    if not kept or any("mask" in each.name.casefold() for each in kept):
        return list(folders)
    return kept


def without(folder: Path, inside: Sequence[Path]) -> list[Path]:
    """The images of a class folder but the masks of others, by name or by folder; told."""
    stems = {path.stem for path in inside}
    places = {path.parent for path in inside}
    among = {each for each in places if any(map(_FOLDER.fullmatch, each.relative_to(folder).parts))}

    def is_mask(path: Path) -> bool:
        named = _NAMED.fullmatch(path.stem)
        return path.parent in among or bool(named and named[1] in stems)

    kept = [path for path in inside if not is_mask(path)]
    if not kept or len(kept) == len(inside):
        return list(inside)
    log.warning(
        "%s: %d images are left out, since they or their folders are named as masks, as %s; if "
        "they are images, rename them",
        *(folder, len(inside) - len(kept), next(filter(is_mask, inside))),
    )
    return kept


def check_twins(files: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse images that belong together by their names, which chance would part.

    Nearly each has another beside it, named as it is and one ending, as a mask or a second view; or
    the most are in folders beside images that they are named after, as crops of these.

    Args:
      files: the images of each class folder.

    Raises:
      InputError: naming two of them.
    """
    beside: Counter[str] = Counter()
    found: dict[str, tuple[Path, Path]] = {}
    crops: list[tuple[Path, Path]] = []
    for inside in files.values():
        own = {(path.parent, path.stem): path for path in inside}
        for (place, stem), path in own.items():
            for tail in _TAIL.finditer(stem):
                if first := own.get((place, stem[: tail.start()])):
                    beside[stem[tail.start() :]] += 1
                    found.setdefault(stem[tail.start() :], (first, path))
            around = (own.get((place.parent, stem[: cut.start()])) for cut in _CUT.finditer(stem))
            crops += [(first, path) for first in around if first][:1]
    total = sum(map(len, files.values()))
    fix = (
        "move them away if they are masks or copies, else say which images belong together by "
        "config.data.group_regex or a CSV in config.data.groups"
    )
    ending, count = next(iter(beside.most_common(1)), ("", 0))
    if count > 1 and 2 * count >= _TWINS * total:
        first, second = found[ending]
        raise InputError(
            f"{second}: {count} of {total} images are named as another and {ending!r}, this one as "
            f"{first.name}; {fix}"
        )
    if 2 * len(crops) > total:
        first, second = crops[0]
        raise InputError(
            f"{second}: {len(crops)} of {total} images are in folders beside images that they are "
            f"named after, this one after {first.name}; {fix}"
        )
