"""An evaluation by what is known of the images: metrics of each group, and which is the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import metrics
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task

SHOWN = ("accuracy", "balanced_accuracy", "auroc_macro", "nll")
FEWEST = 20
"""Images below which a group is too small to be called the worst."""


def by_attribute(
    outputs: Outputs,
    task: Task,
    attributes: Mapping[str, Sequence[str]],
    *,
    groups: np.ndarray,
    bootstrap: int = 1000,
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """Metrics of the images that share a value, ready for JSON.

    Args:
      outputs: for N images.
      task: what the classes are.
      attributes: from the name of each attribute to its [N] values.
      groups: [N] what is resampled as one.
      bootstrap: resamples for the intervals.
      thresholds: multi-label, of the classes.

    Returns:
      For each attribute `groups`, from value to n, the metrics and `ci95`, and `worst`: of the
      values with at least `FEWEST` images the one with the lowest AUROC, the mean over those
      `classes` in which all of them have one, or where there is none the lowest accuracy (several
      labels: F1); which is the `best`, and how far it is below that; the classes are named where
      these are not all. None if there are fewer than two such values.
    """
    found = {}
    for name, values in attributes.items():
        of_value = np.asarray(values)
        parts, aurocs = {}, {}
        for value in sorted(set(values)):
            inside = of_value == value
            scores = metrics.compute(
                outputs.probabilities[inside],
                outputs.label[inside],
                task,
                groups=groups[inside],
                bootstrap=bootstrap,
                thresholds=thresholds,
            )
            kept = {key: scores[key] for key in (*task.metrics, "ci95", "classes_in_mean")}
            parts[value] = {"n": scores["n"], **kept}
            aurocs[value] = {each: one["auroc"] for each, one in scores["per_class"].items()}
        found[name] = {"groups": parts, "worst": _worst(parts, aurocs)}
    return found


def _worst(
    parts: Mapping[str, Mapping[str, Any]], aurocs: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any] | None:
    """The group that does worst by what all groups of a fair size have; arguments by value."""
    fair = {value: part for value, part in parts.items() if part["n"] >= FEWEST}
    if len(fair) < 2:
        return None
    defined = [{c for c, x in aurocs[value].items() if x is not None} for value in fair]
    names = [*next(iter(aurocs.values()))]
    common = [name for name in names if all(name in each for each in defined)]
    if common:  # a mean over other classes is another quantity
        metric = "auroc_macro"
        of_value = {value: float(np.mean([aurocs[value][c] for c in common])) for value in fair}
    else:
        metric = next(
            name for name in ("accuracy", "f1_macro") if name in next(iter(fair.values()))
        )
        of_value = {value: part[metric] for value, part in fair.items()}
    if None in of_value.values():
        return None
    value, best = min(of_value, key=of_value.__getitem__), max(of_value, key=of_value.__getitem__)
    gap = of_value[best] - of_value[value]
    facts = {"value": value, "metric": metric, "best": best, "below_best": gap}
    return facts | ({"classes": common} if 0 < len(common) < len(names) else {})


def per_case(outputs: Outputs, task: Task, groups: np.ndarray) -> Outputs:
    """One answer for each case, the mean over its images.

    Args:
      outputs: for N images.
      task: what the classes are.
      groups: [N] the case of each image.

    Raises:
      InputError: the images of a case have different labels.
    """
    names, index = np.unique(groups, return_inverse=True)
    label = np.empty((len(names), *outputs.label.shape[1:]), outputs.label.dtype)
    label[index] = outputs.label
    if (
        other := np.flatnonzero((label[index] != outputs.label).reshape(len(index), -1).any(1))
    ).size:
        raise InputError(
            f"--per_case: the images of case {groups[other[0]]} have different labels; cases have "
            "one label, so evaluate the images"
        )
    counts = np.bincount(index)

    def mean(column: np.ndarray) -> np.ndarray:
        total = np.zeros((len(names), *column.shape[1:]))
        np.add.at(total, index, column)
        return total / counts.reshape(-1, *[1] * (column.ndim - 1))

    means = {name: mean(getattr(outputs, name)) for name in Outputs._fields if name != "label"}
    return Outputs(**means, label=label)


def table(found: Mapping[str, Any]) -> str:
    """A text table: a line for each group, and the worst of each attribute."""
    lines = [f"{'':32}{'n':>8}" + "".join(f"{name:>20}" for name in SHOWN)]
    for attribute, each in found.items():
        for value, part in each["groups"].items():
            cells = [f"{part[name]:.4f}" if part.get(name) is not None else "-" for name in SHOWN]
            title = f"{attribute} {value}"
            lines.append(f"{title:32.32}{part['n']:>8,}" + "".join(f"{cell:>20}" for cell in cells))
        if worst := each["worst"]:
            over = f" over {len(worst['classes'])} classes" if "classes" in worst else ""
            lines.append(
                f"worst by {attribute}: {worst['value']}, {worst['metric']}{over} "
                f"{worst['below_best']:.4f} below that of {worst['best']}"
            )
    return "\n".join(lines)
