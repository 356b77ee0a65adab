"""Calibration: temperature, prediction sets, thresholds; and the file of a run that keeps them.

From samples to probabilities. The denoiser is trained by squared error, so its estimate of y0 is
one of the mean of the label given image and guidance, and the mean of a one-hot label is the
probability of each class. One sample is a noisy estimate of it, the mean over S samples a better
one; its part outside of [0, 1] is noise and is clipped (`diffusion.readout.clip`).

Temperature (Guo et al. 2017) sharpens or softens these probabilities p by a number T:

    p_T = softmax(log q / T),  q = (p + w/C) / (1 + w);     multi-label: sigmoid(logit(q) / T)

It acts after the readout because there are no probabilities before it: y0_hat is no logit, and
scaling it would move it away from the label's mean. A mean of samples that was clipped at 0 is
exactly 0, which no temperature can change and no finite number of samples can justify. So the
uniform distribution is mixed in first, with weight w to one. T and w are fitted by the NLL on
validation; for the guidance prediction, whose softmax is never 0, w is fitted as about 0. The order
of the classes stays the same. A prior, log T ~ N(0, 1/2), counts as much as one image does, so that
a handful of images, all of them right, does not make T tiny. (Fitted without w, the NLL is
dominated by the few images whose class was clipped, and T depends on them alone.)

Split conformal prediction (Vovk et al. 2005; the score of Sadinle et al. 2019) gives each image a
set of classes that contains the true one with a chosen probability, the coverage. With the scores
1 - p_T(label) of n validation images and q the ceil((n + 1) coverage)-th smallest of them, a set
has every class of 1 - p_T <= q. The coverage is that of the average image of the distribution that
the validation images come from, not of any one class, and it is slightly optimistic here: the same
images chose the checkpoint and the temperature. A set may be empty: then every class is less
probable than the true one mostly is.

The file `calibration.json` belongs to one checkpoint and, for the diffusion, to one way of
sampling: with another number of samples, say, the probabilities are distributed differently. So it
is looked up by both, and probabilities are never calibrated by one that does not fit. Of the
sampling, the guidance prediction depends on the flips alone.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads optimize when it is used: a prediction fits nothing
from jaxtyping import Bool, Float, Int
from scipy.special import expit, log_softmax, logit, softmax

from diffmic_jax.config import Sampling
from diffmic_jax.data.files import believed, fits, read_json, write_json
from diffmic_jax.errors import InputError
from diffmic_jax.fields import as_json
from diffmic_jax.inference import joint
from diffmic_jax.inference.joint import NLL_PROBABILITY_FLOOR
from diffmic_jax.inference.predictions import Calibrated, Outputs
from diffmic_jax.method.task import Task

FILE = "calibration.json"
FIX = "delete it, and evaluate again"
LISTS = ("scores", "thresholds", "prevalence")
"""Fields of a `Calibration` with a number for each image or class."""
log = logging.getLogger("diffmic_jax")

COVERAGE = 0.9
"""Default share of the prediction sets that contain the true class."""
_BOUNDS = ((-4.0, 4.0), (-16.0, 0.0))
"""Of log T and log w: where every validation image is correct, the NLL sets T no lower bound."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted to the validation predictions of one classifier."""

    temperature: float
    """T."""
    uniform: float
    """w, weight of the uniform distribution to one of the classifier's."""
    scores: tuple[float, ...] = ()
    """Conformal scores of the validation images, ascending; none if multi-label."""
    multi_label: bool
    """The probabilities are of yes-or-no questions, one per class."""
    thresholds: tuple[float, ...] = ()
    """[C] if multi-label: the probability from which each class is predicted."""
    prevalence: tuple[float, ...] = ()
    """[C] if multi-label: share of the validation images that have each class."""
    joint: float = 0.0
    drawn: float = 1.0
    """If multi-label: the weights v and u of `joint`, where all labels of an image are scored
    together."""


