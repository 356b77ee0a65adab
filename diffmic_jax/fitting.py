"""From a data set and some minutes to a classifier: plan, train, choose, calibrate, evaluate.

A plan has one or several members, each of which holds out a part of the images: a network that is
fine-tuned as a whole (`classifier`), a diffusion on its features (`diffusion`), and with few images
the last layer alone on the features of the weights that it starts from (`head`). The held-out
images choose between these and their means. Member 0 lies in the workdir itself, member i in
`folds/i`, its other networks in folders of their names inside it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.config import Config
from diffmic_jax.consistency import check_training
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.metrics import SCALARS, compute, image_nll
from diffmic_jax.evaluation.run import HeldOut, calibrate, evaluate, held_out, validator
from diffmic_jax.fields import flatten
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.ensemble import FILE as MEMBERS
from diffmic_jax.inference.ensemble import Ensemble, Members, keep_members, mean
from diffmic_jax.inference.load import Model, load
from diffmic_jax.method.networks import check_networks
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.planning import budget, candidates
from diffmic_jax.planning import plan as plans
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import EPOCHS, FIXED, REFERENCE, SHARE
from diffmic_jax.training import parallel, peers
from diffmic_jax.training.owner import check_free, owned
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.workdir import check_workdir, check_writable
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

EXTRA = 0.12
"""Share of a member's minutes that each network beside the classifier may take, and the least."""
LEAST = 1.0
EXTRAS = 0.4
"""The most of all of them together; what does not fit is left out, the diffusion last."""
CANDIDATES = {
    "classifier": ("classifier",),
    "head": ("head",),
    "diffusion": ("diffusion",),
    "classifier and head": ("classifier", "head"),
    "diffusion and head": ("diffusion", "head"),
}
"""What may answer, the simpler before; of several networks the mean does."""
PREDICTION = 6.0
"""Time of a training step of an image, over that of a prediction of one copy of it."""
ASKING = 0.1
"""Share of the minutes that is kept for predictions, at most: what trains has some of it too."""
REPORT = 20.0
"""Seconds for the report on an idle machine, without an audit of the images."""
CHOICE, EXPORT = 5.0, 4.0
"""Seconds to load and to ask each network for the choice, and for its exported program."""


def train(
    config: Config,
    workdir: Path,
    minutes: float | None = None,
    most: int = 0,
    spare: float = 0.0,
    dataset: Dataset | None = None,
) -> tuple[Model, Dataset]:
    """Train, or go on training; returns the best checkpoint and the data set, not yet calibrated.

    Args:
      config: what to train.
      workdir: where.
      minutes: of training and evaluation on this machine, which choose `train.epochs`.
      most: epochs that are enough, though more would fit; 0: no limit.
      spare: minutes more, for a training that would not see every image without them.
      dataset: of the configuration, where it is open already.

    Raises:
      InputError: the configuration, the data or the workdir cannot work.
    """
    began = time.monotonic()
    if minutes is None:
        check_workdir(workdir, config)  # first: decoding the images may take long
    check_training(config)
    check_networks(config)
    check_writable(workdir)
    check_free(workdir)
    mesh = parallel.make_mesh(config.train.model_shards)
    dataset = dataset or open_dataset(config)
    run = TrainingRun.open(config, workdir, dataset, mesh)
    limit = None
    if minutes is not None:
        found = budget.within(dataclasses.replace(run, began=began), minutes, most, spare)
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
    if minutes is not None and config.guidance.checkpoint and parallel.is_main_process():
        run.forget_features()
    return load(workdir, flatten(config.to_dict()), run.method), dataset


def _guidance(config: Config) -> Variables | None:
    """The variables of the run that the guidance starts with, if the configuration names one."""
    if not config.guidance.checkpoint:
        return None
    return load(config.guidance.checkpoint).variables


