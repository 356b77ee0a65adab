"""Whether an image looks like the training images, by what the trunk sees of it on finer grids.

The score of an image is the distance of its features to the K-th nearest of those of training
images (after Sun et al. 2022), each feature on the scale of the training images. The features are
means over the trunk's grids but the last. That one has learned to see nothing but the classes:
there noise, a black image or a photograph lie among the training images. The threshold is a
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
FARTHEST = 10.0
"""Standard deviations from the mean: beyond, a feature counts no more, so that one that hardly
changed in training does not decide alone."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """What was fitted to the features under one checkpoint."""

    features: np.ndarray
    """[M, F] of training images, on their scale."""
    centre: np.ndarray
    """[F] their mean."""
    scale: np.ndarray
    """[F] their standard deviation."""
    threshold: float
    """The largest score of an image that looks like them."""

    def scores(self, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
        """Distances [N] from features [N, F] to the K-th nearest of the training's.

        The root of the mean squared difference of a feature, in its standard deviations.
        """
        if features.shape[1] != len(self.centre):
            raise InputError(f"{FILE}: is of another network; delete it and run main.py again")
        new = _scaled(features, self.centre, self.scale)
        far, near = (np.square(each).sum(axis=1) for each in (new, self.features))
        distances = far[:, None] + near - 2 * new @ self.features.T
        k = min(NEIGHBOURS, len(self.features))
        nearest = np.partition(distances, k - 1, axis=1)[:, k - 1]
        found: np.ndarray = np.sqrt(np.maximum(nearest, 0) / new.shape[1])
        return found

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
    wide = np.asarray(train, np.float32)
    centre, scale = wide.mean(axis=0), wide.std(axis=0)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # of one that is constant
    features = _scaled(train, centre, scale)
    open_ended = Detector(features=features, centre=centre, scale=scale, threshold=math.inf)
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
    arrays = dataclasses.asdict(detector)
    arrays["features"] = detector.features.astype(np.float16)
    np.savez(content, **arrays, step=step)
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
        features, centre, scale = (
            np.asarray(npz.read_array(path, name), np.float32)
            for name in ("features", "centre", "scale")
        )
        if not len(features) or not features.shape[1:] == centre.shape == scale.shape:
            raise ValueError(f"features of shape {features.shape}, centre of {centre.shape}")
        threshold = float(npz.read_array(path, "threshold"))
        return Detector(features=features, centre=centre, scale=scale, threshold=threshold)
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(
            f"{path}: is no detector ({error}); delete it and run main.py again"
        ) from error


def _scaled(features: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Features [N, F] as float32, less the centre, in standard deviations up to `FARTHEST`."""
    with np.errstate(over="ignore"):
        found = (np.asarray(features, np.float32) - centre) / scale
    return np.clip(found, -FARTHEST, FARTHEST)
