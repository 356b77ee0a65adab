"""What a run was trained on: its split, and a hash of every image's pixels.

`split.csv` lists the parts and `content.csv` the hashes; a checkpoint has one hash of both. So a
replaced image, another label or an added image is noticed when a run goes on, and named.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffmic_jax.data import sources
from diffmic_jax.data.dataset import Dataset
from diffmic_jax.data.files import table_text
from diffmic_jax.errors import InputError
from diffmic_jax.training.workdir import skipped_images

SPLIT, CONTENT = "split.csv", "content.csv"
_NAMED = 3
"""Images that are named of each kind of change."""


def content_text(dataset: Dataset) -> str:
    """The text of `content.csv`: a hash of the prepared pixels of each image that can be read."""
    rows = [(name, f"{number:016x}") for name, number in sorted(dataset.digest.items())]
    return table_text(("image", "pixels"), rows)


def content_sha256(dataset: Dataset) -> str:
    """A hash of the split and of all pixels."""
    text = sources.write_split(dataset.source) + content_text(dataset)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def check_split(workdir: Path, dataset: Dataset) -> None:
    """Refuse a workdir whose run had another split: its test images may be trained on by now.

    Raises:
      InputError: naming the workdir's record of the split, and what has changed.
    """
    path = workdir / SPLIT
    if not path.exists():
        return
    before, now = _read(path), sources.write_split(dataset.source)
    skipped = [*dataset.skipped]
    if before == now and skipped_images(workdir) == skipped:
        return
    changes = _split_changes(_rows(before), _rows(now))
    changes += _kinds({"unreadable": set(skipped) - {*skipped_images(workdir)}})
    changes += _kinds({"readable again": {*skipped_images(workdir)} - set(skipped)})
    told = f": {', '.join(changes)}" if changes else ""
    raise InputError(
        f"{path}: the data or its split has changed since this run began{told}; restore it, "
        "or choose another --workdir"
    )


def changed_pixels(workdir: Path, dataset: Dataset, recorded: str | None) -> str:
    """Which images have other pixels than those that a checkpoint was trained on.

    Args:
      workdir: of the run; its split is that of the data.
      dataset: now.
      recorded: the checkpoint's `content_sha256`; None in those of earlier versions.

    Returns:
      Their number and the first names; '' if none has.
    """
    if recorded in (None, content_sha256(dataset)):
        return ""
    path = workdir / CONTENT
    before = _rows(_read(path)) if path.exists() else {}
    now = _rows(content_text(dataset))
    changed = {name for name in before.keys() & now.keys() if before[name] != now[name]}
    return ", ".join(_kinds({"with other pixels": changed})) or "images have changed"


def _split_changes(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> list[str]:
    both = before.keys() & now.keys()
    others = {
        f"with another {column}": {
            name for name in both if before[name].get(column) != now[name].get(column)
        }
        for column in ("label", "group", "split")
    }
    return _kinds(
        {"added": now.keys() - before.keys(), "gone": before.keys() - now.keys(), **others}
    )


def _kinds(found: Mapping[str, Iterable[str]]) -> list[str]:
    """Each kind of change that there is, with its number and the first names."""
    return [_some(sorted(names), kind) for kind, names in found.items() if names]


def _some(names: Sequence[str], kind: str) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    images = "image" if len(names) == 1 else "images"
    return f"{len(names)} {images} {kind} ({', '.join(names[:_NAMED])}{more})"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of a CSV by the image that they are about."""
    rows = csv.DictReader(io.StringIO(text))
    try:
        return {row["image"]: row for row in rows if row.get("image")}
    except csv.Error:  # damaged: it lists nothing
        return {}
