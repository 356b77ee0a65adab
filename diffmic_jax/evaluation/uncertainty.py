"""How good calibrated probabilities and prediction sets are on a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # loads stats when it is used: few commands test anything
from jaxtyping import Float, Int

from diffmic_jax.evaluation.metrics import compute
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import COVERAGE, Calibration
from diffmic_jax.method.task import Task


def assess(
    fitted: Calibration | None,
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
    coverage: float = COVERAGE,
    samples: Float[np.ndarray, "n s c"] | None = None,
) -> dict[str, Any] | None:
    """What calibration changes in the predictions for a split; None without a calibration.

    Args:
      fitted: on validation.
      probabilities: [N, C] as the classifier gives them.
      labels: [N] class indices, or with several labels [N, C] multi-hot.
      task: what the classes are.
      coverage: 0..1, the share of the prediction sets that are to contain the true class.
      samples: [N, S, C], with several labels; those of one classifier if there are none.

    Returns:
      `temperature`, `uniform`, their `nll`, `brier`, `rps` and `ece`, with several labels
      `joint_nll`, of all labels of an image together in nats, and for single labels
      `conformal`: the `target` and the reached `coverage`, the interval `expected` in which this is
      for 95% of pairs of a validation and a test part of these sizes (Vovk 2012), the mean
      `set_size` and the share of `empty` sets.
    """
    calibrated = calibration.apply(fitted, probabilities, coverage)
    if fitted is None or calibrated is None:
        return None
    scores = compute(calibrated.probabilities, labels, task, bootstrap=0)
    found: dict[str, Any] = {name: scores[name] for name in ("nll", "brier", "rps", "ece")}
    found |= {"temperature": fitted.temperature, "uniform": fitted.uniform, "joint_nll": None}
    if fitted.prevalence:
        samples = probabilities[:, None] if samples is None else samples
        joint = calibration.joint_log_likelihood(fitted, probabilities, samples, labels)
        found["joint_nll"] = float(-joint.mean())
    sets, count = calibrated.sets, len(fitted.scores)
    return found | {"conformal": None if sets is None else _reached(sets, labels, coverage, count)}


def _reached(sets: np.ndarray, labels: np.ndarray, coverage: float, count: int) -> dict[str, Any]:
    """`conformal` of `assess`, of prediction sets [N, C] that so many images calibrated."""
    rank, low, high = calibration.rank_of(count, coverage), len(labels), len(labels)
    if rank <= count:  # else every set has all classes
        low, high = scipy.stats.betabinom.interval(0.95, len(labels), rank, count + 1 - rank)
    return {
        "target": coverage,
        "coverage": float(calibration.of_label(sets, labels).mean()),
        "expected": [low / len(labels), high / len(labels)],
        "set_size": float(sets.sum(axis=1).mean()),
        "empty": float((sets.sum(axis=1) == 0).mean()),
    }
