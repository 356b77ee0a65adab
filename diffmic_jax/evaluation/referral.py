"""Does uncertainty find the errors: what is left when the least certain images are referred."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import entr
from scipy.stats import mannwhitneyu

from diffmic_jax.evaluation.metrics import resample_weights

SHARE = 0.2
"""Of the images, those that are referred to somebody who knows."""


def kept_first(uncertainty: Float[np.ndarray, " n"]) -> np.ndarray:
    """[N] positions from the most to the least certain image; equal ones in their order."""
    return np.argsort(uncertainty, kind="stable")


def referral_curve(
    uncertainty: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the images referred [N], ascending from 0, and accuracy of the rest [N]."""
    n = len(right)
    kept = np.arange(n, 0, -1)
    accuracy = np.cumsum(right[kept_first(uncertainty)])[::-1] / kept
    return 1 - kept / n, accuracy


def referral(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    *,
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int,
    share: float = SHARE,
    seed: int = 0,
) -> dict[str, Any]:
    """What referring the images of the highest entropy would change.

    Args:
      probabilities: [N, C].
      labels: [N].
      groups: [N] what is resampled as a whole.
      bootstrap: resamples behind the interval; 0 for none.
      share: of the images that are referred.
      seed: of the resamples.

    Returns:
      `share`, `accuracy_kept`, `errors` in all and `errors_referred`, `gain` (accuracy of the kept
      images minus that of all) with `gain_ci95`, and `error_auroc`, the probability that an error
      has a higher entropy than a right answer.
    """
    entropy = entr(np.asarray(probabilities, np.float64)).sum(axis=1)
    right = probabilities.argmax(axis=1) == labels
    kept = np.zeros(len(labels), bool)
    kept[kept_first(entropy)[: max(1, round((1 - share) * len(labels)))]] = True
    gains = []
    for weights in resample_weights(groups, bootstrap, seed):
        if weights[kept].any():
            gains.append(_accuracy(right, weights, kept) - _accuracy(right, weights))
    return {
        "share": share,
        "accuracy_kept": float(right[kept].mean()),
        "errors": int((~right).sum()),
        "errors_referred": int((~right & ~kept).sum()),
        "gain": float(right[kept].mean() - right.mean()),
        "gain_ci95": np.percentile(gains, [2.5, 97.5]).tolist() if gains else None,
        "error_auroc": _error_auroc(right, entropy),
    }


def _error_auroc(right: np.ndarray, uncertainty: np.ndarray) -> float | None:
    """Probability that an error is less certain than a right answer, ties counting half."""
    pairs = (~right).sum() * right.sum()
    if not pairs:
        return None
    found = mannwhitneyu(uncertainty[~right], uncertainty[right], method="asymptotic")
    return float(found.statistic / pairs)


def _accuracy(
    right: np.ndarray, weights: np.ndarray, kept: np.ndarray | slice = slice(None)
) -> Any:
    return right[kept] @ weights[kept] / weights[kept].sum()
