"""How good predicted probabilities are, with bootstrap confidence intervals.

Every metric but the AUROC is a function of weighted sums over the images of a few numbers per
image, and a bootstrap resample is nothing but a vector of image weights. So each metric is
written once, for weighted images: weights of one give the value itself, resampled weights its
confidence interval.

Definitions, for N images and C classes (scikit-learn's where it has one):

- prediction: the most probable class, the first one on ties.
- F1 = 2 TP / (labels + predictions); the macro mean leaves out a class with neither.
- balanced accuracy: mean recall of the classes that occur.
- AUROC: one class against the rest; the macro mean leaves out a class that no image, or every
  image, belongs to.
- quadratic kappa: 1 - sum O_ij (i-j)^2 / sum E_ij (i-j)^2 over all C classes, whether or not they
  occur, O the confusion matrix and E the product of its margins (Cohen 1968).
- NLL: mean -log p of the label, p no smaller than `NLL_FLOOR`.
- Brier score: squared distance between the probabilities and the one-hot label, summed over the
  classes (Brier 1950).
- sensitivity at a fixed specificity: of one class against the rest, at the lowest threshold that
  at least that share of the other images stay below (read off the ROC curve of the same images).
- ECE: mean over images of |accuracy - confidence| in 15 equal bins of the top probability (Guo et
  al. 2017).

Multi-label rows are C yes-or-no questions each: predicted where p >= 0.5 (or a threshold of
the class's own, from validation), NLL and Brier averaged
over the questions, and the bins of the ECE are over p of every question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from diffmic_jax.errors import InputError

NLL_FLOOR = float(np.finfo(np.float32).eps)
"""Smallest probability the NLL takes the logarithm of: what scikit-learn uses for float32."""
ECE_BINS = 15
SCALARS = (
    "accuracy",
    "f1_macro",
    "balanced_accuracy",
    "auroc_macro",
    "kappa_quadratic",
    "nll",
    "brier",
    "ece",
)
SPECIFICITIES = (0.8, 0.9, 0.95)
"""Operating points: where the sensitivity of each class is told."""
OPERATING_POINTS = tuple(f"sensitivity_at_{level:.2f}" for level in SPECIFICITIES)
INTERVALS = ("precision", "recall", "f1", "auroc", *OPERATING_POINTS)
"""Of a class, what intervals are given for."""
SINGLE_LABEL_ONLY = ("accuracy", "balanced_accuracy", "kappa_quadratic")


class _Columns(NamedTuple):
    """What the metrics sum over the images."""

    actual: np.ndarray
    """[N, C] 1 where the image belongs to the class."""
    predicted: np.ndarray
    """[N, C] 1 where it was predicted."""
    losses: np.ndarray
    """[N, 3] NLL, Brier score, squared distance between predicted and true class index."""
    gaps: np.ndarray
    """[N, 15] confidence minus outcome, in the bin of the confidence."""
    ranks: np.ndarray
    """[C, N] 2 * rank of the class's probability + actual, for the AUROC."""
    single_label: bool


