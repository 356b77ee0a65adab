"""From a data set and some minutes to a classifier: plan, train, choose, calibrate, evaluate.

A plan has one or several members, each a plain classifier that holds out a part of the images, with
a diffusion on its features. The held-out images choose between the plain classifiers and the
diffusions; the answer is the mean of the members. Member 0 lies in the workdir itself, member i in
`folds/i`, each diffusion in `diffusion` inside its member.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax import recipes
from diffmic_jax.config import Config
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.data.loader import steps_per_epoch
from diffmic_jax.data.sources import open_source
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.metrics import SCALARS, compute, image_nll
from diffmic_jax.evaluation.run import calibrate, evaluate, held_out, validator
from diffmic_jax.fields import flatten
from diffmic_jax.inference.ensemble import FILE as MEMBERS
from diffmic_jax.inference.ensemble import Ensemble, keep_members
from diffmic_jax.inference.load import Model, load
from diffmic_jax.method.networks import check_networks
from diffmic_jax.planning import budget
from diffmic_jax.planning import plan as plans
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import Case
from diffmic_jax.training import parallel, peers
from diffmic_jax.training.owner import check_free, owned
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.workdir import check_workdir, check_writable
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

DIFFUSION = 0.15
"""Share of a member's minutes that its diffusion may take, but at least `LEAST`, or half."""
LEAST = 1.0
EPOCHS = 100
"""The most of a training: with few images on a fast machine more would only learn them by heart."""
ON_FEATURES: dict[str, Any] = {
    "guidance.tune": "head",
    "guidance.views": 2,
    "guidance.frozen": True,
    "guidance.warmup_epochs": 0,
    "checkpoint.every_steps": 200,
}
"""A denoiser that learns on the features of a finished classifier."""
REPORT = 20.0
"""Seconds for the report, and those below for each image that its audit reads."""
AUDIT = 0.005


def train(
    config: Config, workdir: Path, minutes: float | None = None, most: int = 0
) -> tuple[Model, Dataset]:
    """Train, or go on training; returns the best checkpoint and the data set, not yet calibrated.

    Args:
      config: what to train.
      workdir: where.
      minutes: of training and evaluation on this machine, which choose `train.epochs`.
      most: epochs that are enough, though more would fit; 0: no limit.

    Raises:
      InputError: the configuration, the data or the workdir cannot work.
    """
    began = time.monotonic()
    if minutes is None:
        check_workdir(workdir, config)  # first: decoding the images may take long
    check_networks(config)
    check_writable(workdir)
    check_free(workdir)
    mesh = parallel.make_mesh(config.train.model_shards)
    dataset = open_dataset(config)
    run = TrainingRun.open(config, workdir, dataset, mesh)
    limit = None
    if minutes is not None:
        found = budget.within(dataclasses.replace(run, began=began), minutes, most)
        longest = run.method.warmup_steps + most * run.method.steps_per_epoch if most else 0
        limit = dataclasses.replace(found.limit, longest=longest)
        config = config.changed({"train.epochs": found.epochs})
        run = TrainingRun.open(config, workdir, dataset, mesh)
    guidance = partial(_guidance, config)
    run = dataclasses.replace(run, guidance=guidance, began=began, limit=limit)
    with owned(workdir):
        check_workdir(workdir, config)  # again: another may have been here since
        if minutes is not None and parallel.is_main_process():
            budget.keep(workdir, found)
        run.train(validator(run))
    peers.at("evaluates")
    return load(workdir, flatten(config.to_dict()), run.method), dataset


def _guidance(config: Config) -> Variables | None:
    """The variables of the run that the guidance starts with, if the configuration names one."""
    if not config.guidance.checkpoint:
        return None
    return load(config.guidance.checkpoint).variables


def make_plan(given: Mapping[str, Any], minutes: float) -> Plan:
    """What the rules decide for a data set on this machine.

    Args:
      given: fields that are set, among them those of the data.
      minutes: from the start until the report is written.

    Raises:
      InputError: the data cannot be opened, or a field cannot have its value.
    """
    if not minutes > 0:
        raise InputError(f"--minutes={minutes:g}: give more than 0")
    # Whether a validation part comes with the data decides a rule: none is cut yet.
    whole = {"data.validation_fraction": 0.0, **given}
    source = open_source(recipes.get("strong").changed(whole).data)
    data, machine = Fingerprint.of(source), budget.machine()
    return Plan.of(Case(data=data, machine=machine, minutes=minutes, given=given))


