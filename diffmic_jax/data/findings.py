"""What training should know of its data, in five lines: the short form of an audit.

`data.audit` looks closer, also for pictures that are nearly the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmic_jax.data import grouping, splits
from diffmic_jax.data.dataset import Dataset
from diffmic_jax.data.layouts import PARTS, Record
from diffmic_jax.errors import InputError

_SHOWN = 5


class Finding(NamedTuple):
    """A line about the data."""

    text: str
    serious: bool = False
    """It is worth a look before training."""


def findings(dataset: Dataset) -> list[Finding]:
    """Sizes, classes that parts lack, leaks, pictures that occur twice, and what is left out."""
    return [
        _sizes(dataset),
        _classes(dataset),
        _leaks(dataset),
        _copies(dataset),
        Finding(f"{len(dataset.skipped):,} images cannot be read", bool(dataset.skipped)),
    ]


def check_conflicts(dataset: Dataset) -> None:
    """Refuse the same picture under two labels.

    Raises:
      InputError: naming the first of them.
    """
    found = [copies for copies in _clusters(dataset) if len(set(copies.values())) > 1]
    if found:
        raise InputError(
            f"{len(found)} pictures occur under several labels, the first as {_named(found[0])}; "
            "keep the right ones, or set config.data.on_conflict=warn"
        )


def _sizes(dataset: Dataset) -> Finding:
    parts = ", ".join(f"{len(dataset.examples[part]):,} {part}" for part in PARTS)
    pairs = list(zip(dataset.task.class_names, dataset.counts, strict=True))
    classes = ", ".join(f"{name} {count:,}" for name, count in pairs[: 4 * _SHOWN])
    more = f", ... {len(pairs) - 4 * _SHOWN} more" if len(pairs) > 4 * _SHOWN else ""
    return Finding(f"images: {parts}; in training {classes}{more}")


def _classes(dataset: Dataset) -> Finding:
    """The classes that a part lacks."""
    task, lines = dataset.task, []
    counts = {part: np.array(task.counts(dataset.examples[part].label)) for part in PARTS}
    there = np.sum([*counts.values()], axis=0) > 0
    if not there.all():
        nowhere = [task.class_names[c] for c in np.flatnonzero(~there)]
        lines.append(f"there is no image of {_few(nowhere)}: it cannot be learned")
    for part in PARTS:
        lacking = (counts[part] == 0) & there
        names = [task.class_names[c] for c in np.flatnonzero(lacking)]
        if names and len(dataset.examples[part]):
            effect = "it cannot be learned" if part == "train" else "means of metrics leave it out"
            lines.append(f"{part} has no image of {_few(names)}: {effect}")
    return Finding("; ".join(lines) or "every part has every class", bool(lines))


def _leaks(dataset: Dataset) -> Finding:
    parts = {part: list(dataset.examples[part].records) for part in PARTS}
    if not any(record.group for listed in parts.values() for record in listed):
        return _names(parts)
    leaked = len(splits.leaked(parts))
    test = len(parts["test"])
    told = f"{leaked:,} of {test:,} test images show a group of training or validation"
    unknown = {part: sum(not r.group for r in listed) for part, listed in parts.items()}
    listed = ", ".join(f"{n:,} {part}" for part, n in unknown.items() if n)
    told += f"; the group of {listed} images is not known" if listed else ""
    return Finding(told, leaked > 0 or bool(listed))


def _names(parts: Mapping[str, Sequence[Record]]) -> Finding:
    """Groups are not known: what names tell."""
    guess, test = grouping.guess(parts), len(parts["test"])
    if not guess:
        return Finding("groups (lesions, patients) are not known")
    leaked = guess["leaked_images"]
    return Finding(
        f"groups (lesions, patients) are not known; names as {guess['example'][0]} may tell them: "
        f"by config.data.group_regex='{guess['regex']}' {leaked:,} of {test:,} test images show a "
        "group of training or validation",
        leaked > 0,
    )


def _copies(dataset: Dataset) -> Finding:
    found = _clusters(dataset)
    if not found:
        return Finding("no picture occurs twice")
    part = {r.id: part for part in PARTS for r in dataset.examples[part].records}
    across = sum(len({part[image] for image in copies}) > 1 for copies in found)
    conflicts = [copies for copies in found if len(set(copies.values())) > 1]
    example = _named((conflicts or found)[0])
    return Finding(
        f"{len(found):,} pictures occur more than once ({across:,} in several parts, "
        f"{len(conflicts):,} under several labels), as {example}",
        bool(across or conflicts),
    )


def _clusters(dataset: Dataset) -> list[Mapping[str, str]]:
    """The label of each copy by its id, for every picture that occurs more than once."""
    records = [r for part in PARTS for r in dataset.examples[part].records]
    times = Counter(dataset.digest.get(record.id) for record in records)
    copies: dict[int | None, dict[str, str]] = defaultdict(dict)
    for record in records:
        digest = dataset.digest.get(record.id)
        if digest is not None and times[digest] > 1:
            copies[digest][record.id] = dataset.task.name(record.label)
    return list(copies.values())


def _named(copies: Mapping[str, str]) -> str:
    return _few([f"{image} ({label or 'none'})" for image, label in copies.items()])


def _few(texts: Sequence[str]) -> str:
    more = f", ... {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
