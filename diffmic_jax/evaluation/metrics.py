"""How good predicted probabilities are, with bootstrap confidence intervals.

Every metric but the AUROC is a function of weighted sums over the images of a few numbers per
image, and a bootstrap resample is a vector of image weights. So each metric is written once, for
weighted images: weights of one give the value itself, resampled weights its confidence interval.

Definitions, for N images and C classes (scikit-learn's where it has one):

- prediction: the most probable class, the first one on ties.
- F1 = 2 TP / (labels + predictions); the macro mean leaves out a class with neither.
- balanced accuracy: mean recall of the classes that occur.
- AUROC: one class against the rest; the macro mean leaves out a class that no image, or every
  image, belongs to.
- average precision: mean of the precision over the images of a class, each at its own probability
  as the threshold; the macro mean is over the classes that the AUROC is over.
- weighted F1: mean F1 with the classes' images as weights.
- MCC: Matthews' coefficient of several classes (Gorodkin 2004).
- quadratic kappa: 1 - sum O_ij (i-j)^2 / sum E_ij (i-j)^2 over all C classes, whether or not they
  occur, O the confusion matrix and E the product of its margins (Cohen 1968).
- NLL: mean -log p of the label, p no smaller than `NLL_PROBABILITY_FLOOR`.
- Brier score: squared distance between the probabilities and the one-hot label, summed over the
  classes (Brier 1950).
- ranked probability score: squared distance between the cumulated probabilities and the cumulated
  one-hot label, summed over the C - 1 thresholds between classes and divided by their number
  (Epstein 1969); it means something where the classes have an order.
- sensitivity at a fixed specificity: of one class against the rest, at the lowest threshold that
  at least that share of the other images stay below (read off the ROC curve of the same images).
- ECE: mean over images of |accuracy - confidence| in 15 equal bins of the top probability (Guo et
  al. 2017).

With several labels per image, a row is C yes-or-no questions, of which those without a known answer
are left out: a class is predicted where p >= 0.5
(or the class's threshold from validation), NLL and Brier score are means over the questions, and
the bins of the ECE are over p of every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import decision
from diffmic_jax.evaluation.ranking import OPERATING_POINTS, ranked, threshold_free
from diffmic_jax.evaluation.resampling import Scores, interval, resampled, wilson
from diffmic_jax.inference.joint import NLL_PROBABILITY_FLOOR
from diffmic_jax.method.task import SCALARS, Task

ECE_BINS = 15
INTERVALS = ("precision", "recall", "f1", "auroc", "average_precision", *OPERATING_POINTS)
"""Metrics of a class that have confidence intervals."""
MEANS = {
    "f1_macro": "f1",
    "balanced_accuracy": "recall",
    "auroc_macro": "auroc",
    "average_precision": "average_precision",
}
"""Means over the classes in which a metric is defined, and that metric."""


class _Columns(NamedTuple):
    """What the metrics sum over the images."""

    actual: np.ndarray
    """[N, C] 1 where the image belongs to the class."""
    predicted: np.ndarray
    """[N, C] 1 where it was predicted."""
    losses: np.ndarray
    """[N, 4] NLL, Brier score, ranked probability score, squared distance between predicted and
    true class index."""
    gaps: np.ndarray
    """[N, 15] confidence minus outcome, in the bin of the confidence."""
    ranks: np.ndarray
    """[C, N] of the classes' probabilities, as `ranking.ranked` gives them."""
    questions: np.ndarray
    """[N] what an image counts in the means of losses and gaps; 1 on average."""
    known: np.ndarray
    """[N, C] whether it is known that the image belongs to the class or not."""
    task: Task


