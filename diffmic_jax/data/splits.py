"""Cutting a set of images into training, validation and test.

By class, or by class with groups kept whole. A cut is a pure function of its arguments and the
state of the random generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from diffmic_jax.data.layouts import PARTS, Parts, Record, label_array, look_up
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task


def stratified(labels: ArrayLike, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """A random part with the class proportions of the whole.

    Args:
      labels: [N] class indices.
      fraction: size of the part, in [0, 1].
      rng: for the choice within a class.

    Returns:
      [N] bool with rint(fraction N) images set, or fewer: the last image of a class is never taken.
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
    groups: ArrayLike, table: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """A random part that no group straddles, its class counts near `fraction` of the whole's.

    Groups are visited in random order, and one is taken when that brings the class counts closer
    to their target. Where that leaves the part too small, as with classes of a few large groups,
    those follow that change the counts least for the worse.

    Args:
      groups: [N] names, the group of each image.
      table: [N, C] ones where an image counts for a class, zeros elsewhere.
      fraction: size of the part, in [0, 1].
      rng: for the order.

    Returns:
      [N] bool. Nothing is set when every group is more than twice as large as the part.
    """
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    counts = np.zeros((group.max(initial=-1) + 1, table.shape[1]))
    np.add.at(counts, group, table)
    missing = fraction * counts.sum(axis=0)
    taken = np.zeros(len(counts), bool)
    for index in rng.permutation(len(counts)):
        row = counts[index]
        # |missing - row|^2 < |missing|^2: the counts come closer to their target.
        if row @ row < 2 * (row @ missing):
            taken[index] = True
            missing -= row
    size = np.bincount(group, minlength=len(counts))
    short = round(fraction * len(group)) - size[taken].sum()
    while (fits := np.flatnonzero(~taken & (size < 2 * short))).size:
        rows = counts[fits]
        best = fits[np.argmin((rows**2).sum(axis=1) - 2 * rows @ missing)]
        taken[best] = True
        missing, short = missing - counts[best], short - size[best]
    return taken[group]


def class_table(label: np.ndarray, task: Task) -> np.ndarray:
    """What `grouped` counts: [N, C], with several labels [N, C + 1], the last for none of them."""
    table = task.multi_hot(label)
    if not task.multi_label:
        return table
    return np.concatenate([table, table.sum(axis=1, keepdims=True) == 0], axis=1)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a part is cut off."""

    task: Task
    fraction: float
    """Of the images, in [0, 1]."""
    rng: np.random.Generator
    """It advances with each cut."""

    def apply(self, records: list[Record], whole_groups: bool) -> tuple[list[Record], list[Record]]:
        """The records that stay and those that are cut off.

        A record of unknown group is a group of its own.
        """
        label = label_array(records, self.task)
        if whole_groups or self.task.multi_label:
            groups = [(whole_groups and r.group) or r.id for r in records]
            mask = grouped(groups, class_table(label, self.task), self.fraction, self.rng)
        else:
            mask = stratified(label, self.fraction, self.rng)
        sides: tuple[list[Record], list[Record]] = ([], [])
        for record, off in zip(records, mask, strict=True):
            sides[int(off)].append(record)
        return sides


def cut_test(parts: Parts, protocol: str, cut: Cut) -> Parts:
    """The test part: the given one, or a new one cut from training or from all images.

    Raises:
      InputError: the protocol is 'grouped' and no groups are known.
    """
    if protocol in ("given", "authors"):
        if parts["test"]:
            return parts
        train, test = cut.apply(parts["train"], _has_groups(parts["train"]))
        return parts | {"train": train, "test": test}
    pool = [record for part in PARTS for record in parts[part]]
    if protocol == "grouped" and not _has_groups(pool):
        raise InputError(
            "config.data.groups: config.data.protocol=grouped needs the groups; name their CSV"
        )
    train, test = cut.apply(pool, protocol == "grouped")
    return {"train": train, "validation": [], "test": test}


def cut_validation(parts: Parts, cut: Cut) -> Parts:
    """Cut validation from training unless it is given, with groups whole where they are known."""
    if not cut.fraction or parts["validation"]:
        return parts
    train, validation = cut.apply(parts["train"], _has_groups(parts["train"]))
    return parts | {"train": train, "validation": validation}


def hold_out(parts: Parts, cut: Cut, folds: int, fold: int) -> Parts:
    """One of several parts of training and validation together becomes validation, by class and
    with groups whole where they are known.

    Args:
      parts: the records.
      cut: with a random generator of the same state for every fold; its fraction is not used.
      folds: how many parts.
      fold: the one held out, from 0.
    """
    pool = parts["train"] + parts["validation"]
    whole = _has_groups(pool)
    rest: list[Record] = pool
    held: list[Record] = []
    for each in range(fold + 1):
        share = replace(cut, fraction=1 / (folds - each))
        rest, held = share.apply(rest, whole)
    if fold == folds - 1:  # what no earlier fold took, down to the last image of a class
        rest, held = [], rest + held
    names = {record.id for record in held}
    train = [record for record in pool if record.id not in names]
    return parts | {"train": train, "validation": held}


def by_table(parts: Parts, table: Mapping[str, str], what: str) -> Parts:
    """The same records in the parts that a table gives them.

    Args:
      parts: the records.
      table: name of an image to part.
      what: names the table in an error.

    Raises:
      InputError: a record is not in the table.
    """
    found: Parts = {part: [] for part in PARTS}
    records = [record for listed in parts.values() for record in listed]
    missing = f"{what}: has no part for image {{}}, or not for it alone; list it by id"
    for record, part in zip(records, look_up(table, records, missing), strict=True):
        found[part].append(record)
    return found


def leaked(parts: Mapping[str, list[Record]]) -> list[Record]:
    """The test images whose group (lesion, patient) is also in training or validation."""
    seen = {r.group for part in ("train", "validation") for r in parts[part]} - {""}
    return [record for record in parts["test"] if record.group in seen]


def _has_groups(records: list[Record]) -> bool:
    return any(record.group for record in records)
