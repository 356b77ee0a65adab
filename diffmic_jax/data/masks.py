"""Masks among the images of class folders: in folders of their own, or named after an image."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffmic_jax.data.csvfile import normal
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

_WORDS = r"(?:masks?|seg|segmentations?|annotations?|gt|ground[ _-]?truths?)"
_NAMED = re.compile(rf"(.+?)[ _-]+{_WORDS}(?:[ _-]*\d+)?", re.IGNORECASE)
_FOLDER = re.compile(rf"(?:.+[ _-])?{_WORDS}", re.IGNORECASE)
_BY_ITSELF = re.compile(_WORDS, re.IGNORECASE)
_TAIL = re.compile(r"[ _-]+(?=[^\W\d_])")
"""Where a name may go on after that of another image: with a letter, since numbers count."""
_TWINS = 0.9
"""Share of the images that are, or have, another one of the same name and the same ending."""


def without_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders beside each other but those named as holding masks, if there are others."""
    kept = [each for each in folders if not _BY_ITSELF.fullmatch(normal(each.name))]
    return kept or list(folders)


def without(folder: Path, inside: Sequence[Path]) -> list[Path]:
    """The images of a class folder but the masks of others, by name or by folder; told."""
    stems = {path.stem for path in inside}

    def is_mask(path: Path) -> bool:
        named = _NAMED.fullmatch(path.stem)
        among = any(map(_FOLDER.fullmatch, path.relative_to(folder).parts[:-1]))
        return among or bool(named and named[1] in stems)

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
    """Refuse images of which nearly each has another beside it, named as it is and one ending.

    Those may be masks. If they are images, they are of one patient, and chance would part them.

    Args:
      files: the images of each class folder.

    Raises:
      InputError: naming two of them and the ending.
    """
    found: dict[str, tuple[Path, Path]] = {}
    endings: Counter[str] = Counter()
    for inside in files.values():
        own = {(path.parent, path.stem): path for path in inside}
        for (place, stem), path in own.items():
            for tail in _TAIL.finditer(stem):
                if first := own.get((place, stem[: tail.start()])):
                    endings[stem[tail.start() :]] += 1
                    found.setdefault(stem[tail.start() :], (first, path))
    total = sum(map(len, files.values()))
    ending, count = next(iter(endings.most_common(1)), ("", 0))
    if count > 1 and 2 * count >= _TWINS * total:
        first, second = found[ending]
        raise InputError(
            f"{second}: {count} of {total} images are named as another and {ending!r}, this one as "
            f"{first.name}; move them away if they are masks or copies, else name a CSV with the "
            "patient or lesion of each image in config.data.groups"
        )
