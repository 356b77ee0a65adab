"""Does uncertainty find the errors: accuracy when the least certain images are referred."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # loads stats when it is used: few commands test anything
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import entr

from diffmic_jax.evaluation.resampling import resample_weights

SHARE = 0.2
"""Of the images, those that are referred to an expert."""


def most_certain_first(uncertainty: Float[np.ndarray, " n"]) -> np.ndarray:
    """Positions [N] from the most to the least certain image; equal ones in their order."""
    return np.argsort(uncertainty, kind="stable")


def referral_curve(
    uncertainty: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the images referred [N], ascending from 0, and accuracy of the rest [N]."""
    n = len(correct)
    kept = np.arange(n, 0, -1)
    accuracy = np.cumsum(correct[most_certain_first(uncertainty)])[::-1] / kept
    return 1 - kept / n, accuracy


def referral(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    *,
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int,
    share: float = SHARE,
) -> dict[str, Any]:
    """The effect of referring the images of the highest entropy.

    Args:
      probabilities: [N, C].
      labels: [N].
      groups: [N] what is resampled as a whole.
      bootstrap: resamples behind the interval; 0 for none.
      share: of the images that are referred.

    Returns:
      `share`, `accuracy_kept`, `errors` in all and `errors_referred`, `gain` (accuracy of the kept
      images minus that of all) with `gain_ci95`, and `error_auroc`, the probability that an error
      has a higher entropy than a correct prediction.
    """
    entropy = entr(np.asarray(probabilities, np.float64)).sum(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    kept = np.zeros(len(labels), bool)
    kept[most_certain_first(entropy)[: max(1, round((1 - share) * len(labels)))]] = True
    gains = []
    for weights in resample_weights(groups, bootstrap):
        if weights[kept].any():
            gains.append(_accuracy(correct, weights, kept) - _accuracy(correct, weights))
    return {
        "share": share,
        "accuracy_kept": float(correct[kept].mean()),
        "errors": int((~correct).sum()),
        "errors_referred": int((~correct & ~kept).sum()),
        "gain": float(correct[kept].mean() - correct.mean()),
        "gain_ci95": np.percentile(gains, [2.5, 97.5]).tolist() if gains else None,
        "error_auroc": _error_auroc(correct, entropy),
    }


def _error_auroc(correct: np.ndarray, uncertainty: np.ndarray) -> float | None:
    """Probability that an error is less certain than a correct prediction, ties counting half."""
    pairs = (~correct).sum() * correct.sum()
    if not pairs:
        return None
    found = scipy.stats.mannwhitneyu(
        uncertainty[~correct], uncertainty[correct], method="asymptotic"
    )
    return float(found.statistic / pairs)


def _accuracy(
    correct: np.ndarray, weights: np.ndarray, kept: np.ndarray | slice = slice(None)
) -> Any:
    return correct[kept] @ weights[kept] / weights[kept].sum()
