"""The metrics of a split: of the diffusion, and beside it of the guidance prediction alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from diffmic_jax.evaluation import metrics
from diffmic_jax.evaluation.referral import referral
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task


def score(
    outputs: Outputs,
    task: Task,
    *,
    groups: Shaped[np.ndarray, " n"] | None = None,
    bootstrap: int = 0,
    thresholds: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> dict[str, Any]:
    """Metrics of the diffusion, and under `guidance` those of the guidance prediction.

    Args:
      outputs: for a split.
      task: what the classes are.
      groups: [N] what is resampled as one; default each image.
      bootstrap: resamples for the intervals.
      thresholds: multi-label, of the diffusion's and of the guidance's classes.

    Returns:
      What `metrics.compute` returns, with `referral` (None with several labels) and `guidance`.

    Raises:
      InputError: as `metrics.compute` does.
    """
    labels = outputs.label
    if groups is None:
        groups = np.arange(len(labels))

    def compute(probabilities: np.ndarray, thresholds: Sequence[float]) -> dict[str, Any]:
        found = metrics.compute(
            probabilities,
            labels,
            task,
            groups=groups,
            bootstrap=bootstrap,
            thresholds=thresholds,
        )
        found["referral"] = None
        if not task.multi_label:
            found["referral"] = referral(probabilities, labels, groups=groups, bootstrap=bootstrap)
        return found

    own, alone = thresholds
    return compute(outputs.probabilities, own) | {"guidance": compute(outputs.guidance, alone)}


def table(scores: dict[str, Any], diffuses: bool = True) -> str:
    """A small text table of the headline metrics: diffusion above guidance alone.

    Without diffusion these are the same, and only one row is shown.
    """
    names = ("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece")
    lines = [f"{'':16}" + "".join(f"{name:>19}" for name in names)]
    both = [("diffusion", scores), ("guidance alone", scores["guidance"])]
    shown = both if diffuses else [("classifier", scores)]
    for title, values in shown:
        cells = ["-" if values[name] is None else f"{values[name]:.4f}" for name in names]
        lines.append(f"{title:16}" + "".join(f"{cell:>19}" for cell in cells))
    classes = len(scores["per_class"])
    for name, count in scores["classes_in_mean"].items():
        if count < classes:
            lines.append(f"{name}: over the {count} of {classes} classes in which it is defined")
    low_high = scores["ci95"].get("accuracy")
    if low_high:
        lines.append(
            f"{scores['n']} images; 95% interval of the {shown[0][0]}'s accuracy "
            f"{low_high[0]:.4f} to {low_high[1]:.4f}"
        )
    return "\n".join(lines)
