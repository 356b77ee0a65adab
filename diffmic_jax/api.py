"""The public API: train or load a classifier, and use it.

    import diffmic_jax
    clf = diffmic_jax.fit("photos", config="default:v2")
    clf = diffmic_jax.load("runs/mine")
    clf.predict(["a.png", "b.dcm"]).labels

The commands `fit`, `train`, `predict`, `evaluate`, `report` and `export` are these functions and
methods of `Classifier`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax import configfile, fitting
from diffmic_jax.classifier import Classifier, ExportedClassifier
from diffmic_jax.config import Config
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.data.places import keep_compiled
from diffmic_jax.data.recognise import data_fields, name_of
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.evaluation.run import calibrate
from diffmic_jax.evaluation.run import evaluate as evaluate_model
from diffmic_jax.fields import flatten
from diffmic_jax.inference import exported
from diffmic_jax.inference.ensemble import Ensemble
from diffmic_jax.inference.exported import Exported
from diffmic_jax.inference.load import load as load_model
from diffmic_jax.memory import keep_freed
from diffmic_jax.planning import plan as plans
from diffmic_jax.planning.make import make_plan
from diffmic_jax.planning.plan import Plan
from diffmic_jax.training.content import check_split
from diffmic_jax.training.owner import owned
from diffmic_jax.training.workdir import check_workdir

__all__ = [
    "Classifier",
    "ExportedClassifier",
    "evaluate",
    "evaluate_ensemble",
    "fit",
    "load",
    "plan",
    "train",
]

MINUTES = 30.0
"""Of a fit for which none are named."""


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
    began = time.monotonic()
    keep_freed()
    keep_compiled()
    if config is None:
        place = Path(workdir).expanduser() if workdir else default_workdir(data)
        planned = _plan(data, minutes, changes, begun=plans.read(place) is not None)
        return Classifier(fitting.fit(planned, place, began))
    given = (data_fields(data) if data is not None else {}) | dict(changes or {})
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
    return _plan(data, minutes, changes)


def _plan(
    data: str | Path | None,
    minutes: float | None,
    changes: Mapping[str, Any] | None,
    begun: bool = False,
) -> Plan:
    if data is None:
        raise InputError("fit: name a folder, a CSV or a data set")
    given = data_fields(data) | dict(changes or {})
    return make_plan(given, MINUTES if minutes is None else minutes, begun)


def default_workdir(data: str | Path | None) -> Path:
    """runs/photos for a folder `photos`, or a table in it."""
    return Path("runs") / name_of(data or "run")


def load(path: str | Path) -> Classifier | ExportedClassifier:
    """A trained classifier.

    Args:
      path: the workdir of a run, or a file that `export` wrote.

    Raises:
      InputError: there is neither a checkpoint nor an exported classifier.
    """
    keep_freed()
    keep_compiled()
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


def evaluate(config: Config, workdir: Path) -> Evaluation:
    """Evaluate the best checkpoint of a run on the test part.

    Args:
      config: the run's.
      workdir: the run's folder.

    Raises:
      InputError: the run is another one, or the data has changed.
    """
    check_workdir(workdir, config)
    model = load_model(workdir, flatten(config.to_dict()))
    dataset = open_dataset(config)
    with owned(workdir):
        return evaluate_model(model, dataset)


def evaluate_ensemble(config: Config, workdirs: Sequence[Path], folder: Path) -> Evaluation:
    """Evaluate the mean of one or several runs on the test part, calibrated on the validation part.

    Args:
      config: of the first of them, perhaps with another sampling.
      workdirs: of the runs.
      folder: where the results and the calibration go.

    Raises:
      InputError: the runs have other data, or the data has changed.
    """
    fields = flatten(config.to_dict())
    changes = {name: x for name, x in fields.items() if name.startswith(("eval.", "sampling."))}
    members = [load_model(workdirs[0], changes), *map(load_model, workdirs[1:])]
    dataset = open_dataset(config)
    for each in members:
        check_split(each.workdir, dataset)
    ensemble = Ensemble.of(members, folder)
    ensemble.home.mkdir(parents=True, exist_ok=True)
    calibrate(ensemble, dataset)
    return evaluate_model(ensemble, dataset, folder=folder)