def fit(plan: Plan, workdir: Path) -> Model:
    """Do what a plan says; what was done already is not done again.

    Args:
      plan: of a data set.
      workdir: where everything goes.

    Raises:
      InputError: the data, the plan or the workdir cannot work.
    """
    began = time.monotonic()
    stored = plans.read(workdir)
    if stored:
        _check_same_plan(stored, plan, workdir)
        plan = stored
    elif (workdir / "config.json").exists():
        raise InputError(
            f"{workdir} holds a run that was not planned here; choose another --out, or go on with "
            "it by its own --config"
        )
    config = recipes.get("strong").changed(plan.changes)
    log.info("%s", plan.text)
    check_networks(config)
    check_writable(workdir)
    dataset = open_dataset(config)
    steps_per_epoch(dataset.examples["train"], config.train.batch_size)  # refuses what cannot be
    if not plan.share:
        reserved = REPORT + AUDIT * len(dataset.source.records)
        left = 60 * plan.minutes - (time.monotonic() - began) - reserved
        plan = dataclasses.replace(plan, share=max(left, 1.0) / 60 / plan.members)
        plan.write(workdir)
    if not (workdir / MEMBERS).exists():
        places = [_member(config, workdir, i, plan.share) for i in range(plan.members)]
        _choose(plan, workdir, places, dataset)
    model = load(workdir)
    with owned(workdir):
        calibrate(model, dataset)
        evaluate(model, dataset)
    return model


def _check_same_plan(stored: Plan, plan: Plan, workdir: Path) -> None:
    """Refuse to go on with another plan in a workdir."""
    for what, there, here in (
        ("minutes", stored.minutes, plan.minutes),
        ("fields", stored.given, plan.given),
        ("images", stored.data.images, plan.data.images),
    ):
        if there != here:
            raise InputError(
                f"{workdir} was planned with {what} {there}, not {here}; choose another --out, or "
                "delete it to begin anew"
            )


def _member(config: Config, workdir: Path, i: int, minutes: float) -> Path:
    """Train a plain classifier and a diffusion on its features; returns its workdir."""
    place = workdir / "folds" / str(i) if i else workdir
    later = max(DIFFUSION * minutes, min(LEAST, minutes / 2))
    fold = {"data.fold": i} if config.data.folds else {}
    config = config.changed({"seed": config.seed + i, **fold})
    train(config, place, minutes - later, EPOCHS)
    same = ("data", "model", "guidance", "checkpoint", "eval", "seed")
    kept = {name: getattr(config, name) for name in same}
    diffusion = dataclasses.replace(recipes.get("plus"), **kept)
    of_member = {"guidance.checkpoint": str(place), "train.batch_size": config.train.batch_size}
    diffusion = diffusion.changed(ON_FEATURES | of_member)
    train(diffusion, place / "diffusion", later, EPOCHS)
    return place


def _choose(plan: Plan, workdir: Path, places: list[Path], dataset: Dataset) -> None:
    """Let the held-out images choose; the simpler one, unless the other is clearly better.

    Better is a lower NLL by more than one standard error of the difference, over groups.
    """
    names = {"classifier": "", "diffusion": "diffusion"}
    losses, measured, groups = {}, {}, np.empty(0)
    for name, below in names.items():
        model = Ensemble.of([load(place / below) for place in places], workdir)
        found = held_out(model, dataset)
        groups = found.groups
        answer = (found.outputs.probabilities, found.outputs.label, model.task)
        losses[name], measured[name] = image_nll(*answer), compute(*answer, bootstrap=0)
    difference = losses["diffusion"] - losses["classifier"]
    error = _standard_error(difference, groups)
    chosen = "diffusion" if difference.mean() < -error else "classifier"
    choice = (
        f"on {len(difference):,} held-out images the diffusion's NLL differs by "
        f"{difference.mean():+.4f} from the plain classifier's, standard error {error:.4f}: the "
        f"{chosen} answers"
    )
    log.info("%s", choice)
    candidates = tuple(
        {"name": name, "chosen": name == chosen} | {metric: found[metric] for metric in SCALARS}
        for name, found in measured.items()
    )
    dataclasses.replace(plan, candidates=candidates, choice=choice).write(workdir)
    where = [(place / names[chosen]).relative_to(workdir).as_posix() for place in places]
    keep_members(workdir, where)


def _standard_error(difference: np.ndarray, groups: np.ndarray) -> float:
    """Of a mean over images, whose groups are drawn as wholes."""
    _, index = np.unique(groups, return_inverse=True)
    centred = np.bincount(index, difference - difference.mean())
    return float(np.sqrt((centred**2).sum()) / len(difference))
