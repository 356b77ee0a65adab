"""Which file a table means: names as spreadsheets, other systems and archives leave them."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from diffmic_jax.data.columns import part_of_file
from diffmic_jax.data.csvfile import nfc
from diffmic_jax.data.scan import images_under
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

Index = Mapping[str, Sequence[Path]]


def _same(name: str) -> str:
    return name


def _without_zeros(name: str) -> str:
    """The name in lower case, its last part without zeros in front, as spreadsheets leave it."""
    return re.sub(r"(^|/)0+(?=\d+(\.\w+)?$)", r"\1", name.casefold())


FORMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("as they are", _same),
    ("by other case", str.casefold),
    ("by other case of a name without its extension", lambda name: _stem(name.casefold())),
    ("with zeros in front", _without_zeros),
)
"""How names are compared, the strictest first."""


class Finder:
    """Finds the images of a table under a folder.

    A row may give a path below the folder, or only its end; with an extension or without. Folders
    that all rows begin with, but the folder lacks, are left out. Slashes may be backslashes.
    """

    def __init__(self, root: Path, names: Iterable[str], allow_outside: bool = False) -> None:
        """Looks at all files.

        Args:
          root: the folder.
          names: of all images in the table.
          allow_outside: images may be elsewhere, by an absolute path, by `..` or by a link.
        """
        self._root, self._inside = root, Inside(root, allow_outside)
        self._files = {nfc(path.relative_to(root).as_posix()): path for path in images_under(root)}
        self._indices: dict[str, Index] = {}
        self._prefix = self._common_prefix([_slashes(name) for name in names])
        self._used: Counter[str] = Counter()

    def find(self, name: str, where: str, fix: str, part: str = "") -> tuple[Path, Path]:
        """The image that a row means, and where it really is.

        Args:
          name: as the table has it.
          where: the row, for the message.
          fix: what to do about an image that is missing.
          part: that the row tells; of several images of that name it is the one in its folder.

        Raises:
          InputError: there is none, there are several, or it is not under the root.
        """
        path = self._find(name, where, fix, part)
        return path, self._inside.real(path, f"{where}: {name!r}")

    def _find(self, name: str, where: str, fix: str, part: str) -> Path:
        wanted = _slashes(name).removeprefix(self._prefix)
        if listed := self._files.get(wanted):
            return listed
        for path in (self._root / name, self._root / wanted):
            if is_file(path):
                return path
        for form, write in FORMS:
            found = self._index(form, write).get(write(wanted), ())
            if len(found) > 1 and part:
                found = [each for each in found if self._part(each) == part] or found
            if len(found) > 1:
                raise InputError(f"{where}: {name!r} is both {found[0]} and {found[1]}; keep one")
            if found:
                self._used[form] += 1
                return found[0]
        raise InputError(f"{where}: no image {name!r} in {self._root}; {fix}")

    def _part(self, path: Path) -> str:
        return part_of_file(path.relative_to(self._root))

    def tell(self, used: int) -> None:
        """Log which names were not found as they are, and how many images are in no row.

        Args:
          used: images that are in one.
        """
        if len(self._files) > used:
            log.info("%s: %d images are in no row", self._root, len(self._files) - used)
        if self._prefix:
            log.info("%s: images are found without %r in front", self._root, self._prefix)
        for form, _ in FORMS[1:]:
            if self._used[form]:
                log.info("%s: %d images are found %s", self._root, self._used[form], form)

    def _common_prefix(self, names: Sequence[str]) -> str:
        """The folders in front of all names without which they are paths under the root."""
        if not names:
            return ""
        folders = names[0].split("/")[:-1]
        for count in range(1, len(folders) + 1):
            prefix = "/".join(folders[:count]) + "/"
            if not all(name.startswith(prefix) for name in names):
                return ""
            if folders[0] and (self._root / folders[0]).is_dir():  # '' where names are absolute
                return ""
            if names[0].removeprefix(prefix) in self._files:
                return prefix
        return ""

    def _index(self, form: str, write: Callable[[str], str]) -> Index:
        """The files by every end of their path, with their extension and without."""
        if form not in self._indices:
            found: dict[str, list[Path]] = defaultdict(list)
            for name, path in self._files.items():
                parts = name.split("/")
                for start in range(len(parts)):
                    end = "/".join(parts[start:])
                    for key in {write(end), write(_stem(end))}:
                        found[key].append(path)
            self._indices[form] = found
        return self._indices[form]


class Inside:
    """Where files really are, and that it is under a folder; each folder is looked up once."""

    def __init__(self, root: Path, allow_outside: bool = False) -> None:
        """Nothing is looked at yet."""
        self._root, self._allow_outside = root, allow_outside
        self._folders: dict[Path, Path] = {}

    def real(self, path: Path, what: str) -> Path:
        """Where a file is, links followed.

        Args:
          path: that is there.
          what: it is, for the message.

        Raises:
          InputError: it is not under the root, by an absolute path, by `..` or by a link.
        """
        real = path.resolve() if path.is_symlink() else self._folder(path.parent) / path.name
        if not (self._allow_outside or real.is_relative_to(self._folder(self._root))):
            raise InputError(
                f"{what} is {real}, which is not under {self._root}; put it there, or set "
                "config.data.allow_outside=True if you trust where the names come from"
            )
        return real

    def _folder(self, path: Path) -> Path:
        if path not in self._folders:
            self._folders[path] = path.resolve()
        return self._folders[path]


def is_file(path: Path) -> bool:
    """Whether it is one; a name can be too long for the system, or hold a zero byte."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _stem(name: str) -> str:
    """The name without its extension."""
    return re.sub(r"\.[a-z]{2,5}\d?$", "", name, flags=re.IGNORECASE)
