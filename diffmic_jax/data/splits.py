"""Cutting a set of images into training, validation and test.

By class, or by class with groups kept whole. All cuts are pure functions of their arguments and
the generator's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from diffmic_jax.data import tables
from diffmic_jax.data.layouts import PARTS, Parts, Record, look_up
from diffmic_jax.errors import InputError

PROTOCOLS = ("given", "authors", "random", "grouped")


def stratified(labels: ArrayLike, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """A random part with the class proportions of the whole.

    `labels` holds N class indices. Gives an [N] bool mask with rint(fraction N) images set, fewer
    only where that would take the last image of a class, which always stays behind.
    """
    label = np.asarray(labels, int)
    mask = np.zeros(label.shape, bool)
    counts = np.bincount(label)
    shares = _apportion(counts, round(fraction * label.size))
    for index, share in enumerate(shares):
        mask[rng.permutation(np.flatnonzero(label == index))[:share]] = True
    return mask


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Split `total` over classes in proportion to their counts: the largest remainders round up."""
    exact = counts * (total / max(counts.sum(), 1))
    shares = np.floor(exact).astype(int)
    largest_first = np.argsort(shares - exact, kind="stable")
    shares[largest_first[: total - shares.sum()]] += 1
    return np.minimum(shares, np.maximum(counts - 1, 0))


def grouped(
    groups: ArrayLike, labels: ArrayLike, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """A random part that no group straddles, its class counts near `fraction` of the whole's.

    `groups` and `labels` describe the same N images; labels are [N] class indices or [N, C]
    multi-hot. Gives an [N] bool mask. Groups are visited in random order, and one is taken when
    that brings the class counts closer to their target. Where that leaves the part too small, as
    with classes of a few large groups, those follow that do the least harm. The mask is empty when
    every group is more than twice as large as the part.
    """
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    hot = _one_hot(np.asarray(labels, int))
    table = np.zeros((group.max(initial=-1) + 1, hot.shape[1]))
    np.add.at(table, group, hot)
    missing = fraction * table.sum(axis=0)
    taken = np.zeros(len(table), bool)
    for index in rng.permutation(len(table)):
        row = table[index]
        # |missing - row|^2 < |missing|^2: the counts come closer to their target.
        if row @ row < 2 * (row @ missing):
            taken[index] = True
            missing -= row
    size = np.bincount(group, minlength=len(table))
    short = round(fraction * len(group)) - size[taken].sum()
    while (fits := np.flatnonzero(~taken & (size < 2 * short))).size:
        rows = table[fits]
        best = fits[np.argmin((rows**2).sum(axis=1) - 2 * rows @ missing)]
        taken[best] = True
        missing, short = missing - table[best], short - size[best]
    return taken[group]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """[N, classes] of class indices; multi-hot labels get a column for images without any."""
    if labels.ndim == 2:
        return np.concatenate([labels, labels.sum(axis=1, keepdims=True) == 0], axis=1)
    return np.eye(labels.max(initial=-1) + 1)[labels]


def cut_test(parts: Parts, protocol: str, fraction: float, rng: np.random.Generator) -> Parts:
    """The test part: the given one, or cut out of training, or cut anew out of all images.

    Raises:
      InputError: the protocol is 'grouped' and no groups are known.
    """
    if protocol in ("given", "authors"):
        if parts["test"]:
            return parts
        train, test = _cut(parts["train"], fraction, rng, by_group=_has_groups(parts["train"]))
        return parts | {"train": train, "test": test}
    pool = [record for part in PARTS for record in parts[part]]
    if protocol == "grouped" and not _has_groups(pool):
        raise InputError("data.groups: data.protocol=grouped needs the groups; name their CSV")
    train, test = _cut(pool, fraction, rng, by_group=protocol == "grouped")
    return {"train": train, "validation": [], "test": test}


def cut_validation(parts: Parts, fraction: float, rng: np.random.Generator) -> Parts:
    """Cut validation off training unless it is given, with groups whole where they are known."""
    if not fraction or parts["validation"]:
        return parts
    by_group = _has_groups(parts["train"])
    train, validation = _cut(parts["train"], fraction, rng, by_group=by_group)
    return parts | {"train": train, "validation": validation}


def by_table(parts: Parts, table: Mapping[str, str], what: str) -> Parts:
    """The same records in the parts that a table gives them by image.

    Raises:
      InputError: a record is not in the table; `what` names it.
    """
    found: Parts = {part: [] for part in PARTS}
    records = [record for listed in parts.values() for record in listed]
    missing = f"{what}: has no part for image {{}}, or not for it alone; list it by id"
    for record, part in zip(records, look_up(table, records, missing), strict=True):
        found[part].append(record)
    return found


def authors_table(root: Path, lists: tuple[str, str]) -> dict[str, str]:
    """DiffMIC's part of each image, from its two pickled lists.

    They are looked for in `root`, in the folder around it, and in a folder `diffmic_splits` there.
    Absolute names are taken as they are.

    Raises:
      InputError: they are in none of these, or damaged.
    """
    folders = (root, root.parent, root.parent / "diffmic_splits")
    for folder in folders:
        if all((folder / name).is_file() for name in lists):
            train, test = (
                tables.read_list(folder / name, part)
                for name, part in zip(lists, ("train", "test"), strict=True)
            )
            parts: dict[str, str] = {}
            for row in train + test:
                name = Path(row.image).stem
                if parts.setdefault(name, row.part) != row.part:
                    raise InputError(f"{row.where}: {name!r} is in both lists; get them anew")
            return parts
    raise InputError(
        f"data.protocol=authors needs DiffMIC's split lists {' and '.join(lists)}; put them into "
        f"{root}, or name them in data.train_list and data.test_list"
    )


def leaked(parts: Mapping[str, list[Record]]) -> list[Record]:
    """The test images whose group (lesion, patient) is also in training or validation."""
    seen = {r.group for part in ("train", "validation") for r in parts[part]} - {""}
    return [record for record in parts["test"] if record.group in seen]


def _has_groups(records: list[Record]) -> bool:
    return any(record.group for record in records)


def _cut(
    records: list[Record], fraction: float, rng: np.random.Generator, by_group: bool = False
) -> tuple[list[Record], list[Record]]:
    """What stays, and what is cut off; a record of unknown group is a group of its own."""
    labels = [record.label for record in records]
    if by_group:
        mask = grouped([r.group or r.id for r in records], labels, fraction, rng)
    elif records and isinstance(labels[0], tuple):
        mask = grouped([r.id for r in records], labels, fraction, rng)
    else:
        mask = stratified(labels, fraction, rng)
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, off in zip(records, mask, strict=True):
        sides[int(off)].append(record)
    return sides
