"""Which files in folders are images, by their endings, and DICOM by its mark."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

EXTENSIONS = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
        *(".dcm", ".dicom"),
        ".gif",  # refused when it is decoded, not left out silently
    }
)
"""Of images, in lower case."""
ACCEPTED = "PNG, JPEG, TIFF, BMP, WebP or DICOM"


class Found(NamedTuple):
    """The files under a folder that are not hidden."""

    images: list[Path]
    others: Counter[str]
    """How many have an ending, in lower case, and are not read."""

    @property
    def _endings(self) -> str:
        counts = self.others.most_common()
        return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts)

    @property
    def formats(self) -> str:
        """What to do where there are no images, as the end of a message."""
        if not self.others:
            return "; add some or remove it"
        return f" ({self._endings} are not read as images); add some as {ACCEPTED}, or remove it"

    def tell(self, root: Path) -> None:
        """Log what is left out, by ending and number."""
        if self.others:
            log.warning("%s: files that are not read as images: %s", root, self._endings)


def has_ending(name: str) -> bool:
    """Whether a name ends as that of an image."""
    return Path(name).suffix.lower() in EXTENSIONS


def images_under(root: Path) -> list[Path]:
    """The images under a folder, sorted; there may be none."""
    return scan(root).images


def has_images(root: Path) -> bool:
    """Whether there is an image under a folder; the first one is enough."""
    return any(map(_holds_image, _files_under(root)))


def scan(root: Path) -> Found:
    """The images and other files under a folder. Links to folders are followed, each once."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in _files_under(root):
        if _holds_image(path):
            found.append(path)
        elif path.is_file():
            others[path.suffix.lower()] += 1
        elif path.is_symlink() and has_ending(path.name):
            raise InputError(
                f"{path}: is a link to {os.readlink(path)}, which is not there; get that file, or "
                "remove the link"
            )
    return Found(sorted(found, key=lambda path: path.parts), others)


def _files_under(root: Path) -> Iterator[Path]:
    """All that is not hidden and no folder."""
    seen = set()
    for folder, children, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or a second one to the same
            children.clear()
            continue
        seen.add(real)
        # The first of two links is followed, on every system.
        children[:] = sorted(name for name in children if not is_hidden(name))
        place = Path(folder)
        yield from (place / name for name in names if not is_hidden(name))


def _refuse_folder(error: OSError) -> None:
    """What is in a folder that cannot be read would be left out."""
    raise InputError(
        f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it away"
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be looked at; so is what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: Path, root: Path) -> bool:
    """Whether it is an image, by its extension or as DICOM, and not hidden below `root`."""
    return not any(map(is_hidden, path.relative_to(root).parts)) and _holds_image(path)


def _holds_image(path: Path) -> bool:
    return path.is_file() and (has_ending(path.name) or _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM, which often comes without an extension."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False