class Calibrations(NamedTuple):
    """Of the two classifiers in a run; None where there is none that fits."""

    diffusion: Calibration | None = None
    guidance: Calibration | None = None

    @property
    def thresholds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of the classes, for the diffusion and for the guidance; empty without any."""
        first, second = (each.thresholds if each else () for each in self)
        return first, second


def fit(validation: Outputs, task: Task) -> Calibrations:
    """Calibrate both classifiers on the outputs for the validation part."""
    own = fit_one(validation.probabilities, validation.label, task)
    alone = fit_one(validation.guidance, validation.label, task)
    if task.multi_label:
        own = _fit_joint(own, validation.probabilities, validation.samples, validation.label)
        guidance = validation.guidance
        alone = _fit_joint(alone, guidance, guidance[:, None], validation.label)
    elif math.isinf(threshold(own, COVERAGE)):
        log.warning(
            "%d validation images are too few for prediction sets of %.0f%% coverage: every set "
            "has all classes; raise config.data.validation_fraction, or read no sets",
            *(len(validation.label), 100 * COVERAGE),
        )
    return Calibrations(own, alone)


def fit_one(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
) -> Calibration:
    """Fit T and w to validation predictions by their NLL, and keep the conformal scores.

    Args:
      probabilities: [N, C].
      labels: [N] class indices, or with several labels [N, C] multi-hot.
      task: what the classes are.
    """
    multi_label, known = task.multi_label, task.known(labels)

    def nll(logs: np.ndarray) -> float:
        temperature, uniform = np.exp(logs)
        prior = float(logs[0] ** 2) / len(labels)
        scaled = _logits(probabilities, uniform, multi_label) / temperature
        if multi_label:
            losses = np.logaddexp(0, np.where(labels == 1, -scaled, scaled))[known]
        else:
            losses = -of_label(log_softmax(scaled, axis=1), labels)
        return float(losses.mean()) + prior

    best = scipy.optimize.minimize(nll, (0.0, -3.0), method="L-BFGS-B", bounds=_BOUNDS).x
    temperature, uniform = np.exp(best).tolist()
    found = Calibration(temperature=temperature, uniform=uniform, multi_label=multi_label)
    if multi_label:
        columns = zip(probabilities.T, labels.T, known.T, strict=True)
        thresholds = tuple(best_threshold(p[k], y[k]) for p, y, k in columns)
        return dataclasses.replace(found, thresholds=thresholds)
    scores = np.sort(1 - of_label(tempered(found, probabilities), labels))
    return dataclasses.replace(found, scores=tuple(scores.tolist()))


def _fit_joint(
    fitted: Calibration,
    probabilities: Float[np.ndarray, "n c"],
    samples: Float[np.ndarray, "n s c"],
    labels: Int[np.ndarray, "n c"],
) -> Calibration:
    """The calibration with `prevalence`, `joint` and `drawn`."""
    found = joint.fit(tempered(fitted, probabilities), samples, labels)
    return dataclasses.replace(fitted, **found._asdict())


def joint_log_likelihood(
    fitted: Calibration,
    probabilities: Float[np.ndarray, "n c"],
    samples: Float[np.ndarray, "n s c"],
    labels: Int[np.ndarray, "n c"],
) -> Float[np.ndarray, " n"]:
    """Log of the probability [N] that all known labels of an image are as they are.

    Args:
      fitted: with several labels.
      probabilities: [N, C] as the classifier gives them.
      samples: [N, S, C] probabilities of each sample.
      labels: [N, C] zeros, ones and `UNKNOWN`.
    """
    weights = joint.Weights(fitted.prevalence, fitted.joint, fitted.drawn)
    return joint.log_likelihood(weights, tempered(fitted, probabilities), samples, labels)


def best_threshold(probabilities: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The probability from which a yes-or-no class is predicted with the largest F1.

    Half-way to the next smaller one, so that a prediction slightly below it is positive as well.
    0.5 where no image has the class.
    """
    if not np.any(labels):
        return 0.5
    values = np.unique(probabilities)
    predicted = probabilities >= values[:, None]
    hits = (predicted & (labels == 1)).sum(axis=1)
    best = int((2 * hits / (predicted.sum(axis=1) + np.sum(labels))).argmax())
    return float((values[best] + values[max(best - 1, 0)]) / 2)


def _logits(probabilities: np.ndarray, uniform: float, multi_label: bool) -> np.ndarray:
    """Logarithms [..., C] (multi-label: logits), with the uniform distribution mixed in."""
    p = np.asarray(probabilities, np.float64)
    flat = 0.5 if multi_label else 1 / p.shape[-1]
    floor = NLL_PROBABILITY_FLOOR
    p = np.clip((p + uniform * flat) / (1 + uniform), floor, 1 - floor)
    return logit(p) if multi_label else np.log(p)


