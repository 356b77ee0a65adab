"""The public API: train or load a classifier, and use it.

    import diffmic_jax
    clf = diffmic_jax.fit("photos", config="default:v2")
    clf = diffmic_jax.load("runs/mine")
    clf.predict(["a.png", "b.dcm"]).labels

Every command is one of these functions or a method of `Classifier`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax import configfile, extras, fitting
from diffmic_jax.config import Config
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.data.recognise import data_fields
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.evaluation.run import calibrate
from diffmic_jax.evaluation.run import evaluate as evaluate_model
from diffmic_jax.fields import flatten
from diffmic_jax.inference import exported
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.classify import (
    Predictions,
    by_name,
    classify,
    classify_exported,
    predictions,
)
from diffmic_jax.inference.ensemble import Ensemble
from diffmic_jax.inference.export import export_model
from diffmic_jax.inference.exported import Exported
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.load import load as load_model
from diffmic_jax.planning.plan import Plan
from diffmic_jax.training.content import check_split
from diffmic_jax.training.owner import owned
from diffmic_jax.training.workdir import check_workdir

MINUTES = 30.0
"""Of a fit for which none are named."""
Images = Sequence[str | Path | np.ndarray]
"""Files (PNG, JPEG, DICOM, ...), folders, patterns, or arrays uint8 [H, W, 3] or [H, W]."""


class Classifier:
    """A trained run, ready to classify, evaluate, report and export."""

    def __init__(self, model: Model) -> None:
        """Use `load` or `fit`."""
        self._model = model

    @property
    def workdir(self) -> Path:
        """The folder of the run."""
        return self._model.workdir

    @property
    def config(self) -> Config:
        """What the run was trained with."""
        return self._model.config

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in label order."""
        return self._model.task.class_names

    def predict(
        self, images: Images | str | Path | np.ndarray, *, coverage: float = COVERAGE
    ) -> Predictions:
        """Classify images.

        An image gets the same result wherever it stands.

        Args:
          images: one or several: files, folders of images, patterns such as `scans/*.dcm`, or
            arrays uint8 [H, W, 3] or [H, W].
          coverage: of the prediction sets, 0 to 1.

        Raises:
          InputError: an image cannot be used; the message names it.
        """
        found = classify(self._model, by_name(images))
        return predictions(self._model, found, coverage)

    def evaluate(
        self,
        split: str = "test",
        *,
        folder: str | Path | None = None,
        root: str | Path | None = None,
        coverage: float = COVERAGE,
    ) -> Evaluation:
        """Measure the classifier on a part of its data set.

        Args:
          split: `train`, `validation`, `test` or `test_clean`.
          folder: where metrics.json, predictions.csv and uncertainty.csv go; default
            `eval/<split>` in the workdir, or in a folder of its own in there where the sampling is
            another one than the run's.
          root: where the data is now, if it has moved.
          coverage: of the prediction sets, 0 to 1.

        Raises:
          InputError: the data has no such part, is gone or has changed.
        """
        place = None if folder is None else Path(folder)
        dataset = self.dataset(root)
        with owned(self.workdir) if place is None else contextlib.nullcontext():
            return evaluate_model(self._model, dataset, split, folder=place, coverage=coverage)

    def report(
        self,
        out: str | Path | None = None,
        *,
        split: str = "test",
        root: str | Path | None = None,
    ) -> Path:
        """Write what there is to see of the run into one HTML file, which needs no network.

        Args:
          out: the file; default `report.html` in the workdir.
          split: the part of the data that it is about.
          root: where the data is now, if it has moved.

        Returns:
          The file.

        Raises:
          InputError: there is no such part, or the data is gone or has changed.
        """
        with extras.requires("report", "report"):
            from diffmic_jax.report.build import write_report  # heavy, and an extra
        path = Path(out) if out else self._model.home / "report.html"
        write_report(self._model, self.dataset(root), path, split)
        return path

    def export(self, out: str | Path, *, batch_size: int | None = None) -> Path:
        """Write the classifier as one program for CPU, CUDA and TPU, weights included.

        Args:
          out: the file; a description and a page lie beside it.
          batch_size: of every call; None leaves it open.

        Returns:
          The file.
        """
        export_model(self._model, Path(out), batch_size=batch_size)
        return Path(out)

    def dataset(self, root: str | Path | None = None) -> Dataset:
        """The data set that the run was trained on; `root` says where it is now, if it has moved.

        Raises:
          InputError: the data is gone.
        """
        config = self.config
        return open_dataset(config.changed({"data.root": str(root)}) if root else config)


