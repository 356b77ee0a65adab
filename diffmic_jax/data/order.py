"""The order of the training images: which one is shown when, epoch by epoch.

Both orders are pure functions of the labels, the seed and the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, are spread evenly however many there are."""


@lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Every image once: [count] positions."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Balanced:
    """Images of rare classes more often than they are there, those of common ones less often.

    A class of n images is shown in proportion to n^(1 - balance), up to the whole numbers that an
    epoch allows; these follow a systematic sample (Madow 1949), so that over the epochs nothing is
    lost. Within a class the images take turns: all are shown, in a new order, before the first
    one is shown again, also where that takes several epochs.
    """

    label: Int[np.ndarray, " n"]
    """[N] class indices."""
    seed: int
    balance: float
    """0: as they are there; 1: every class equally often."""
    size: int
    """Images of an epoch."""

    @lru_cache(maxsize=4)  # noqa: B019  (a run has one order)
    def epoch(self, epoch: int) -> np.ndarray:
        """The images of an epoch, in their order: [size] positions."""
        quotas = self._quotas(epoch + 1)
        shown = quotas[:-1].sum(axis=0)
        parts = [
            self._turns(c, first, first + quota)
            for c, (first, quota) in enumerate(zip(shown, quotas[-1], strict=True))
        ]
        # Four numbers each: zeros would be those of `shuffled`, which has two.
        random = np.random.default_rng((self.seed, epoch, 0, 1))
        return random.permutation(np.concatenate(parts))

    def _quotas(self, epochs: int) -> np.ndarray:
        """Images of each class in the first epochs: [epochs, C], rows sum to `size`."""
        count = np.bincount(self.label)
        weight = np.where(count > 0, np.maximum(count, 1) ** (1 - self.balance), 0)
        edges = self.size * np.cumsum(weight) / weight.sum()
        offset = np.arange(epochs)[:, None] * GOLDEN % 1
        below = np.floor(edges + offset).astype(int)
        below[:, count.cumsum() == len(self.label)] = self.size  # whatever the rounding
        return np.diff(below, axis=1, prepend=0)

    def _turns(self, label: int, first: int, end: int) -> np.ndarray:
        """The images of a class from its turn `first` to the one before `end`: positions."""
        members = np.flatnonzero(self.label == label)
        if first == end:
            return members[:0]
        rounds = range(first // len(members), -(-end // len(members)))
        orders = [
            np.random.default_rng((self.seed, label, turn, 2)).permutation(members)
            for turn in rounds
        ]
        start = first - rounds[0] * len(members)
        return np.concatenate(orders)[start : start + end - first]