def of_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The value of each image's true class: [N, C], [N] -> [N]."""
    return values[np.arange(len(labels)), labels]


def tempered(calibration: Calibration, probabilities: Float[np.ndarray, "*n c"]) -> np.ndarray:
    """The calibrated probabilities, [..., C]; rows sum to 1 unless multi-label."""
    logits = _logits(probabilities, calibration.uniform, calibration.multi_label)
    scaled = logits / calibration.temperature
    return expit(scaled) if calibration.multi_label else softmax(scaled, axis=-1)


def threshold(calibration: Calibration, coverage: float) -> float:
    """The largest conformal score of a class in a set; infinite if the images are too few."""
    rank = rank_of(len(calibration.scores), coverage)
    return calibration.scores[rank - 1] if rank <= len(calibration.scores) else math.inf


def rank_of(count: int, coverage: float) -> int:
    """Which of so many scores, from 1, is the largest in a set; above them if they are too few."""
    return math.ceil(round((count + 1) * coverage, 9))  # 100 * 0.55 is a little more than 55


def prediction_sets(
    calibration: Calibration, probabilities: Float[np.ndarray, "n c"], coverage: float
) -> Bool[np.ndarray, "n c"]:
    """Which classes are in the prediction set of each image.

    Args:
      calibration: of single labels.
      probabilities: [N, C] as the classifier gives them.
      coverage: 0..1, the share of the sets that are to contain the true class.
    """
    scores = 1 - tempered(calibration, probabilities)
    return scores <= threshold(calibration, coverage)


def apply(
    calibration: Calibration | None,
    probabilities: Float[np.ndarray, "n c"],
    coverage: float = COVERAGE,
) -> Calibrated | None:
    """Calibrated probabilities and prediction sets; None without a calibration.

    Arguments as in `prediction_sets`; with several labels there are no sets.
    """
    if calibration is None:
        return None
    multi_label = calibration.multi_label
    sets = None if multi_label else prediction_sets(calibration, probabilities, coverage)
    return Calibrated(tempered(calibration, probabilities), sets)


def write(workdir: Path, found: Calibrations, step: int, sampling: Sampling) -> None:
    """Keep what was fitted for the checkpoint of a step, sampled from in this way.

    Raises:
      InputError: the file cannot be written.
    """
    parts = {name: each and dataclasses.asdict(each) for name, each in found._asdict().items()}
    write_json(workdir / FILE, parts | {"step": step, "sampling": _as_json(sampling)})


def read(workdir: Path, step: int, sampling: Sampling) -> Calibrations:
    """The calibrations of a workdir that fit a checkpoint and a way of sampling.

    Raises:
      InputError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return Calibrations()
    with believed(path, FIX):
        stored = read_json(path)
        if stored["step"] != step:
            return Calibrations()
        same = stored["sampling"] == _as_json(sampling)
        same_copies = stored["sampling"]["flips"] == sampling.flips
        return Calibrations(
            of_json(stored["diffusion"]) if same else None,
            of_json(stored["guidance"]) if same_copies else None,
        )


def _as_json(sampling: Sampling) -> Any:
    return as_json(dataclasses.asdict(sampling))


def of_json(stored: Any) -> Calibration:
    """A calibration as a JSON file holds it.

    Raises:
      ValueError: it is none.
    """
    lists: dict[str, Any] = {name: [] for name in LISTS}
    whole = {"joint": 0.0, "drawn": 1.0} | lists | stored
    numbers = dict.fromkeys(("temperature", "uniform", "joint", "drawn"), (int, float))
    shape = {"multi_label": bool} | numbers | dict.fromkeys(LISTS, [(int, float), ...])
    if not fits(whole, shape) or whole["temperature"] <= 0 or min(map(whole.get, numbers)) < 0:
        raise ValueError("it does not hold a temperature and what belongs to it")
    return Calibration(**whole | {name: tuple(whole[name]) for name in LISTS})


def check(found: Calibrations, task: Task, path: Path) -> Calibrations:
    """Calibrations that are of a task, given back.

    Raises:
      InputError: they are of other classes.
    """
    for each in filter(None, found):
        per_class = {len(each.thresholds), len(each.prevalence)} - {0}
        if each.multi_label != task.multi_label or per_class - {task.num_classes}:
            raise InputError(f"{path}: is of other classes; {FIX}")
    return found
