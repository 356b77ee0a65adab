"""Validation, calibration and evaluation of a run on its data set."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples, cached, decoded_once
from diffmic_jax.data.dataset import Dataset, open_dataset, tell_of_images
from diffmic_jax.data.files import write_table
from diffmic_jax.data.sources import CLEAN, Source
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.evaluate import score, table
from diffmic_jax.evaluation.results import Evaluation, add_calibrated, write
from diffmic_jax.inference import calibration, ood
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.card import write_card
from diffmic_jax.inference.evaluated import METRICS, folder_of, read_scores
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.predict import (
    Predictor,
    Timed,
    make_predictor,
    predict_batches,
    trunk_features,
)
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import parallel
from diffmic_jax.training.content import changed_pixels, check_split
from diffmic_jax.training.loop import Validate
from diffmic_jax.training.run import TrainingRun, check_classes
from diffmic_jax.training.state import Purpose

log = logging.getLogger("diffmic_jax")


def validator(run: TrainingRun) -> Validate:
    """A function from a training state to its defined scalar metrics on the validation part."""
    prepare = make_predictor(run.method, run.mesh)
    batching = _batching(run.config, run.mesh)

    def validate(state: TrainState) -> dict[str, float]:
        batches = loader.eval_batches(run.inputs("validation", state), batching)
        predictor = prepare(state.variables(average=run.config.train.ema))
        outputs = predict_batches(predictor, batches, run.key(Purpose.SAMPLING))
        scores = score(outputs, run.dataset.task)
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    return validate


def predict_part(
    model: Model, examples: Examples, title: str = "", predictor: Predictor | None = None
) -> Outputs:
    """The model's outputs for a part of a data set, in order; by its own predictor if none."""
    batches = loader.eval_batches(examples, _batching(model.config, model.mesh))
    return predict_batches(predictor or model.predictor, batches, model.sampling_key, title)


def _batching(config: Config, mesh: Mesh) -> loader.Batching:
    """Whole batches in every process, which the devices share."""
    return loader.Batching(
        batch_size=parallel.padded_batch_size(mesh, config.eval.batch_size),
        num_workers=config.data.num_workers,
    )


def calibrate(model: Model, dataset: Dataset) -> None:
    """Fit what the validation part can tell, if there is one: temperature, prediction sets, and
    the detector of images unlike the training's.

    Where each member of an ensemble holds out a part of its own, its answers for that part are
    taken: an image is never judged by a member that has learned from it. The mean of all is more
    certain than one of them, so these are careful estimates.

    Raises:
      InputError: the run had other classes or another split.
    """
    _check_same_data(model, dataset)
    held = held_out(model, dataset)
    if not len(held.groups):
        return
    found = calibration.fit(held.outputs, model.task)
    # Features of other members are not comparable.
    detector = ood.fit(_training_features(model, dataset), held.outputs.features[: held.of_first])
    if parallel.is_main_process():
        calibration.write(model.home, found, model.step, model.config.sampling)
        if detector:
            ood.write(model.workdir, detector, model.step)


class HeldOut(NamedTuple):
    """What a model says of images that it has not learned from."""

    outputs: Outputs
    groups: np.ndarray
    """[N] the lesion or patient of each image, or the image itself."""
    of_first: int
    """How many of them the first member holds out; they are the first ones."""


def held_out(model: Model, dataset: Dataset) -> HeldOut:
    """Outputs for the validation part: the model's, or each member's for the fold it holds out.

    Args:
      model: of a run, or several.
      dataset: of the run, or of the first of several.

    Raises:
      InputError: the data of a member has changed.
    """
    config = model.config
    parts: list[tuple[Model, Examples]] = []
    for each in model.by_fold:
        own = dataset
        if each.config.data.fold != config.data.fold:
            own = open_dataset(config.changed({"data.fold": each.config.data.fold}))
            check_split(each.workdir, own)
        if len(own.examples["validation"]):
            parts.append((each, own.examples["validation"]))
    found = [predict_part(each, part, "held out") for each, part in parts]
    groups = [[record.group or record.id for record in part.records] for _, part in parts]
    columns = zip(*found, strict=True)
    return HeldOut(
        outputs=Outputs(*map(np.concatenate, columns)) if found else Outputs(*[np.empty(0)] * 6),
        groups=np.array([name for each in groups for name in each]),
        of_first=len(groups[0]) if groups else 0,
    )


def _training_features(model: Model, dataset: Dataset) -> np.ndarray:
    """Features [M, F] of those training images that the detector keeps."""
    examples = dataset.examples["train"]
    kept = ood.chosen(len(examples))
    records = tuple(examples.records[i] for i in kept)
    some = dataclasses.replace(examples, records=records, rows=examples.rows[kept])
    batches = loader.eval_batches(some, _batching(model.config, model.mesh))
    return trunk_features(model.method, model.mesh, model.variables, batches)


