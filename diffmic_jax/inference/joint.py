"""How probable it is that all labels of an image are as they are, where there are several.

Labels may depend on each other beyond what the image says, and a diffusion over the label vector
can draw them together. With S samples p_s their joint probability is the mixture

    p(y) = (1 - u) prod_c r_c(y_c) + u mean_s prod_c q_sc(y_c),  q_s = (p_s + v pi) / (1 + v),

r the calibrated probabilities, of independent labels, and pi the prevalence of each class, without
which a few samples would exclude every combination that they do not contain. u and v are fitted by
the joint NLL on validation: where samples tell nothing of how labels go together, u is about 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy  # loads optimize when it is used: a prediction fits nothing
from jaxtyping import Float, Int
from scipy.special import expit, logsumexp

NLL_PROBABILITY_FLOOR = float(np.finfo(np.float32).eps)
"""Smallest probability whose logarithm the NLL takes: scikit-learn's for float32."""
_BOUNDS = ((-16.0, 3.0), (-12.0, 12.0))
"""Of log v and of the logit of u."""


class Weights(NamedTuple):
    """What was fitted."""

    prevalence: tuple[float, ...]
    """pi: share of the validation images that have each class."""
    joint: float
    """v."""
    drawn: float
    """u."""


def fit(
    independent: Float[np.ndarray, "n c"],
    samples: Float[np.ndarray, "n s c"],
    labels: Int[np.ndarray, "n c"],
) -> Weights:
    """The weights with the smallest joint NLL; arguments as in `log_likelihood`."""
    known = np.maximum((labels >= 0).sum(axis=0), 1)
    prevalence = tuple(((labels == 1).sum(axis=0) / known).tolist())

    def weighing(x: np.ndarray) -> Weights:
        return Weights(prevalence, math.exp(x[0]), float(expit(x[1])))

    def nll(x: np.ndarray) -> float:
        return float(-log_likelihood(weighing(x), independent, samples, labels).mean())

    # From samples that count for much and for little: each way there is a valley of its own.
    found = [
        scipy.optimize.minimize(nll, (start, 0.0), method="L-BFGS-B", bounds=_BOUNDS)
        for start in (-3.0, 3.0)
    ]
    return weighing(min(found, key=lambda each: float(each.fun)).x)


def log_likelihood(
    weights: Weights,
    independent: Float[np.ndarray, "n c"],
    samples: Float[np.ndarray, "n s c"],
    labels: Int[np.ndarray, "n c"],
) -> Float[np.ndarray, " n"]:
    """Log of the probability [N] that all known labels of an image are as they are.

    Args:
      weights: of the mixture.
      independent: [N, C] calibrated probabilities.
      samples: [N, S, C] probabilities of each sample.
      labels: [N, C] zeros, ones and `UNKNOWN`.
    """
    q = (samples + weights.joint * np.array(weights.prevalence)) / (1 + weights.joint)
    together = logsumexp(_of_outcome(q, labels), axis=1) - math.log(samples.shape[1])
    alone = _of_outcome(independent[:, None], labels)[:, 0]
    shares = np.array([[1 - weights.drawn], [weights.drawn]])
    found: np.ndarray = logsumexp(np.stack([alone, together]), axis=0, b=shares)
    return found


def _of_outcome(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log probability [N, S] of independent labels [N, C], from theirs [N, S, C]."""
    each = np.where(labels[:, None] == 1, p, 1 - p)
    each = np.where(labels[:, None] < 0, 1, each)
    log: np.ndarray = np.log(np.clip(each, NLL_PROBABILITY_FLOOR, 1)).sum(axis=2)
    return log
