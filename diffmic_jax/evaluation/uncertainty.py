"""How sure an answer is: agreement of the draws, temperature, conformal prediction sets.

How a draw becomes a probability. The denoiser is trained by squared error, so what it recovers of
y0 estimates the mean of the label given image and guidance, and the mean of a one-hot label is
its class's probability. One draw is a noisy guess of it, and the mean over S draws a better one;
what of it lies outside of [0, 1] is noise and is cut off (`recipe.clip_readout`).

Temperature (Guo et al. 2017) sharpens or softens the read-out probabilities p by a number T:

    p_T = softmax(log q / T),  q = (p + w/C) / (1 + w);     multi-label: sigmoid(logit(q) / T)

It acts after the readout because that is the only place with a probability: y0_hat is no logit,
and scaling it would move it away from the label's mean. A mean of draws that was cut off at 0 can
be exactly 0, which no temperature could mend and no finite number of draws can prove. So a share of
the answer that knows nothing is mixed in first, w parts to one. T and w are fitted by the NLL on
validation; for the guidance, whose softmax is never 0, w comes out as about 0. The order of the
classes stays the same. (Fitted without w, the NLL is ruled by the few images whose class was cut
off, and T by them alone.)

Split conformal prediction (Vovk et al. 2005; the score of Sadinle et al. 2019) gives each image a
set of classes that holds the true one with a chosen probability. With the scores 1 - p_T(label) of
n validation images and q the ceil((n + 1) coverage)-th smallest of them, a set has every class of
1 - p_T <= q. The promise is about the average image from where the validation images come from,
not about any one class, and it is a little optimistic here: the same images chose the checkpoint
and the temperature. A set may be empty: then no class is as likely as the true one mostly is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import binom

from diffmic_jax.evaluation.metrics import NLL_FLOOR, compute

COVERAGE = 0.9
"""Share of prediction sets that are to hold the true class, unless told otherwise."""
_BOUNDS = ((-4.0, 4.0), (-16.0, 0.0))
"""Of log T and log w: where every validation image is right, no temperature would be too low."""


@dataclass(frozen=True)
class Calibration:
    """What was learned from the validation answers of one classifier."""

    temperature: float
    uniform: float
    """w, parts of the answer that knows nothing to one of the classifier's."""
    scores: tuple[float, ...]
    """Conformal scores of the validation images, ascending; none if multi-label."""
    multi_label: bool
    thresholds: tuple[float, ...] = ()
    """Of each class, if multi-label: the probability from which it is predicted."""


def fit(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
) -> Calibration:
    """Fit T and w on validation answers by their NLL, and note the conformal scores.

    Args:
      probabilities: [N, C].
      labels: [N] class indices, or [N, C] multi-hot.
    """
    multi_label = labels.ndim == 2

    def nll(logs: np.ndarray) -> float:
        temperature, uniform = np.exp(logs)
        scaled = _logits(probabilities, uniform, multi_label) / temperature
        if multi_label:
            return float(np.logaddexp(0, np.where(labels == 1, -scaled, scaled)).mean())
        return float(-_of_label(log_softmax(scaled, axis=1), labels).mean())

    best = minimize(nll, (0.0, -3.0), method="L-BFGS-B", bounds=_BOUNDS).x
    temperature, uniform = np.exp(best).tolist()
    calibration = Calibration(temperature, uniform, (), multi_label)
    if multi_label:
        pairs = zip(probabilities.T, labels.T, strict=True)
        return replace(calibration, thresholds=tuple(best_threshold(p, y) for p, y in pairs))
    scores = np.sort(1 - _of_label(tempered(calibration, probabilities), labels))
    return replace(calibration, scores=tuple(scores.tolist()))


