"""Metrics of one class against the rest that need no threshold, from the ranks of probabilities."""

from __future__ import annotations

import numpy as np

SPECIFICITIES = (0.8, 0.9, 0.95)
"""Operating points: the specificities at which the sensitivity of each class is measured."""
OPERATING_POINTS = tuple(f"sensitivity_at_{level:.2f}" for level in SPECIFICITIES)
NAMES = ("auroc", "average_precision", *OPERATING_POINTS)


def ranked(probabilities: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """What `threshold_free` takes: 2 * rank + actual, ranks from 0 and equal for equal values.

    Args:
      probabilities: [N, C].
      actual: [N, C] 1 where the image belongs to the class.

    Returns:
      [C, N] int.
    """
    ranks = [np.unique(column, return_inverse=True)[1] for column in probabilities.T]
    return 2 * np.stack(ranks) + actual.T.astype(np.int64)


def threshold_free(ranks: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each of `NAMES` [C] of ranks [C, N] and weights [N, C]; NaN if undefined."""
    rows = [_of_one_class(*own) for own in zip(ranks, weights.T, strict=True)]
    return {
        name: np.array(values) for name, values in zip(NAMES, zip(*rows, strict=True), strict=True)
    }


def _of_one_class(ranks: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """AUROC (a positive image outranks a negative one, ties counting half), average precision
    (equal probabilities are one threshold), and sensitivities."""
    counts = np.bincount(ranks, weights, minlength=2 * (ranks.max() // 2 + 1))
    negative, positive = counts.reshape(-1, 2).T
    negatives, positives = negative.sum(), positive.sum()
    if not negatives * positives:
        return (np.nan,) * len(NAMES)
    up_to = np.cumsum(negative)
    auroc = (positive * (up_to - negative / 2)).sum() / (positives * negatives)
    found, wrong = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    precision = found / np.maximum(found + wrong, 1e-300)  # without any, none is weighed
    average = (positive[::-1] * precision).sum() / positives
    # Images that rank higher are predicted positive; counts are whole, but products are rounded.
    last = np.searchsorted(up_to, np.array(SPECIFICITIES) * negatives * (1 - 1e-12))
    return (auroc, average, *(1 - np.cumsum(positive)[last] / positives))