class ExportedClassifier:
    """A classifier in a file that `export` wrote: it predicts, and has no data set."""

    def __init__(self, program: Exported) -> None:
        """Use `load`."""
        self._program = program

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in label order."""
        return self._program.class_names

    def predict(self, images: Images | str | Path | np.ndarray) -> Predictions:
        """Classify images, as `Classifier.predict` does; there are no prediction sets.

        Raises:
          InputError: an image cannot be used; the message names it.
        """
        return classify_exported(self._program, by_name(images))


def fit(
    data: str | Path | None = None,
    *,
    minutes: float | None = None,
    config: str | Config | None = None,
    workdir: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Classifier:
    """Train on a data set, evaluate on its test part, and return the classifier.

    Without a configuration everything is decided by documented rules (docs/fit.md) from the data,
    this machine and the minutes; the decisions and their reasons are in `plan.json` of the workdir.
    A run that was stopped goes on where it was; a finished one is only evaluated.

    Args:
      data: a folder of images (one folder per class, or with a CSV), a CSV of labels, or the name
        of a data set; None: what the configuration names.
      minutes: until the results are there, on this machine; None: `MINUTES`, or with a
        configuration its epochs.
      config: NAME or FILE, with :RECIPE behind it or not, or a complete `Config`; None: the rules.
      workdir: where the run lives; default `runs/NAME`.
      changes: fields to other values, as `{"train.epochs": 20}`.

    Raises:
      InputError: the data or the configuration cannot work.
    """
    given = (data_fields(data) if data is not None else {}) | dict(changes or {})
    if config is None:
        place = Path(workdir).expanduser() if workdir else default_workdir(data)
        return Classifier(fitting.fit(plan(data, minutes=minutes, changes=changes), place))
    spec = config if isinstance(config, str) else "run"
    chosen = configfile.load(config) if isinstance(config, str) else config
    place = Path(workdir).expanduser() if workdir else configfile.default_workdir(spec)
    train(chosen.changed(given), place, minutes)
    return Classifier(load_model(place))


def plan(
    data: str | Path | None,
    *,
    minutes: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """What `fit` would do with a data set, and why. Arguments and errors are those of `fit`."""
    if data is None:
        raise InputError("fit: name a folder, a CSV or a data set")
    return fitting.make_plan(
        data_fields(data) | dict(changes or {}), MINUTES if minutes is None else minutes
    )


def default_workdir(data: str | Path | None) -> Path:
    """runs/photos for a folder `photos`, or a table in it."""
    path = Path(data or "run").absolute()
    return Path("runs") / (path.parent.name if path.is_file() else path.name)


def load(path: str | Path) -> Classifier | ExportedClassifier:
    """A trained classifier.

    Args:
      path: the workdir of a run, or a file that `export` wrote.

    Raises:
      InputError: there is neither a checkpoint nor an exported classifier.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return ExportedClassifier(_program(place))
    return Classifier(load_model(place))


def _program(file: Path) -> Exported:
    """An exported program.

    Raises:
      InputError: as `exported.load`, whose error is its own since it stands alone.
    """
    try:
        return exported.load(file)
    except exported.ExportedError as error:
        raise InputError(str(error)) from error


def train(config: Config, workdir: Path, minutes: float | None = None) -> Evaluation:
    """Train, or go on training, then evaluate the best checkpoint on the test part.

    Args:
      config: what to train.
      workdir: where.
      minutes: of training and evaluation on this machine, which choose `train.epochs`.

    Raises:
      InputError: the configuration, the data or the workdir cannot work.
    """
    model, dataset = fitting.train(config, workdir, minutes)
    with owned(workdir):
        calibrate(model, dataset)
        return evaluate_model(model, dataset)


def evaluate(config: Config, workdir: Path, *, folder: Path | None = None) -> Evaluation:
    """Evaluate the best checkpoint of a run on the test part.

    Args:
      config: the run's, perhaps with another sampling.
      workdir: the run's folder.
      folder: where the results go; default `eval/test` in the workdir.

    Raises:
      InputError: the run is another one, or the data has changed.
    """
    if folder is None:  # elsewhere the results may be of another sampling
        check_workdir(workdir, config)
    model = load_model(workdir, flatten(config.to_dict()))
    dataset = open_dataset(config)
    with owned(workdir) if folder is None else contextlib.nullcontext():
        return evaluate_model(model, dataset, folder=folder)


def evaluate_ensemble(config: Config, workdirs: Sequence[Path], folder: Path) -> Evaluation:
    """Evaluate the mean of several runs on the test part, calibrated on the validation part.

    Args:
      config: of the first of them.
      workdirs: of the runs.
      folder: where the results and the calibration go.

    Raises:
      InputError: the runs have other data, or the data has changed.
    """
    members = [load_model(workdir) for workdir in workdirs]
    dataset = open_dataset(config)
    for each in members:
        check_split(each.workdir, dataset)
    ensemble = Ensemble.of(members, folder)
    folder.mkdir(parents=True, exist_ok=True)
    calibrate(ensemble, dataset)
    return evaluate_model(ensemble, dataset, folder=folder)
