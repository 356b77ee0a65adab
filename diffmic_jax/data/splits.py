"""Cutting a part off a set of images: by class, or by class with groups kept whole.

Both cuts are pure functions of their arguments and the generator's state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


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

    `groups` and `labels` describe the same N images. Gives an [N] bool mask. Groups are visited in
    random order, and one is taken when that brings the class counts closer to their target; so the
    mask is empty when every group is much larger than the part.
    """
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    label = np.asarray(labels, int)
    table = np.zeros((group.max(initial=-1) + 1, label.max(initial=-1) + 1))
    np.add.at(table, (group, label), 1)
    missing = fraction * table.sum(axis=0)
    taken = np.zeros(len(table), bool)
    for index in rng.permutation(len(table)):
        row = table[index]
        # |missing - row|^2 < |missing|^2: the counts come closer to their target.
        if row @ row < 2 * (row @ missing):
            taken[index] = True
            missing -= row
    return taken[group]
