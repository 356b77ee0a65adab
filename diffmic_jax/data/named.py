"""What a user names to be classified: files, folders, patterns, and lists of them."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from diffmic_jax.data.scan import scan
from diffmic_jax.errors import InputError
from diffmic_jax.fields import did_you_mean

LIST = "-"
"""Stands for the names on standard input."""


@dataclasses.dataclass(frozen=True)
class Named:
    """The images under the names that a user gave."""

    images: dict[str, Path]
    """By name: as given, or below the folder where that is all that was given."""
    others: Counter[str]
    """How many files in folders have an ending that is none of images."""

    @property
    def left_out(self) -> str:
        """The files that are no images, by ending and number; empty if there are none."""
        counts = ", ".join(f"{n} {end or 'without'}" for end, n in self.others.most_common())
        total = self.others.total()
        return f"{total} files left out that are no images, by ending: {counts}" if total else ""


def find_images(words: Sequence[str], stdin: TextIO | None = None) -> Named:
    """The images that files, folders, patterns and `-` stand for, each once, in the order given.

    In a folder and the folders below, images are known by their ending, and DICOM by its content;
    a file that is named is taken for an image whatever its ending.

    Args:
      words: names; `~` is the home folder, and a pattern may have `*`, `?`, `[a-z]` and `**`.
      stdin: where the names of `-` are, one a line or with NUL between them; None: nowhere.

    Raises:
      InputError: a name stands for no image.
    """
    names = [each for word in words for each in _listed(word, stdin)]
    if "" in names:
        raise InputError("one of the names is empty; name files, folders or patterns")
    matches = {name: path for word in names for name, path in _matches(word)}
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for named, path in matches.items():
        if not path.is_dir():
            images[named] = path
            continue
        found = scan(path)
        if not found.images:
            raise InputError(f"{path}: no images in this folder; add some or name another")
        others += found.others
        for each in found.images:
            shown = each.relative_to(path) if len(matches) == 1 else each
            images[shown.as_posix()] = each
    once: dict[str, str] = {}
    for name, file in images.items():
        once.setdefault(os.path.abspath(file), name)
    return Named({name: images[name] for name in once.values()}, others)


def is_pattern(name: str) -> bool:
    """Whether a name is no file but may stand for several."""
    return glob.has_magic(name) and not Path(name).expanduser().exists()


def _listed(word: str, stdin: TextIO | None) -> Iterable[str]:
    """The word itself, or the names on standard input.

    Raises:
      InputError: it is empty, or no text.
    """
    if word != LIST or stdin is None:
        return [word]
    try:
        text = stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(
            "-: standard input is no text; give the names of images, one a line"
        ) from error
    names = text.split("\0") if "\0" in text else text.splitlines()
    if not any(names):
        raise InputError("-: no names on standard input; give those of images, one a line")
    return filter(None, names)


def _matches(name: str) -> list[tuple[str, Path]]:
    """The files and folders that a name stands for, as they are named; there is one at least."""
    path = Path(name).expanduser()
    found = [(str(path) if name.startswith("~") else name, path)] if path.exists() else []
    if is_pattern(name):
        names = glob.glob(str(path), recursive=True)
        found = sorted(((each, Path(each)) for each in names), key=lambda match: match[1])
    if not found:
        what = "file matches this pattern" if is_pattern(name) else "such file or folder"
        hint = did_you_mean(close_paths(path)) or "; check the path"
        raise InputError(f"{name}: no {what}{hint}")
    return found


def close_paths(path: Path) -> list[str]:
    """The file or folder beside a missing one that its name may stand for, if there is one."""
    try:
        beside = [each.name for each in path.parent.iterdir()]
    except OSError:
        return []
    return [str(path.parent / n) for n in difflib.get_close_matches(path.name, beside, 1)]
