"""A trained classifier as an object: everything that can be done with one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax import extras
from diffmic_jax.config import Config, Data
from diffmic_jax.data.attributes import read_attributes
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.data.external import fields_of, open_external
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.recognise import name_of
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.evaluate import score
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.evaluation.run import evaluate as evaluate_model
from diffmic_jax.evaluation.run import evaluate_elsewhere
from diffmic_jax.evaluation.subgroups import by_attribute, per_case
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.card import write_card
from diffmic_jax.inference.classify import (
    Predictions,
    by_name,
    classify,
    classify_exported,
    predictions,
)
from diffmic_jax.inference.evaluated import EXTERNAL
from diffmic_jax.inference.export import export_model
from diffmic_jax.inference.exported import Exported
from diffmic_jax.inference.load import Model
from diffmic_jax.training import parallel
from diffmic_jax.training.owner import owned

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
          folder: where metrics.json, predictions.csv, uncertainty.csv and, of a split by group,
            groups.csv go; default
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
            found = evaluate_model(self._model, dataset, split, folder=place, coverage=coverage)
        return dataclasses.replace(found, data=self.moved(root).data)

    def evaluate_on(
        self,
        data: str | Path,
        *,
        class_map: Mapping[str, str] | None = None,
        changes: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        coverage: float = COVERAGE,
    ) -> Evaluation:
        """Measure the classifier on other data, all of which is for testing.

        Args:
          data: a folder of images, a CSV of labels or the name of a data set.
          class_map: from the other data's class names to those of the classifier; '' leaves a class
            out. Classes of the same name need none.
          changes: fields of the other data, as `{"data.groups": "patients.csv"}`; how labels are
            read is else as in the training.
          folder: where the results go; default `external/NAME` in the workdir, or in its folder of
            another sampling than the run's.
          coverage: of the prediction sets, 0 to 1.

        Raises:
          InputError: the data cannot be opened, or has a class that the classifier does not know;
            or the results of other data of that name are there.
        """
        other = self.other_data(data, changes=changes)
        framing = Framing.of(self.config.data)
        source = open_external(other, self._model.task, class_map or {}, framing)
        place = Path(folder) if folder else self._model.home / EXTERNAL / name_of(data)
        where = str(Path(other.root).absolute()) + f" by {other.labels}" * bool(other.labels)
        found = evaluate_elsewhere(self._model, source, place, where, coverage)
        if folder is None and parallel.is_main_process():
            write_card(self._model)
        return dataclasses.replace(found, data=other)

    def other_data(
        self,
        data: str | Path,
        *,
        changes: Mapping[str, Any] | None = None,
    ) -> Data:
        """How other data is opened. Arguments and errors as in `evaluate_on`."""
        fields = fields_of(data, self._model.task, changes or {})
        return self.config.changed(fields).data

    def subgroups(
        self,
        evaluation: Evaluation,
        attributes: Sequence[str],
        table: str | Path | None = None,
    ) -> dict[str, Any]:
        """Metrics by what is known of the images, with intervals; the worst group is named.

        Args:
          evaluation: of the classifier, on its own data or on other.
          attributes: columns of the data's tables, as `age`; numbers become ranges.
          table: a CSV of image and attributes, in their place.

        Returns:
          What `subgroups.json` has; see docs/evaluation.md.

        Raises:
          InputError: there is no such column, or an image has no row.
        """
        path = None if table is None else Path(table)
        data = evaluation.data or self.config.data
        values = read_attributes(data, evaluation.records, attributes, path)
        return by_attribute(
            evaluation.outputs,
            evaluation.task,
            values,
            groups=evaluation.groups,
            bootstrap=self.config.eval.bootstrap,
            thresholds=evaluation.calibrations.thresholds[0],
        )

    def per_case(self, evaluation: Evaluation) -> dict[str, Any]:
        """Metrics with one answer for each case, the mean over the images of its group.

        Raises:
          InputError: the images of a case have different labels.
        """
        outputs = per_case(evaluation.outputs, evaluation.task, evaluation.groups)
        bootstrap, thresholds = self.config.eval.bootstrap, evaluation.calibrations.thresholds
        return score(outputs, evaluation.task, bootstrap=bootstrap, thresholds=thresholds)

    def report(
        self,
        out: str | Path | None = None,
        *,
        split: str = "test",
        root: str | Path | None = None,
        audit: bool = True,
    ) -> Path:
        """Write what there is to see of the run into one HTML file, which needs no network.

        Args:
          out: the file; default `report.html` in the workdir.
          split: the part of the data that it is about.
          root: where the data is now, if it has moved.
          audit: read all images again to look for what a reviewer would ask about, unless an
            earlier report has done it.

        Returns:
          The file.

        Raises:
          InputError: there is no such part, the data is gone or has changed, or `out` is a folder.
        """
        with extras.requires("report", "report"):
            from diffmic_jax.report.build import write_report  # heavy, and an extra
        path = Path(out) if out else self._model.home / "report.html"
        if path.is_dir():  # before anything is computed
            raise InputError(f"{path}: is a folder; name a file, as {path / 'report.html'}")
        write_report(self._model, self.dataset(root), path, split, audit)
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
        return open_dataset(self.moved(root))

    def moved(self, root: str | Path | None) -> Config:
        """What the run was trained with, but for the place of its data, if that is another now."""
        return self.config.changed({"data.root": str(root)}) if root else self.config


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
