"""Resamples of images, and intervals from what a metric is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # loads stats when it is used

SEED = 0
"""Of the resamples: equal predictions give equal intervals."""


def resample_weights(groups: np.ndarray, bootstrap: int) -> Iterator[np.ndarray]:
    """Weights [N] of each resample: how often it has the image's group, with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(SEED)
    for _ in range(bootstrap):
        chosen = rng.integers(len(names), size=len(names))
        yield np.bincount(chosen, minlength=len(names))[member].astype(np.float64)


def interval(resampled: Sequence[float]) -> list[float] | None:
    """The central 95% of the resamples in which the metric is defined.

    None where it is the same in all: these tell nothing of its error.
    """
    defined = [value for value in resampled if not np.isnan(value)]
    if not defined or max(defined) - min(defined) < 1e-12:
        return None
    low_high: list[float] = np.percentile(defined, [2.5, 97.5]).tolist()
    return low_high


def wilson(share: float, count: int) -> list[float]:
    """The 95% interval of a share of so many independent ones (Wilson 1927)."""
    found = scipy.stats.binomtest(round(share * count), count).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]