def compute(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    class_names: Sequence[str],
    *,
    groups: Shaped[np.ndarray, " n"] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """All metrics of a split, ready for JSON: undefined values are None, never NaN.

    Args:
      probabilities: [N, C]; rows sum to 1 unless multi-label.
      labels: [N] class indices, or [N, C] multi-hot.
      class_names: the C names, in label order.
      groups: [N] what is resampled as a whole (lesion, patient); None: every image by itself.
      bootstrap: number of resamples behind `ci95`; 0 leaves the intervals None.
      seed: of the resamples; the same seed gives the same numbers.
      thresholds: multi-label, of each class: the probability from which it is predicted; default
        0.5.

    Returns:
      n, each of `SCALARS`, per_class (name -> precision, recall, f1, auroc, support and,
      multi-label, the threshold),
      operating_points (name -> 'sensitivity_at_0.90' and so on), confusion ([C][C] counts, rows
      are the true classes), ci95 (metric -> [low, high], the 2.5th and 97.5th percentile over the
      resamples in which the metric is defined) and ci95_per_class (the same for each class, with
      its operating points).

    Raises:
      InputError: no image, a label outside the classes, or a probability that is not a number.
      ValueError: shapes that do not belong together.
    """
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    _check(probabilities, labels, class_names)
    columns = _columns(probabilities, labels, thresholds)
    per_class, scalars = _scores(columns, np.ones(len(labels)))
    if groups is None:
        groups = np.arange(len(labels))
    samples = [_scores(columns, w) for w in resample_weights(groups, bootstrap, seed)]
    points = {name: per_class.pop(name) for name in OPERATING_POINTS}
    if not columns.single_label:
        per_class["threshold"] = np.broadcast_to(thresholds or 0.5, len(class_names))
    return {
        "n": len(labels),
        **{name: _optional(scalars[name]) for name in SCALARS},
        "per_class": _by_name(per_class, class_names),
        "operating_points": {
            name: {point: _optional(values[i]) for point, values in points.items()}
            for i, name in enumerate(class_names)
        },
        "confusion": _confusion(columns) if columns.single_label else None,
        "ci95": {name: _interval([s[name] for _, s in samples]) for name in SCALARS},
        "ci95_per_class": {
            name: {metric: _interval([c[metric][i] for c, _ in samples]) for metric in INTERVALS}
            for i, name in enumerate(class_names)
        },
    }


def resampled(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int,
    seed: int = 0,
    thresholds: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """Each of `SCALARS` over the resamples [bootstrap], NaN where undefined.

    Equal groups and seed give equal resamples, so two classifiers of the same images can be
    compared resample by resample. Arguments as in `compute`.
    """
    columns = _columns(np.asarray(probabilities, np.float64), labels, thresholds)
    samples = [_scores(columns, w)[1] for w in resample_weights(groups, bootstrap, seed)]
    return {name: np.array([s[name] for s in samples]) for name in SCALARS}


def _check(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    n, c = len(labels), len(class_names)
    if probabilities.shape != (n, c) or labels.shape not in ((n,), (n, c)):
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} do not belong to "
            f"the {c} classes"
        )
    if n == 0:
        raise InputError("metrics: the split has no image; choose a split that has some")
    top = c - 1 if labels.ndim == 1 else 1
    if labels.min() < 0 or labels.max() > top:
        raise InputError(
            f"metrics: labels run from {labels.min()} to {labels.max()}; they must be in 0..{top}"
        )
    if not np.isfinite(probabilities).all():
        row = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0]
        raise InputError(
            f"metrics: the probabilities of image {row} are not numbers; use another checkpoint"
        )


def _columns(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] = ()
) -> _Columns:
    """Everything that does not depend on the weights, once."""
    single = labels.ndim == 1
    actual = np.eye(probabilities.shape[1])[labels] if single else labels.astype(np.float64)
    if single:
        top = probabilities.argmax(axis=1)
        predicted = np.eye(probabilities.shape[1])[top]
        confidence, outcome = probabilities.max(axis=1)[:, None], (top == labels)[:, None]
        distance = np.square(top - labels)
    else:
        predicted = (probabilities >= (thresholds or 0.5)).astype(np.float64)
        confidence, outcome = probabilities, actual
        distance = np.zeros(len(labels))
    return _Columns(
        actual=actual,
        predicted=predicted,
        losses=np.stack([*_losses(probabilities, actual, single), distance], axis=1),
        gaps=_gaps(confidence, outcome),
        ranks=_ranks(probabilities, actual),
        single_label=single,
    )


