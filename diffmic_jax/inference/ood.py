"""Whether an image looks like the training images, by the trunk's features of it.

The score of an image is the distance of its features, scaled to length 1, to the K-th nearest of
those of training images (Sun et al. 2022). Features of other pictures than those that were trained
on lie apart from these, whatever class the network finds the most probable. The threshold is a
conformal quantile of the scores of the validation images, which were not trained on: of new images
like these, at most `FALSE_ALARMS` are expected above it. With fewer than 19 validation images there
is no such number, and no detector.
"""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from diffmic_jax.data import npz
from diffmic_jax.data.files import write_bytes
from diffmic_jax.errors import InputError

FILE = "ood.npz"
NEIGHBOURS = 10
"""K; fewer where there are fewer training images."""
KEPT = 2000
"""Training images, at most, whose features are kept."""
FALSE_ALARMS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """What was fitted to the features under one checkpoint."""

    features: np.ndarray
    """[M, F] of training images, of length 1."""
    threshold: float
    """The largest score of an image that looks like them."""

    def scores(self, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
        """Distances [N], 0 to 2, from features [N, F] to the K-th nearest of the training's."""
        if features.shape[1] != self.features.shape[1]:
            raise InputError(f"{FILE}: is of another network; delete it and run main.py again")
        cosines = _unit(features) @ self.features.T
        k = min(NEIGHBOURS, len(self.features))
        nearest = np.partition(cosines, -k, axis=1)[:, -k]
        distances: np.ndarray = np.sqrt(np.maximum(2 - 2 * nearest, 0))
        return distances

    def is_familiar(self, features: Float[np.ndarray, "n f"]) -> Bool[np.ndarray, " n"]:
        """Whether images with features [N, F] look like the training images: [N]."""
        return self.scores(features) <= self.threshold


def fit(train: Float[np.ndarray, "m f"], validation: Float[np.ndarray, "n f"]) -> Detector | None:
    """A detector with the features of training images, and a threshold from validation images.

    Args:
      train: [M, F].
      validation: [N, F].

    Returns:
      None if the validation images are too few for a threshold.
    """
    rank = math.ceil((len(validation) + 1) * (1 - FALSE_ALARMS))
    if rank > len(validation):
        return None
    open_ended = Detector(features=_unit(train), threshold=math.inf)
    scores = np.sort(open_ended.scores(validation))
    return dataclasses.replace(open_ended, threshold=float(scores[rank - 1]))


def chosen(count: int) -> np.ndarray:
    """Positions of the training images, of so many, whose features are kept, in order."""
    if count <= KEPT:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, KEPT, replace=False))


def write(workdir: Path, detector: Detector, step: int) -> None:
    """Keep the detector for the checkpoint of a step.

    Raises:
      InputError: the file cannot be written.
    """
    content = io.BytesIO()
    half = detector.features.astype(np.float16)
    np.savez(content, features=half, threshold=detector.threshold, step=step)
    write_bytes(workdir / FILE, content.getvalue())


def read(workdir: Path, step: int) -> Detector | None:
    """The detector of a workdir that fits a checkpoint; None if there is none.

    Raises:
      InputError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        if int(npz.read_array(path, "step")) != step:
            return None
        features = np.asarray(npz.read_array(path, "features"), np.float32)
        threshold = float(npz.read_array(path, "threshold"))
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features of shape {features.shape}")
        return Detector(features=_unit(features), threshold=threshold)
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(
            f"{path}: is no detector ({error}); delete it and run main.py again"
        ) from error


def _unit(features: np.ndarray) -> np.ndarray:
    """Features [N, F] as float32 of length 1; zeros stay zeros."""
    wide = np.asarray(features, np.float32)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = wide / np.maximum(length, 1e-12)
    return unit
