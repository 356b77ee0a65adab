"""The runs of a study: which are done, which have to run, and their results.

Runs are trained one after the other, all rows of the first seed before those of the second, each in
a workdir of its own, and the tables are written again after every run. A run that fails is reported
and the others go on; a study that was stopped goes on where it was.

Every number of a table is computed from the scalars in the `metrics.json` of the runs, which
`study.csv` lists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffmic_jax import api
from diffmic_jax.data.files import fits, read_json, write_json
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.errors import InputError, Interrupted
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.inference.evaluated import METRICS as METRICS_FILE
from diffmic_jax.inference.evaluated import PROVENANCE
from diffmic_jax.inference.evaluated import read_scores as scores_of
from diffmic_jax.study.definition import Row, Study, make_configs, run_workdir
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.owner import owned
from diffmic_jax.training.workdir import config_sha256

log = logging.getLogger("diffmic_jax")

CALIBRATED = "calibrated"
"""Group of metrics in `metrics.json`: of the probabilities after temperature scaling."""
METRICS = (
    *("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece"),
    *(f"{CALIBRATED}.{name}" for name in ("nll", "rps", "joint_nll")),
)
LEAKED, CLEAN_ACCURACY = "accuracy_leaked", "accuracy_clean"
CLEAN_MATCHED = "accuracy_clean_matched"
"""Of the clean images, where each class counts as often as in the leaked ones."""
RECORD = "runs.json"
"""In the study's folder: of each run its seconds, the runs it started from, and what was done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state and the results of one row for one seed."""

    row: str
    seed: int
    status: str
    """`done`, `waiting`, or `failed: ` and the reason."""
    folder: Path
    """With `metrics.json` and `predictions.csv`."""
    workdir: Path
    """Of the run that was evaluated."""
    seconds: float | None = None
    """Of training and evaluation."""
    train_cpu: float | None = None
    """CPU seconds of all trainings that the results are of, with their evaluations; None: another
    device computed one, or of the guidance in a run with a denoiser, which has none of its own."""
    predict_cpu: float | None = None
    """CPU seconds to predict an image, without compiling; None: not measured."""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """95%, by bootstrap over the test images."""
    clean: Path | None = None
    """As `folder`, of the clean part of the test images, where there is one."""


def run_study(
    study: Study, folder: Path, report: Callable[[Study, Path, list[Outcome]], object]
) -> bool:
    """Run what is not done yet.

    Args:
      study: as `load_study` returns it.
      folder: for `runs/`, `runs.json` and what `report` writes.
      report: called by the main process after every run, or once if there is nothing to run, with
        the outcomes of all runs.

    Returns:
      Whether every run is done.

    Raises:
      InputError: a configuration cannot work, or another process is at the study; nothing has run
        then.
      Interrupted: the current run was asked to stop, and is saved.
    """
    make_configs(study, folder)  # first: where one cannot work, nothing is made
    with owned(folder):
        return _run(Runs(study, folder), report)


def _run(runs: Runs, report: Callable[[Study, Path, list[Outcome]], object]) -> bool:
    """What `run_study` does, as the owner of the folder."""
    study, folder = runs.study, runs.folder
    ran = False
    for seed in study.seeds:
        for row in study.rows:
            if row.guidance or runs.is_done(row, seed):
                continue
            log.info("study: %s, seed %d", row.name, seed)
            runs.attempt(row, seed)
            ran = True
            if parallel.is_main_process():
                report(study, folder, runs.outcomes())
    if not ran and parallel.is_main_process():
        report(study, folder, runs.outcomes())
    return not runs.failures