def evaluate(
    model: Model,
    dataset: Dataset,
    split: str = "test",
    *,
    folder: Path | None = None,
    coverage: float = COVERAGE,
) -> Evaluation:
    """Evaluate a model on a part of the data; write and print the results, and its model card.

    Where the test part leaks, its clean part is evaluated with it, from the same outputs.

    Args:
      model: of a run on this data set.
      dataset: where the part is.
      split: a part of the data.
      folder: where the results go, those for the clean part into `test_clean` in it; default
        `eval/<split>` in the workdir, or in its folder of another sampling than the run's.
      coverage: of the conformal prediction sets.

    Raises:
      InputError: there is no such part, or the run had other classes or another split.
    """
    examples = dataset.examples
    if not len(examples.get(split, ())):
        known = ", ".join(name for name, part in examples.items() if len(part))
        raise InputError(f"the data has no {split} split; it has {known}")
    _check_same_data(model, dataset)
    whole = examples["test" if split == CLEAN else split]
    timed = Timed(predictor=_judging(model, split).predictor)
    outputs = predict_part(model, whole, split, timed)
    parts = [CLEAN, split] if split == "test" and CLEAN in examples else [split]
    for part in parts:
        place = folder or folder_of(model, part)
        place = place / CLEAN if folder and part != split else place
        found = _measure(model, examples[part], *_inside(examples[part], whole, outputs), coverage)
        found = dataclasses.replace(found, cpu_seconds=timed.cpu_seconds, folder=place)
        write(place, found)
        _show(model, found, part, place)
    if folder is None and parallel.is_main_process():
        write_card(model)
    return found


def _judging(model: Model, split: str) -> Model:
    """Who answers for a part: of members with folds, on the part held out, who has not seen it."""
    if split != "validation" or len(model.by_fold) == 1:
        return model
    log.info("only the members that have not learned from the validation part answer for it")
    own = (each for each in model.by_fold if each.config.data.fold == model.config.data.fold)
    return next(own)


def evaluate_elsewhere(
    model: Model, source: Source, folder: Path, where: str, coverage: float = COVERAGE
) -> Evaluation:
    """Evaluate a model on other data than its own; write and print the results.

    Args:
      model: of a run.
      source: from `data.external`; all of it is for testing.
      folder: where the results go.
      where: the data is, which `metrics.json` says as `data`.
      coverage: of the conformal prediction sets.

    Raises:
      InputError: an image cannot be read, or the results of data elsewhere are in the folder.
    """
    _check_place(folder, where)
    own = model.config.data
    size, policy, scale = own.image_size, own.on_bad_image, own.gray_bits
    kept = Path(own.cache_dir) if own.cache_dir else None
    decoded = cached(source, size, kept, on_bad_image=policy, gray_bits=scale)
    if decoded.gray_bits != scale:  # the training had no scale: then each image by itself
        decoded = decoded_once(source, size, on_bad_image=policy, gray_bits=scale)
    tell_of_images(decoded)
    part = decoded.examples["test"]
    if not len(part):
        raise InputError(f"{where}: no image can be read; replace some of them")
    ids = [record.id for record in part.records]
    found = _measure(model, part, ids, predict_part(model, part, "external"), coverage)
    metrics = found.metrics | {"data": where, "skipped": len(decoded.skipped)}
    found = dataclasses.replace(found, metrics=metrics, folder=folder)
    write(folder, found)
    if parallel.is_main_process() and (decoded.skipped or (folder / "skipped.csv").exists()):
        write_table(folder / "skipped.csv", ("image", "reason"), [*decoded.skipped.items()])
    _show(model, found, f"{source.name}, other data", folder)
    return found


def _check_place(folder: Path, where: str) -> None:
    """Refuse to replace the results of other data that has the same name."""
    path = folder / METRICS
    there = read_scores(path).get("data") if path.exists() else where
    if there != where:
        raise InputError(
            f"{folder}: has the results of {there or 'a part of the own data'}; name another "
            "folder in --out"
        )


def _check_same_data(model: Model, dataset: Dataset) -> None:
    check_classes(model.workdir, model.meta, dataset)
    check_split(model.workdir, dataset)
    recorded = model.meta.get("content_sha256")
    if changed := changed_pixels(model.workdir, dataset, recorded):
        log.warning("%s: since the training, %s", model.workdir, changed)


def _inside(part: Examples, whole: Examples, outputs: Outputs) -> tuple[list[str], Outputs]:
    """The names of a part's images, and their outputs out of those of a larger part."""
    ids = [record.id for record in part.records]
    wanted = set(ids)
    inside = np.array([record.id in wanted for record in whole.records])
    return ids, Outputs(*(column[inside] for column in outputs))


def _measure(
    model: Model, part: Examples, ids: list[str], outputs: Outputs, coverage: float
) -> Evaluation:
    fitted = model.calibrations
    scores = score(
        outputs,
        model.task,
        groups=np.array([record.group or record.id for record in part.records]),
        bootstrap=model.config.eval.bootstrap,
        thresholds=fitted.thresholds,
    )
    scores |= model.provenance
    scores["unfamiliar"] = None
    if model.detector:
        scores["unfamiliar"] = float(1 - model.detector.is_familiar(outputs.features).mean())
    return Evaluation(
        task=model.task,
        ids=ids,
        records=part.records,
        outputs=outputs,
        metrics=add_calibrated(scores, outputs, model.task, fitted, coverage),
        calibrations=fitted,
        coverage=coverage,
    )


def _show(model: Model, found: Evaluation, part: str, folder: Path) -> None:
    if parallel.is_main_process():
        diffuses = model.method.denoiser is not None
        print(f"\n{part}, checkpoint of step {model.step}\n{table(found.metrics, diffuses)}")
        print(f"written to {folder}")