def fit(plan: Plan, workdir: Path, began: float | None = None) -> Model:
    """Do what a plan says; what was done already is not done again.

    Args:
      plan: of a data set.
      workdir: where everything goes.
      began: when its minutes began, on the monotonic clock; None: now.

    Raises:
      InputError: the data, the plan or the workdir cannot work.
    """
    began = time.monotonic() if began is None else began
    stored = plans.read(workdir)
    if stored:
        plans.check_same(stored, plan, workdir)
        plan = stored
    elif (workdir / "config.json").exists():
        raise InputError(
            f"{workdir} holds a run that was not planned here; choose another --out, or go on with "
            "it by its own --config"
        )
    config = candidates.classifier(plan)
    log.info("%s", plan.text)
    if 60 * plan.minutes <= FIXED:
        log.warning(
            "%g minutes may go by with compiling, evaluation and report alone: the end may come "
            "later, and more minutes give a better classifier",
            plan.minutes,
        )
    check_writable(workdir)
    crowding = budget.crowding()  # before the images are read: that is no other process
    before = time.monotonic()
    dataset = open_dataset(config)
    end = None  # of a fit that goes on, each member has the minutes that it had
    if not plan.share:
        _check_reading(time.monotonic() - before, plan.minutes)
        # At most three networks of a member are asked, and two of them answer.
        reserved = REPORT + plan.audit + (3 * CHOICE + 2 * EXPORT) * plan.members
        reserved += min(_asking(plan, config), ASKING * 60 * plan.minutes)
        end = began + 60 * plan.minutes - reserved * crowding
        left = max(end - time.monotonic(), 1.0)
        plan = dataclasses.replace(plan, share=left / 60 / plan.members)
        plan.write(workdir)
    if not (workdir / MEMBERS).exists():
        places = []
        for i in range(plan.members):
            fold = {"data.fold": i} if config.data.folds else {}
            own = config.changed({"seed": config.seed + i, **fold})
            images = open_dataset(own) if i else dataset
            minutes = plan.share
            if end is not None:  # what those before have left over is shared
                minutes = max(end - time.monotonic(), 1.0) / 60 / (plan.members - i)
            places.append(workdir / "folds" / str(i) if i else workdir)
            _member(own, places[i], minutes, plan, images)
        _choose(plan, workdir, places, dataset)
    model = load(workdir)
    with owned(workdir):
        calibrate(model, dataset)
        evaluate(model, dataset)
    return model


def _check_reading(seconds: float, minutes: float) -> None:
    """Refuse to go on where nearly all minutes went by with reading; nothing is planned yet.

    Raises:
      InputError: they did.
    """
    if seconds > SHARE * 60 * minutes:
        raise InputError(
            f"to read the images took {seconds / 60:.1f} of {minutes:g} minutes: give the same "
            "command again, they are kept as they were read"
        )


def _asking(plan: Plan, config: Config) -> float:
    """Seconds to ask the networks of all members for the held-out and the test images."""
    data, split = plan.data, config.data
    held = data.learnable
    if not split.folds:
        held = data.images["validation"] or round(split.validation_fraction * held)
    copies = len(MIRRORS[config.sampling.flips]) * (split.image_size / REFERENCE) ** 2
    # For the choice three of a member, and for the calibration and the test part those that answer.
    asked = 5 * held + 2 * plan.members * data.images["test"]
    return asked * copies * plan.machine.seconds / PREDICTION


def _extras(plan: Plan) -> tuple[str, ...]:
    """The networks of a member beside its classifier, as many as there is time for."""
    wanted = ("diffusion", "head") if candidates.has_head(plan) else ("diffusion",)
    most = int(EXTRAS * plan.share / _minutes_of_extra(plan.share)) or 1
    return wanted[:most]


def _minutes_of_extra(minutes: float) -> float:
    """Of a member's minutes, those of each network beside the classifier."""
    return max(EXTRA * minutes, min(LEAST, minutes / 2))


def _member(config: Config, place: Path, minutes: float, plan: Plan, dataset: Dataset) -> None:
    """Train a member's networks in its workdir."""
    began = time.monotonic()
    each = _minutes_of_extra(minutes)
    if "head" in _extras(plan):
        known = budget.begun(place / "head")  # by an earlier start, which took these minutes
        _extra("head", candidates.head(config, plan), place, each, dataset)
        minutes -= each if known else (time.monotonic() - began) / 60
    most = min(EPOCHS, int(plan.given.get("train.epochs", EPOCHS)))
    train(config, place, max(minutes - each, each), most, spare=each, dataset=dataset)
    if (spent := budget.begun(place)) and spent.extended:
        log.info("no diffusion: the classifier had its time, to see every image")
        return
    _extra("diffusion", candidates.diffusion(config, place), place, each, dataset)