class Runs:
    """A study's runs; every process has one, and the main one writes the record."""

    def __init__(self, study: Study, folder: Path) -> None:
        """Make all configurations, so that a typo in the last row does not cost a day.

        Raises:
          InputError: one of them cannot work.
        """
        self.study, self.folder = study, folder
        self.configs = make_configs(study, folder)
        self.failures: dict[tuple[str, int], str] = {}
        """(row, seed) -> why it failed in this process."""
        path = folder / RECORD
        self._record: dict[str, dict[str, Any]] = read_json(path) if path.exists() else {}
        if not fits(self._record, {...: {}}):
            raise InputError(f"{path}: no record of runs; restore it, or delete it to begin anew")

    def is_done(self, row: Row, seed: int) -> bool:
        """Whether the results of a row and a seed are there, and of the same configuration."""
        row = self.study.row(row.of) if row.guidance else row
        path = self._results(row, seed) / METRICS_FILE
        if not (self._is_recorded(row, seed) and path.exists()):
            return False
        # The run may have been trained or evaluated otherwise since then.
        recorded = self._record[f"{row.name}-{seed}"].get("made_of")
        return not recorded or recorded == made_of(scores_of(path))

    def _is_recorded(self, row: Row, seed: int) -> bool:
        """Whether the record has it as done; the same in all processes."""
        return self._record.get(f"{row.name}-{seed}", {}).get("done") == self._digest(row, seed)

    def attempt(self, row: Row, seed: int) -> None:
        """Train or evaluate one run, or note why that failed.

        Raises:
          Interrupted: it was asked to stop, and is saved.
        """
        # What a GPU computes is not in this process's time.
        clocks = {"seconds": time.monotonic}
        if jax.default_backend() == "cpu":
            clocks["cpu_seconds"] = time.process_time
        began = {name: clock() for name, clock in clocks.items()}
        record = self._record.setdefault(f"{row.name}-{seed}", {})
        if not (run_workdir(self.folder, row.name, seed) / "checkpoints").exists():
            for name in ("open", "seconds", "cpu_seconds"):  # of a training that is gone
                record.pop(name, None)
        # It was killed: what that one took is not known, nor is the sum.
        lost = record.get("open", False)
        record["open"] = True
        # Older results may remain after a stop; the rows that use this run are out of date with it.
        for each in (row, *(other for other in self.study.rows if row.name in other.needs())):
            self._record.get(f"{each.name}-{seed}", {}).pop("done", None)
        self.failures.pop((row.name, seed), None)
        try:
            self._check_needed(row, seed, record)
            self._write()
            evaluation = self._job(row, seed)()
            record["predict_cpu_seconds"] = evaluation.cpu_seconds
            record["made_of"] = made_of(evaluation.metrics)
            record["done"] = self._digest(row, seed)
        except Interrupted:
            raise
        except InputError as error:
            self._fail(row, seed, str(error))
        except Exception as error:  # any other error: the other runs may work
            log.error("%s", traceback.format_exc())
            self._fail(row, seed, f"{type(error).__name__}: {error}")
        finally:
            # The next run does not use the compiled programs of this one, which take memory.
            jax.clear_caches()
            for name, clock in clocks.items():
                record[name] = record.get(name, 0.0) + clock() - began[name]
            for name in ("seconds", "cpu_seconds") if lost else ("open",):
                record.pop(name, None)
            self._write()

    def outcomes(self) -> list[Outcome]:
        """The outcome of every row and seed so far."""
        return [self._outcome(row, seed) for row in self.study.rows for seed in self.study.seeds]

    def _outcome(self, row: Row, seed: int) -> Outcome:
        results = self._results(row, seed)
        workdir = run_workdir(self.folder, row.runs_of[0], seed)
        outcome = Outcome(
            row=row.name, seed=seed, status="waiting", folder=results, workdir=workdir
        )
        if reason := self.failures.get((row.name, seed)):
            return dataclasses.replace(outcome, status=f"failed: {reason}")
        if not self.is_done(row, seed):
            return outcome
        clean = results / CLEAN if row.evaluates else results.with_name(CLEAN)
        values, intervals = _measured(results, clean, row.guidance)
        return dataclasses.replace(
            outcome,
            status="done",
            seconds=self._record.get(f"{row.name}-{seed}", {}).get("seconds"),
            **self._cost(row, seed),
            values=values,
            intervals=intervals,
            clean=clean if (clean / "metrics.json").exists() else None,
        )

    def _cost(self, row: Row, seed: int) -> dict[str, Any]:
        """The costs of an `Outcome`."""
        if row.guidance:
            return {}
        trained = [self._record.get(f"{name}-{seed}", {}) for name in row.runs_of]
        known = [each["cpu_seconds"] for each in trained if "cpu_seconds" in each]
        own = self._record.get(f"{row.name}-{seed}", {})
        return {
            "train_cpu": sum(known) if len(known) == len(trained) else None,
            "predict_cpu": own.get("predict_cpu_seconds"),
        }

    def _fail(self, row: Row, seed: int, reason: str) -> None:
        self.failures[row.name, seed] = reason
        log.error("study: %s, seed %d failed: %s", row.name, seed, reason)

    def _write(self) -> None:
        if parallel.is_main_process():
            write_json(self.folder / RECORD, self._record)

    def _needed(self, row: Row) -> list[Row]:
        return [each for each in self.study.rows if each.name in row.needs()]

    def _digest(self, row: Row, seed: int) -> str:
        """A hash of what determines a row's results: its configuration, and those of its needs."""
        config = self.configs[row.name, seed]
        facts = [
            config_sha256(config),
            # A run may go on with other values of these, but its results change.
            config.train.max_steps,
            config.train.patience,
            config.eval.bootstrap,
            *filter(None, [self._minutes(row)]),
            [self._digest(each, seed) for each in self._needed(row)],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _check_needed(self, row: Row, seed: int, record: dict[str, Any]) -> None:
        """Refuse a row whose needed runs are not done, or have changed since it started from them.

        Raises:
          InputError: naming the row, or the workdir to remove.
        """
        needed = self._needed(row)
        for each in needed:
            if not self._is_recorded(each, seed):
                raise InputError(f"row {each.name}, which it needs, is not done")
        start = {each.name: self._fingerprint(each, seed) for each in needed}
        workdir = run_workdir(self.folder, row.name, seed)
        if record.get("started_from", start) != start and (workdir / "checkpoints").exists():
            names = ", ".join(each.name for each in needed)
            raise InputError(
                f"{workdir} started from another run of {names}; remove it to train it again"
            )
        record["started_from"] = start

    def _fingerprint(self, row: Row, seed: int) -> str:
        """Of the best checkpoint, which other runs start from."""
        workdir = run_workdir(self.folder, row.name, seed)
        metric = self.configs[row.name, seed].checkpoint.metric
        with Checkpoints(workdir, metric, read_only=True) as checkpoints:
            return checkpoints.fingerprint(checkpoints.best_step)

    def _job(self, row: Row, seed: int) -> Callable[[], Evaluation]:
        """A function that computes the results of a row and a seed."""
        config, results = self.configs[row.name, seed], self._results(row, seed)
        workdirs = [run_workdir(self.folder, name, seed) for name in row.runs_of]
        if row.config:
            return partial(api.train, config, workdirs[0], self._minutes(row))
        return partial(api.evaluate_ensemble, config, workdirs, results)

    def _minutes(self, row: Row) -> float | None:
        """Of the training of a row, if they choose its epochs."""
        return None if "train.epochs" in row.changes else self.study.minutes

    def _results(self, row: Row, seed: int) -> Path:
        """The folder for the `metrics.json` of a row and a seed."""
        if row.evaluates:
            return run_workdir(self.folder, row.name, seed)
        return run_workdir(self.folder, row.runs_of[0], seed) / "eval/test"


def made_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores of a `metrics.json` say that they are of."""
    return {name: scores[name] for name in PROVENANCE if name in scores}


def read_scores(folder: Path, guidance: bool) -> dict[str, Any]:
    """The `metrics.json` of an evaluation, or the part of the guidance prediction."""
    found = scores_of(folder / "metrics.json")
    return found["guidance"] if guidance else found


def _measured(
    results: Path, clean: Path, guidance: bool
) -> tuple[dict[str, float], dict[str, Sequence[float]]]:
    """The metrics of an evaluation and their intervals.

    Args:
      results: folder of the evaluation.
      clean: that of its clean part, where there is one.
      guidance: take those of the guidance prediction.
    """
    whole = read_scores(results, guidance)
    known = {**whole, **_named(CALIBRATED, whole.get(CALIBRATED) or {})}
    values = {name: known[name] for name in METRICS if known.get(name) is not None}
    intervals = {name: whole["ci95"][name] for name in values if whole["ci95"].get(name)}
    if whole["confusion"] and (clean / "metrics.json").exists():
        part = read_scores(clean, guidance)
        values[CLEAN_ACCURACY] = part["accuracy"]
        # The other images are leaked: their lesion or patient is in training as well.
        inside = np.array(part["confusion"])
        leaked = np.array(whole["confusion"]) - inside
        values[LEAKED] = float(leaked.trace() / leaked.sum())
        of_class, wanted = inside.sum(axis=1), leaked.sum(axis=1)
        if np.all(of_class[wanted > 0] > 0):  # else the clean part lacks a class
            recall = inside.diagonal() / np.maximum(of_class, 1)
            values[CLEAN_MATCHED] = float(recall @ wanted / wanted.sum())
    return values, intervals


def _named(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}.{name}": value for name, value in values.items()}
