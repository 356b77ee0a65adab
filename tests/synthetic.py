"""Predictions of a made-up classifier whose calibration is known."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax


def classifier(n: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 4] and labels that follow them; a sharpness of 1 is calibrated."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return softmax(sharpness * logits, axis=1), np.minimum(labels, 3)
