"""The public API: train or load a classifier, and use it.

    import diffmic_jax
    clf = diffmic_jax.fit("photos", config="default:v2")
    clf = diffmic_jax.load("runs/mine")
    clf.predict(["a.png", "b.dcm"]).labels

Every command is one of these functions or a method of `Classifier`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax import configfile, extras
from diffmic_jax.config import Config
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.evaluation.run import calibrate, validator
from diffmic_jax.evaluation.run import evaluate as evaluate_model
from diffmic_jax.fields import flatten
from diffmic_jax.inference import exported
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.classify import Predictions, classify, classify_exported, predictions
from diffmic_jax.inference.ensemble import Ensemble
from diffmic_jax.inference.export import export_model
from diffmic_jax.inference.exported import Exported
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.load import load as load_model
from diffmic_jax.method.networks import check_networks
from diffmic_jax.planning import budget
from diffmic_jax.training import parallel
from diffmic_jax.training.run import TrainingRun, check_split
from diffmic_jax.training.workdir import check_workdir, check_writable
from diffmic_jax.types import Variables

Images = Sequence[str | Path | np.ndarray]
"""Files (PNG, JPEG, DICOM, ...), or arrays uint8 [H, W, 3] or [H, W]."""


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
          images: one or several, files or arrays uint8 [H, W, 3] or [H, W].
          coverage: of the prediction sets, 0 to 1.

        Raises:
          InputError: an image cannot be used; the message names it.
        """
        found = classify(self._model, _named(images))
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
            `eval/<split>` in the workdir.
          root: where the data is now, if it has moved.
          coverage: of the prediction sets, 0 to 1.

        Raises:
          InputError: the data has no such part, is gone or has changed.
        """
        place = None if folder is None else Path(folder)
        dataset = self.dataset(root)
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
        path = Path(out) if out else self.workdir / "report.html"
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
        return classify_exported(self._program, _named(images))


def fit(
    data: str | Path | None = None,
    *,
    minutes: float | None = None,
    config: str | Config = "default",
    workdir: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Classifier:
    """Train on a data set, evaluate the best checkpoint on its test part, and return it.

    A run that was stopped goes on where it was; a finished one is only evaluated.

    Args:
      data: a folder of images (one folder per class, or with a CSV), a CSV of labels, or the name
        of a data set; None: what the configuration names.
      minutes: of training and evaluation on this machine; None: the configuration's epochs.
      config: NAME or FILE, with :RECIPE behind it or not, or a complete `Config`.
      workdir: where the run lives; default `runs/NAME`.
      changes: fields to other values, as `{"train.epochs": 20}`.

    Raises:
      InputError: the data or the configuration cannot work.
    """
    spec = config if isinstance(config, str) else "run"
    chosen = configfile.load(config) if isinstance(config, str) else config
    chosen = chosen.changed(data_fields(data) | dict(changes or {}))
    place = Path(workdir) if workdir else configfile.default_workdir(spec)
    train(chosen, place, minutes)
    return Classifier(load_model(place))


def load(path: str | Path) -> Classifier | ExportedClassifier:
    """A trained classifier.

    Args:
      path: the workdir of a run, or a file that `export` wrote.

    Raises:
      InputError: there is neither a checkpoint nor an exported classifier.
    """
    if Path(path).is_file():
        return ExportedClassifier(exported.load(path))
    return Classifier(load_model(path))


def train(config: Config, workdir: Path, minutes: float | None = None) -> Evaluation:
    """Train, or go on training, then evaluate the best checkpoint on the test part.

    Args:
      config: what to train.
      workdir: where.
      minutes: of training and evaluation on this machine, which choose `train.epochs`.

    Raises:
      InputError: the configuration, the data or the workdir cannot work.
    """
    began = time.monotonic()
    if minutes is None:
        check_workdir(workdir, config)  # first: decoding the images may take long
    check_networks(config)
    check_writable(workdir)
    mesh = parallel.make_mesh(config.train.model_shards)
    dataset = open_dataset(config)
    run = TrainingRun.open(config, workdir, dataset, mesh)
    if minutes is not None:
        left = minutes - (time.monotonic() - began) / 60
        config = budget.within(run, left)
        check_workdir(workdir, config)
        run = TrainingRun.open(config, workdir, dataset, mesh)
    run = dataclasses.replace(run, guidance=partial(_guidance, config), began=began)
    run.train(validator(run))
    model = load_model(workdir, flatten(config.to_dict()), run.method)
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
    return evaluate_model(model, open_dataset(config), folder=folder)


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


def _guidance(config: Config) -> Variables | None:
    """The variables of the run that the guidance starts with, if the configuration names one."""
    if not config.guidance.checkpoint:
        return None
    return load_model(config.guidance.checkpoint).variables


def _named(images: Any) -> dict[str, Path | np.ndarray]:
    """Each image by a name of its own: its path as given, or its place in the list."""
    several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    named: dict[str, Path | np.ndarray] = {}
    for place, image in enumerate(several):
        is_file = isinstance(image, str | Path)
        name = str(image) if is_file else f"image_{place}"
        named[f"{name}#{place}" if name in named else name] = Path(image) if is_file else image
    return named


def data_fields(data: str | Path | None) -> dict[str, Any]:
    """The fields of a configuration that name a data set."""
    if data is None:
        return {}
    path = Path(data)
    if path.is_dir():
        return {"data.name": "images", "data.root": str(path)}
    if path.is_file():
        fields = {"data.name": "images", "data.root": str(path.parent), "data.labels": path.name}
        return fields
    if data in {*CATALOG, *MEDMNIST, "phantom"}:
        return {"data.name": data}
    raise InputError(
        f"{data}: no such folder or CSV, and not one of the data sets "
        f"{', '.join(['phantom', *CATALOG])}"
    )