def _losses(
    probabilities: np.ndarray, actual: np.ndarray, single: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[N] NLL and [N] Brier score of each image."""
    brier = np.square(probabilities - actual)
    if single:
        of_label = (probabilities * actual).sum(axis=1)
        return -np.log(np.clip(of_label, NLL_FLOOR, 1)), brier.sum(axis=1)
    of_outcome = np.where(actual == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(of_outcome, NLL_FLOOR, 1)).mean(axis=1), brier.mean(axis=1)


def _gaps(confidence: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """[N, Q] statements with a confidence and an outcome -> [N, bins], the mean over Q."""
    # Bins are open below and closed above, so that certainty falls into the last one.
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.zeros((len(confidence), ECE_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(gaps, (rows, bins), (confidence - outcome) / confidence.shape[1])
    return gaps


def _ranks(probabilities: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """[C, N] 2 * rank + actual, ranks from 0 and equal for equal probabilities."""
    ranks = [np.unique(column, return_inverse=True)[1] for column in probabilities.T]
    return 2 * np.stack(ranks) + actual.T.astype(np.int64)


def resample_weights(groups: np.ndarray, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [N]: how often each image's group was drawn, with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(bootstrap):
        drawn = rng.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names))[member].astype(np.float64)


def _scores(
    columns: _Columns, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Metrics per class ([C] each) and over all classes, of weighted images; NaN if undefined."""
    total = weights.sum()
    support = _weighted_sum(weights, columns.actual)
    predictions = _weighted_sum(weights, columns.predicted)
    hits = _weighted_sum(weights, columns.actual * columns.predicted)
    nll, brier, distance = _weighted_sum(weights, columns.losses)
    per_class = {
        "precision": _ratio(hits, predictions),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predictions),
        **_threshold_free(columns.ranks, weights),
        "support": support,
    }
    scalars = {
        "accuracy": hits.sum() / total,
        "f1_macro": _mean_defined(per_class["f1"]),
        "balanced_accuracy": _mean_defined(per_class["recall"]),
        "auroc_macro": _mean_defined(per_class["auroc"]),
        "kappa_quadratic": _kappa(distance, support, predictions),
        "nll": nll / total,
        "brier": brier / total,
        "ece": np.abs(_weighted_sum(weights, columns.gaps)).sum() / total,
    }
    if not columns.single_label:
        scalars.update(dict.fromkeys(SINGLE_LABEL_ONLY, np.nan))
    return per_class, scalars


def _weighted_sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N], [N, M] -> [M]. Not a matrix product: its rounding depends on the number of threads."""
    return np.einsum("n,nm->m", weights, values)


def _threshold_free(ranks: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC and sensitivities [C] from the ranks [C, N], NaN if undefined."""
    rows = [_of_ranks(own, weights) for own in ranks]
    return {
        name: np.array(values)
        for name, values in zip(("auroc", *OPERATING_POINTS), zip(*rows, strict=True), strict=True)
    }


def _of_ranks(ranks: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """AUROC (a positive image outranks a negative one, ties counting half), and sensitivities."""
    counts = np.bincount(ranks, weights, minlength=2 * (ranks.max() // 2 + 1))
    negative, positive = counts.reshape(-1, 2).T
    negatives, positives = negative.sum(), positive.sum()
    if not negatives * positives:
        return (np.nan,) * (1 + len(SPECIFICITIES))
    up_to = np.cumsum(negative)
    auroc = (positive * (up_to - negative / 2)).sum() / (positives * negatives)
    # Called positive is what ranks higher; weights are whole numbers, so the product may round.
    last = np.searchsorted(up_to, np.array(SPECIFICITIES) * negatives * (1 - 1e-12))
    return (auroc, *(1 - np.cumsum(positive)[last] / positives))


def _kappa(distance: float, support: np.ndarray, predictions: np.ndarray) -> float:
    """Quadratic kappa from the summed squared distances and the margins [C]."""
    classes = np.arange(len(support))
    chance = support @ np.square(classes[:, None] - classes) @ predictions / support.sum()
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


def _interval(samples: list[float]) -> list[float] | None:
    """The middle 95% of the resamples in which the metric is defined."""
    defined = [s for s in samples if not np.isnan(s)]
    return np.percentile(defined, [2.5, 97.5]).tolist() if defined else None


def _optional(value: float) -> float | None:
    """Plain float, None for NaN."""
    return None if np.isnan(value) else float(value)


def _by_name(
    per_class: dict[str, np.ndarray], class_names: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    """Class name -> metric -> value."""
    table: dict[str, dict[str, float | int | None]] = {}
    for i, name in enumerate(class_names):
        table[name] = {metric: _optional(values[i]) for metric, values in per_class.items()}
        table[name]["support"] = int(per_class["support"][i])
    return table
