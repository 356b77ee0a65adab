"""What a page shows of predictions: of a few images, or of an evaluation by its files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffmic_jax.config import Config
from diffmic_jax.data.files import believed, read_table
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.compare import read_predictions, read_rows, thresholds_of
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import Calibration
from diffmic_jax.inference.evaluated import read_scores
from diffmic_jax.inference.predictions import Outputs, sample_interval, vote_share
from diffmic_jax.method.task import Task

FILES = ("metrics.json", "predictions.csv", "uncertainty.csv")
"""Of an evaluation."""
BY_CLASS = ("per_class", "ci95_per_class", "operating_points")
"""Tables in `metrics.json`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions for N images."""

    task: Task
    ids: list[str]
    label: np.ndarray | None
    """[N] class indices, or with several labels [N, C] multi-hot; None where they are unknown."""
    prediction: Sequence[str]
    """Of each image, as `Task.name` writes it."""
    probabilities: np.ndarray
    """[N, C] of the diffusion."""
    guidance: np.ndarray
    """[N, C] of the guidance prediction."""
    vote: np.ndarray
    """[N, C] share of the samples that vote for each class."""
    low: np.ndarray
    """[N, C] 5th percentile of the samples."""
    high: np.ndarray
    """[N, C] 95th percentile of the samples."""
    sets: Sequence[str] | None
    """The prediction set of each image, as `Task.names_of` writes it; None without a calibration or
    with several labels."""


class Answer(NamedTuple):
    """What one classifier says of N images."""

    name: str
    """`diffusion`, `guidance` or `classifier`."""
    title: str
    probabilities: np.ndarray
    """[N, C]."""
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results(Predicted):
    """An evaluated part of a run's data, and the run's training log."""

    label: np.ndarray
    """[N] class indices, or with several labels [N, C] multi-hot."""
    scores: dict[str, Any]
    """`metrics.json`."""
    std: np.ndarray
    """[N] `sample_std` of `predictions.csv`."""
    calibrated: np.ndarray | None
    """[N, C] probabilities after temperature scaling; None without a calibration."""
    log: Sequence[Mapping[str, str]]
    """`metrics.csv`, a row per logged step."""
    resamples: int = 1000
    """Of a bootstrap."""
    diffuses: bool = True
    """There is a denoiser; without one the guidance is the classifier."""
    who: str = "diffusion"
    """What answers: `card.title_of`."""
    networks: int = 1
    """That answer together; what is shown of the inside of one is of the first."""
    tempering: str = ""
    """Of the answer itself, in words; empty without one."""
    held_out: str = "on the validation part"
    """Where temperatures were fitted, in words."""
    careful: bool = False
    """Prediction sets are from the answers of fewer networks than answer together."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """[C] with several labels, from which a class is predicted; else none."""
        return thresholds_of(self.scores, self.task.class_names)

    @property
    def right(self) -> np.ndarray:
        """[N] whether the predicted class, or each label that is known, is that of the image."""
        predicted = self.task.predicted(self.probabilities, self.thresholds)
        if not self.task.multi_label:
            return predicted == self.label
        return ((predicted == self.label) | ~self.task.known(self.label)).all(axis=1)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The diffusion's and its guidance's, or those of the classifier alone."""
        if not self.diffuses:
            return (Answer("classifier", "classifier", self.probabilities, self.scores),)
        return (
            Answer("diffusion", self.who, self.probabilities, self.scores),
            Answer("guidance", "guidance alone", self.guidance, self.scores["guidance"]),
        )


def data_name(config: Config) -> str:
    """What a data set is called: its name, or that of the folder or file of the user's images."""
    data = config.data
    return data.name if data.name != "images" else Path(data.root).resolve().stem


def predicted(
    ids: list[str],
    outputs: Outputs,
    task: Task,
    fitted: Calibration | None,
    coverage: float,
) -> Predicted:
    """What a page shows of images without labels.

    Args:
      ids: names of the N images.
      outputs: for the images.
      task: what the classes are.
      fitted: calibration of the diffusion, if there is one.
      coverage: of the prediction sets, 0..1.
    """
    low, high = sample_interval(outputs.samples)
    calibrated = calibration.apply(fitted, outputs.probabilities, coverage)
    sets = None if calibrated is None else calibrated.sets
    labels = task.predicted(outputs.probabilities, fitted.thresholds if fitted else ())
    return Predicted(
        task=task,
        ids=ids,
        label=None,
        prediction=[task.name(label) for label in labels],
        probabilities=outputs.probabilities,
        guidance=outputs.guidance,
        vote=vote_share(outputs.samples, task),
        low=low,
        high=high,
        sets=None if sets is None else [task.names_of(members) for members in sets],
    )


def read_results(
    workdir: Path, split: str, resamples: int = 1000, home: Path | None = None
) -> Results:
    """Read the files of an evaluation.

    Args:
      workdir: the folder of the run, or of the network whose training is shown.
      split: the part of the data.
      resamples: of a bootstrap.
      home: the folder with its evaluation; default the workdir.

    Raises:
      InputError: a file is missing or empty.
    """
    folder = (home or workdir) / "eval" / split
    with believed(folder, "evaluate again"):
        return _read_results(workdir, folder, resamples)


def _read_results(workdir: Path, folder: Path, resamples: int) -> Results:
    scores, predictions, uncertainty = (folder / name for name in FILES)
    found = read_predictions(predictions)
    rows, uncertain = read_rows(predictions), read_rows(uncertainty)
    names, measured = found.task.class_names, read_scores(scores)
    for values, kind in itertools.product((measured, measured["guidance"]), BY_CLASS):
        if values[kind].keys() != set(names):
            raise InputError(f"{scores}: of other classes than {predictions}; evaluate again")

    def columns(kind: str) -> np.ndarray:
        return np.array([[float(row[f"{kind}_{name}"]) for name in names] for row in uncertain])

    return Results(
        task=found.task,
        ids=found.ids,
        label=found.label,
        prediction=[row["prediction"] for row in rows],
        probabilities=found.probabilities,
        guidance=columns("guidance"),
        vote=columns("vote"),
        low=columns("low"),
        high=columns("high"),
        sets=[row["set"] for row in uncertain] if "set" in uncertain[0] else None,
        scores=measured,
        std=np.array([float(row["sample_std"]) for row in rows]),
        calibrated=columns("calibrated") if f"calibrated_{names[0]}" in uncertain[0] else None,
        log=_log(workdir / "metrics.csv"),
        resamples=resamples,
    )


def _log(path: Path) -> list[dict[str, str]]:
    """The rows of the training log; none for a run that was converted, not trained."""
    if not path.exists():
        return []
    return read_table(path, "step", "phase")