def best_threshold(probabilities: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The probability from which a yes-or-no class is predicted with the largest F1.

    Half-way to the next smaller one, so that an answer a little below is still in. 0.5 where no
    image has the class.
    """
    if not np.any(labels):
        return 0.5
    values = np.unique(probabilities)
    predicted = probabilities >= values[:, None]
    hits = (predicted & (labels == 1)).sum(axis=1)
    best = int((2 * hits / (predicted.sum(axis=1) + np.sum(labels))).argmax())
    return float((values[best] + values[max(best - 1, 0)]) / 2)


def _logits(probabilities: np.ndarray, uniform: float, multi_label: bool) -> np.ndarray:
    """Logarithms [N, C] (multi-label: logits), with the answer that knows nothing mixed in."""
    p = np.asarray(probabilities, np.float64)
    nothing = 0.5 if multi_label else 1 / p.shape[1]
    p = np.clip((p + uniform * nothing) / (1 + uniform), NLL_FLOOR, 1 - NLL_FLOOR)
    return logit(p) if multi_label else np.log(p)


def _of_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[N, C], [N] -> [N]."""
    return values[np.arange(len(labels)), labels]


def tempered(calibration: Calibration, probabilities: Float[np.ndarray, "n c"]) -> np.ndarray:
    """The calibrated probabilities, [N, C]; rows sum to 1 unless multi-label."""
    logits = _logits(probabilities, calibration.uniform, calibration.multi_label)
    scaled = logits / calibration.temperature
    return expit(scaled) if calibration.multi_label else softmax(scaled, axis=1)


def threshold(calibration: Calibration, coverage: float) -> float:
    """The largest conformal score of a class in a set; infinite if the images are too few."""
    rank = math.ceil((len(calibration.scores) + 1) * coverage)
    return calibration.scores[rank - 1] if rank <= len(calibration.scores) else math.inf


def prediction_sets(
    calibration: Calibration, probabilities: Float[np.ndarray, "n c"], coverage: float
) -> Bool[np.ndarray, "n c"]:
    """Which classes are in the prediction set of each image.

    Args:
      calibration: of single labels.
      probabilities: [N, C] as the classifier gives them.
      coverage: 0..1, the share of sets that are to hold the true class.
    """
    scores = 1 - tempered(calibration, probabilities)
    return scores <= threshold(calibration, coverage)


def assess(
    calibration: Calibration | None,
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    coverage: float = COVERAGE,
) -> dict[str, Any] | None:
    """What calibration does to the answers of a split; None without a calibration.

    Returns:
      `temperature`, `uniform`, their `nll`, `brier` and `ece`, and for single labels `conformal`:
      the `target` and the reached `coverage`, the interval `expected` in which 95% of splits of
      this size would reach it, the mean `set_size` and the share of `empty` sets.
    """
    if calibration is None:
        return None
    names = [str(c) for c in range(probabilities.shape[1])]
    scores = compute(tempered(calibration, probabilities), labels, names, bootstrap=0)
    found: dict[str, Any] = {name: scores[name] for name in ("nll", "brier", "ece")}
    found |= {"temperature": calibration.temperature, "uniform": calibration.uniform}
    found["conformal"] = (
        None if labels.ndim == 2 else _coverage(calibration, probabilities, labels, coverage)
    )
    return found


def _coverage(
    calibration: Calibration, probabilities: np.ndarray, labels: np.ndarray, coverage: float
) -> dict[str, Any]:
    sets = prediction_sets(calibration, probabilities, coverage)
    low, high = binom.interval(0.95, len(labels), coverage)
    return {
        "target": coverage,
        "coverage": float(_of_label(sets, labels).mean()),
        "expected": [low / len(labels), high / len(labels)],
        "set_size": float(sets.sum(axis=1).mean()),
        "empty": float((sets.sum(axis=1) == 0).mean()),
    }


def vote_share(draws: Float[np.ndarray, "n s c"], multi_label: bool = False) -> np.ndarray:
    """[N, C] share of the draws that are for a class.

    A draw is for its most probable class, in equal parts if there are several; multi-label: for
    every class of p >= 0.5.
    """
    if multi_label:
        return (draws >= 0.5).mean(axis=1)
    best = draws == draws.max(axis=2, keepdims=True)
    return (best / best.sum(axis=2, keepdims=True)).mean(axis=1)


def draw_interval(
    draws: Float[np.ndarray, "n s c"], level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """The middle `level` of the draws: low and high [N, C]. It tells of the sampler's noise alone.

    Averaging narrows what remains in the mean of S draws to about 1/sqrt(S) of it.
    """
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=1)
    return low, high