def _extra(name: str, config: Config, place: Path, minutes: float, dataset: Dataset) -> None:
    """Train a network beside the classifier, if there is time for its features."""
    try:
        train(config, place / name, minutes, EPOCHS, dataset=dataset)
    except budget.TooLongError as error:
        log.info("no %s: %s", name, error)


def _choose(plan: Plan, workdir: Path, places: list[Path], dataset: Dataset) -> None:
    """Let the held-out images choose, each candidate with the temperature that suits it.

    The simplest whose NLL is above the lowest by no more than one standard error of the
    difference, over groups.
    """
    folder = {"classifier": "", "diffusion": "diffusion", "head": "head"}
    parts: dict[str, HeldOut] = {}
    for name, below in folder.items():
        if all((place / below / "config.json").exists() for place in places):
            model = Ensemble.of([load(place / below) for place in places], workdir)
            parts[name] = held_out(model, dataset)
    task, groups = model.task, parts["classifier"].groups
    losses, tempering, table = {}, {}, []
    for name, networks in CANDIDATES.items():
        if parts.keys() >= {*networks}:
            outputs = mean([parts[network].outputs for network in networks])
            own = calibration.fit_one(outputs.probabilities, outputs.label, task)
            alone = calibration.fit_one(outputs.guidance, outputs.label, task)
            tempering[name] = Calibrations(own, alone)
            p = calibration.tempered(own, outputs.probabilities)
            losses[name] = image_nll(p, outputs.label, task)
            found = compute(p, outputs.label, task, bootstrap=0)
            table.append({"name": name} | {metric: found[metric] for metric in SCALARS})
    chosen, best, error = simplest(losses, groups)
    choice = f"on {len(groups):,} held-out images {best} has the lowest NLL" + (
        " and answers: none that is simpler is within a standard error of it"
        if chosen == best
        else f"; {chosen} answers, the simplest within a standard error of it ({error:.4f})"
    )
    log.info("%s", choice)
    log.info("%s", _table(table))
    plan = dataclasses.replace(
        plan,
        candidates=tuple(c | {"chosen": c["name"] == chosen} for c in table),
        choice=choice,
    )
    plan.write(workdir)
    where = [place / folder[network] for place in places for network in CANDIDATES[chosen]]
    names = tuple(place.relative_to(workdir).as_posix() for place in where)
    keep_members(workdir, Members(names, tempering[chosen]))


def _table(candidates: Sequence[Mapping[str, Any]]) -> str:
    """The candidates on the held-out images, a line each."""
    names = ("accuracy", "f1_macro", "auroc_macro", "nll", "ece")
    lines = [f"{'held out':20}" + "".join(f"{name:>12}" for name in names)]
    for each in candidates:
        cells = ("-" if each[name] is None else f"{each[name]:.3f}" for name in names)
        lines.append(f"{each['name']:20}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def simplest(losses: Mapping[str, np.ndarray], groups: np.ndarray) -> tuple[str, str, float]:
    """The first candidate whose mean loss is not clearly above the lowest.

    Args:
      losses: [N] of each candidate, the simpler before.
      groups: [N] which images belong together.

    Returns:
      It, the one with the lowest loss, and the standard error of the difference between them.
    """
    best = min(losses, key=lambda name: losses[name].mean())
    for name, loss in losses.items():
        error = _standard_error(loss - losses[best], groups)
        if loss.mean() - losses[best].mean() <= error:
            return name, best, error
    raise ValueError("no candidates")


def _standard_error(difference: np.ndarray, groups: np.ndarray) -> float:
    """Of a mean over images, whose groups are drawn as wholes."""
    _, index = np.unique(groups, return_inverse=True)
    centred = np.bincount(index, difference - difference.mean())
    return float(np.sqrt((centred**2).sum()) / len(difference))
