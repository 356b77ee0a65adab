"""What acting on a probability is worth: decision curves (Vickers and Elkin, 2006).

Who acts on a class from a probability t on takes 1 - t wrong alarms as the price of t missed
images. The net benefit counts both in found images per image: found - wrong t / (1 - t).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from diffmic_jax.method.task import Task

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Of the table in `metrics.json`."""


def net_benefit(
    p: Float[np.ndarray, " n"], actual: Num[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Net benefit [T] of acting on a class where its probability reaches a threshold.

    0 is that of never acting; that of always acting is `net_benefit` of ones. Thresholds mean
    what they say only where the probabilities are calibrated.

    Args:
      p: [N] probability of the class.
      actual: [N] 1 where the image belongs to it, else 0.
      thresholds: [T] above 0 and below 1.
    """
    acted = p[:, None] >= thresholds
    found, wrong = (acted * who[:, None] for who in (actual, 1 - actual))
    odds = thresholds / (1 - thresholds)
    benefit: np.ndarray = found.mean(axis=0) - wrong.mean(axis=0) * odds
    return benefit


def by_class(
    probabilities: Float[np.ndarray, "n c"],
    actual: Num[np.ndarray, "n c"],
    known: Num[np.ndarray, "n c"],
    task: Task,
) -> dict[str, dict[str, dict[str, float]] | None]:
    """Net benefits at `THRESHOLDS`: class -> '0.10' and so on -> of the `model` and of acting on
    `all` images; None for a class of which nothing is known.

    Args:
      probabilities: [N, C].
      actual: [N, C] 1 where the image belongs to the class.
      known: [N, C] where that is known.
      task: what the classes are.
    """
    columns = zip(task.class_names, probabilities.T, actual.T, known.T > 0, strict=True)
    return {name: _table(p[own], y[own]) if own.any() else None for name, p, y, own in columns}


def _table(p: np.ndarray, actual: np.ndarray) -> dict[str, dict[str, float]]:
    """Of one class."""
    at = np.array(THRESHOLDS)
    rows = zip(net_benefit(p, actual, at), net_benefit(np.ones(len(p)), actual, at), strict=True)
    return {
        f"{threshold:.2f}": {"model": float(own), "all": float(every)}
        for threshold, (own, every) in zip(THRESHOLDS, rows, strict=True)
    }