def compute(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
    *,
    groups: Shaped[np.ndarray, " n"] | None = None,
    bootstrap: int = 1000,
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """All metrics of a split, ready for JSON: undefined values are None, never NaN.

    Args:
      probabilities: [N, C]; rows sum to 1 unless multi-label.
      labels: [N] class indices, or with several labels [N, C] multi-hot.
      task: what the classes are.
      groups: [N] what is resampled as a whole (lesion, patient); None: every image by itself.
      bootstrap: number of resamples behind `ci95`; 0 leaves the intervals None.
      thresholds: [C] with several labels, the probability from which a class is predicted; default
        0.5.

    Returns:
      n, each of `SCALARS`, classes_in_mean (of each of `MEANS`, how many classes it is over),
      per_class (name -> precision, recall, f1, auroc, support and, multi-label, the threshold),
      operating_points (name -> 'sensitivity_at_0.90' and so on), net_benefit (as
      `decision.by_class`), confusion ([C][C] counts, rows are the true classes), ci95 (metric ->
      [low, high], the 2.5th and 97.5th percentile over the resamples in which the metric is
      defined, a mean over the same classes; None if these are fewer than a tenth) and
      ci95_per_class (the same for each class, with its operating points).

    Raises:
      InputError: no image, a label outside the classes, or a probability that is not a number.
      ValueError: shapes that do not belong together.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    task.check(probabilities, labels)
    _check_finite(probabilities)
    columns = _columns(probabilities, labels, task, thresholds)
    per_class, scalars = _scores(columns, np.ones(len(labels)))
    points = {name: per_class.pop(name) for name in OPERATING_POINTS}
    if task.multi_label:
        per_class["threshold"] = np.broadcast_to(thresholds or 0.5, task.num_classes)
    groups = np.arange(len(labels)) if groups is None else groups
    return {
        "n": len(labels),
        **{name: _optional(scalars[name]) for name in SCALARS},
        "classes_in_mean": {
            mean: int(np.isfinite(per_class[name]).sum())
            for mean, name in MEANS.items()
            if mean in task.metrics
        },
        "per_class": _by_name(per_class, task),
        "operating_points": {
            name: {point: _optional(values[i]) for point, values in points.items()}
            for i, name in enumerate(task.class_names)
        },
        "net_benefit": decision.by_class(probabilities, columns.actual, columns.known, task),
        "confusion": None if task.multi_label else _confusion(columns),
        **_intervals(columns, groups, bootstrap),
    }


def bootstrap_scalars(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
    *,
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int,
    thresholds: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """Each of `SCALARS` over the resamples [bootstrap], NaN where undefined.

    Equal groups give equal resamples, so two classifiers of the same images can be compared
    resample by resample. Arguments as in `compute`.
    """
    columns = _columns(np.asarray(probabilities, np.float64), labels, task, thresholds)
    found = resampled(partial(_scores, columns), groups, bootstrap, MEANS)
    return {name: np.array([scalars[name] for _, scalars in found]) for name in SCALARS}


def _check_finite(probabilities: np.ndarray) -> None:
    if not np.isfinite(probabilities).all():
        row = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0]
        raise InputError(
            f"metrics: the probabilities of image {row} are not numbers; use another checkpoint"
        )


def _columns(
    probabilities: np.ndarray, labels: np.ndarray, task: Task, thresholds: Sequence[float]
) -> _Columns:
    """Everything that does not depend on the weights, once."""
    actual, known = task.multi_hot(labels), task.known(labels)
    predicted = task.predicted(probabilities, thresholds)
    if task.multi_label:
        confidence, outcome = probabilities, actual
        distance = np.zeros(len(labels))
    else:
        confidence = probabilities.max(axis=1)[:, None]
        outcome = (predicted == labels)[:, None]
        distance = np.square(predicted - labels)
    shares = _shares(known)
    return _Columns(
        actual=actual,
        predicted=task.multi_hot(predicted) * known,
        losses=np.stack([*_losses(probabilities, actual, known, task), distance], axis=1),
        gaps=_gaps(confidence, outcome, shares if task.multi_label else 1),
        questions=shares.sum(axis=1) if task.multi_label else np.ones(len(labels)),
        known=known,
        ranks=ranked(probabilities, actual),
        task=task,
    )


def image_nll(probabilities: np.ndarray, label: np.ndarray, task: Task) -> np.ndarray:
    """[N] negative log-likelihood of each image; its mean is the metric. Arguments of `compute`."""
    return _losses(probabilities, task.multi_hot(label), task.known(label), task)[0]


def _losses(
    probabilities: np.ndarray, actual: np.ndarray, known: np.ndarray, task: Task
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] NLL, [N] Brier and [N] ranked probability score (0 with several labels) of each image."""
    brier = np.square(probabilities - actual)
    if task.multi_label:
        of_outcome = np.where(actual == 1, probabilities, 1 - probabilities)
        shares = _shares(known)
        nll = (shares * _negative_log(of_outcome)).sum(axis=1)
        return nll, (shares * brier).sum(axis=1), np.zeros(len(actual))
    nll = _negative_log((probabilities * actual).sum(axis=1))
    cumulated = np.cumsum(probabilities - actual, axis=1)[:, :-1]
    return nll, brier.sum(axis=1), np.square(cumulated).mean(axis=1)


def _negative_log(probabilities: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(probabilities, NLL_PROBABILITY_FLOOR, 1))


def _shares(known: np.ndarray) -> np.ndarray:
    """Weights of yes-or-no questions [N, C]: 0 of unknown ones, the others alike, in all N."""
    return known * (len(known) / max(known.sum(), 1))


def _gaps(confidence: np.ndarray, outcome: np.ndarray, shares: np.ndarray | float) -> np.ndarray:
    """[N, Q] statements with a confidence, an outcome and a weight -> their sums in [N, bins]."""
    # Bins are open below and closed above, so that certainty falls into the last one.
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.zeros((len(confidence), ECE_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(gaps, (rows, bins), (confidence - outcome) * shares)
    return gaps


def _scores(columns: _Columns, weights: np.ndarray) -> Scores:
    """Metrics per class ([C] each) and over all classes, of weighted images; NaN if undefined."""
    total = weights.sum()
    asked = (weights * columns.questions).sum() or np.nan
    support = _weighted_sum(weights, columns.actual)
    predictions = _weighted_sum(weights, columns.predicted)
    hits = _weighted_sum(weights, columns.actual * columns.predicted)
    nll, brier, rps, distance = _weighted_sum(weights, columns.losses)
    per_class = {
        "precision": _ratio(hits, predictions),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predictions),
        **threshold_free(columns.ranks, weights[:, None] * columns.known),
        "support": support,
    }
    scalars = {
        "accuracy": hits.sum() / total,
        "f1_macro": _mean_defined(per_class["f1"]),
        "balanced_accuracy": _mean_defined(per_class["recall"]),
        "auroc_macro": _mean_defined(per_class["auroc"]),
        "f1_weighted": _ratio(np.nansum(support * per_class["f1"]), support.sum()),
        "average_precision": _mean_defined(per_class["average_precision"]),
        "mcc": _mcc(hits.sum(), support, predictions),
        "kappa_quadratic": _kappa(distance, support, predictions),
        "nll": nll / asked,
        "brier": brier / asked,
        "rps": rps / asked,
        "ece": np.abs(_weighted_sum(weights, columns.gaps)).sum() / asked,
    }
    return per_class, {n: x if n in columns.task.metrics else np.nan for n, x in scalars.items()}


def _weighted_sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N], [N, M] -> [M]. Not a matrix product: its rounding depends on the number of threads."""
    return np.einsum("n,nm->m", weights, values)


def _mcc(hits: float, support: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' coefficient from the images that are right and the margins [C]."""
    total = support.sum()
    spread = (total**2 - predictions @ predictions) * (total**2 - support @ support)
    return (hits * total - predictions @ support) / np.sqrt(spread) if spread > 0 else np.nan


def _kappa(distance: float, support: np.ndarray, predictions: np.ndarray) -> float:
    """Quadratic kappa from the summed squared distances and the margins [C]."""
    classes = np.arange(len(support))
    chance = support @ np.square(classes[:, None] - classes) @ predictions / max(support.sum(), 1)
    return 1 - distance / chance if chance else np.nan


def _confusion(columns: _Columns) -> list[list[int]]:
    """[C][C] counts, rows are the true classes."""
    return np.einsum("ni,nj->ij", columns.actual, columns.predicted).astype(int).tolist()


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN over 0."""
    undefined = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)


def _mean_defined(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return defined.mean() if defined.size else np.nan


def _intervals(columns: _Columns, groups: np.ndarray, bootstrap: int) -> dict[str, Any]:
    """`ci95` and `ci95_per_class` of `compute`."""
    found = resampled(partial(_scores, columns), groups, bootstrap, MEANS)
    ci95 = {name: interval([scalars[name] for _, scalars in found]) for name in SCALARS}
    accuracy = [scalars["accuracy"] for _, scalars in found]
    if not ci95["accuracy"] and not np.isnan(accuracy).all():  # all images right, or one group
        ci95["accuracy"] = wilson(accuracy[0], len(np.unique(groups)))
    return {
        "ci95": ci95,
        "ci95_per_class": {
            name: {metric: interval([c[metric][i] for c, _ in found]) for metric in INTERVALS}
            for i, name in enumerate(columns.task.class_names)
        },
    }


def _optional(value: float) -> float | None:
    """Plain float, None for NaN."""
    return None if np.isnan(value) else float(value)


def _by_name(
    per_class: dict[str, np.ndarray], task: Task
) -> dict[str, dict[str, float | int | None]]:
    """Class name -> metric -> value."""
    table: dict[str, dict[str, float | int | None]] = {}
    for i, name in enumerate(task.class_names):
        table[name] = {metric: _optional(values[i]) for metric, values in per_class.items()}
        table[name]["support"] = int(per_class["support"][i])
    return table
