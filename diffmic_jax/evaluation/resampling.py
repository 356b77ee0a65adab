"""Resamples of images, and intervals from what a metric is in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import scipy  # loads stats when it is used

SEED = 0
"""Of the resamples: equal predictions give equal intervals."""

Scores = tuple[dict[str, np.ndarray], dict[str, float]]
"""Metrics per class, [C] each, and over all classes; NaN where undefined."""


def resample_weights(groups: np.ndarray, bootstrap: int) -> Iterator[np.ndarray]:
    """Weights [N] of each resample: how often it has the image's group, with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(SEED)
    for _ in range(bootstrap):
        chosen = rng.integers(len(names), size=len(names))
        yield np.bincount(chosen, minlength=len(names))[member].astype(np.float64)


def resampled(
    scores: Callable[[np.ndarray], Scores],
    groups: np.ndarray,
    bootstrap: int,
    means: Mapping[str, str],
) -> list[Scores]:
    """The metrics in each resample.

    A mean over classes is NaN where the resample lacks one of them or has one more: the mean of
    others is another quantity, and an interval of both would be of neither.

    Args:
      scores: from weights [N] to metrics per class ([C] each), and over all.
      groups: [N] what is resampled as a whole.
      bootstrap: number of resamples.
      means: of the metrics over all, those that are means, and of which metric per class.
    """
    whole, _ = scores(np.ones(len(groups)))

    def same(per_class: dict[str, np.ndarray], name: str) -> bool:
        """Whether the resample has the classes of the whole, and the metric of the same ones."""
        there = np.array_equal(per_class["support"] > 0, whole["support"] > 0)
        return there and np.array_equal(np.isnan(per_class[name]), np.isnan(whole[name]))

    found = []
    for weights in resample_weights(groups, bootstrap):
        per_class, over_all = scores(weights)
        for mean, name in means.items():
            if not same(per_class, name):
                over_all[mean] = np.nan
        found.append((per_class, over_all))
    return found


def defined(resampled: Sequence[float] | np.ndarray) -> np.ndarray:
    """The values of those resamples that have one; none where fewer than a tenth of them have."""
    values = np.asarray(resampled, np.float64)
    found = values[~np.isnan(values)]
    return found if 10 * len(found) >= len(values) else found[:0]


def interval(resampled: Sequence[float]) -> list[float] | None:
    """The central 95% of the resamples in which the metric is defined.

    None where it is the same in all: these tell nothing of its error.
    """
    found = defined(resampled)
    if not found.size or np.ptp(found) < 1e-12:
        return None
    low_high: list[float] = np.percentile(found, [2.5, 97.5]).tolist()
    return low_high


def wilson(share: float, count: int) -> list[float]:
    """The 95% interval of a share of so many independent ones (Wilson 1927).

    The share need not be of whole ones: of a group some images may be right.
    """
    z2 = scipy.stats.norm.ppf(0.975) ** 2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return [max(0.0, float(centre - half)), min(1.0, float(centre + half))]
