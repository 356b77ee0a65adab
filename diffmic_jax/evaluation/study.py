"""Many runs and one table: ablations, baselines, seeds.

A study file has `get_study(variant) -> Study`. Its runs are trained one after the other, all rows
of the first seed before the second seed's, each into a workdir of its own, and the tables are
written anew after every run. A run that fails is told and left behind; a study that was stopped
goes on where it was.

Every number of a table stands in the `metrics.json` of a run, which `study.csv` names.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from diffmic_jax.data.sources import CLEAN
from diffmic_jax.evaluation.records import write_json, write_text
from diffmic_jax.settings import call_in_file, load_config, resolve
from diffmic_jax.training import parallel
from diffmic_jax.types import InputError, Interrupted
from diffmic_jax.workdir import as_json

log = logging.getLogger("diffmic_jax")

Failures = dict[tuple[str, int], str]
"""(row, seed) -> why it failed just now."""
Configs = dict[tuple[str, int], ml_collections.ConfigDict]
"""(row, seed) -> its resolved configuration."""
METRICS = ("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece")
SAMPLING = "sampling.json"
"""Beside the results of a row that only evaluates otherwise: how."""
LEAKED, CLEAN_ACCURACY = "accuracy_leaked", "accuracy_clean"
CLEAN_MATCHED = "accuracy_clean_matched"
"""Of the clean images, where each class counts as often as in the leaked ones."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a configuration, run once for each seed."""

    name: str
    """Of letters, digits and `._-`; it names the workdirs."""
    config: str = ""
    """As `main.py --config` takes it: FILE or FILE:RECIPE."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field -> value; in a text, `{NAME}` is the workdir of that row's run of the same seed."""
    of: str = ""
    """Instead of a configuration: nothing is trained, that row's runs are looked at otherwise."""
    guidance: bool = False
    """The guidance alone of the runs `of` that row."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `config.sampling` with which the runs `of` that row are evaluated anew."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared with what."""

    title: str
    rows: tuple[Row, ...]
    """The others are compared with the first."""
    seeds: tuple[int, ...] = (0,)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of every row, before its own."""
    compared: bool = True
    """Whether the rows have the same test images, so that each can be compared with the first."""

    def __post_init__(self) -> None:
        """Check the names."""
        names = [row.name for row in self.rows]
        for row in self.rows:
            if not re.fullmatch(r"[\w.-]+", row.name) or names.count(row.name) > 1:
                raise InputError(f"study: row name {row.name!r} is no word of its own")
            if row.of and row.of not in {each.name for each in self.rows if each.config}:
                raise InputError(f"study: row {row.name}: no row {row.of!r} is trained")
            kinds = (row.config, row.of and row.guidance, row.of and row.sampling)
            if sum(map(bool, kinds)) != 1 or bool(row.config and row.of):
                raise InputError(
                    f"study: row {row.name}: give config, or of with guidance or with sampling"
                )
        if not names or not self.seeds:
            raise InputError("study: has no rows or no seeds")

    def with_rows(self, names: Collection[str]) -> Study:
        """The same study with some of its rows, in its own order.

        Raises:
          InputError: it lacks one of them, or one of these stands on a row that is left out.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise InputError(f"study: has no row {name!r}; it has {', '.join(known)}")
        for row in self.rows:
            stands_on = {row.of, *re.findall(r"\{([\w.-]+)\}", str([*row.changes.values()]))}
            missing = stands_on.intersection(known).difference(names)
            if row.name in names and missing:
                raise InputError(f"study: row {row.name} needs the row {', '.join(missing)} too")
        rows = tuple(row for row in self.rows if row.name in names)
        return dataclasses.replace(self, rows=rows)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one row for one seed."""

    row: str
    seed: int
    status: str
    """`done`, `waiting`, or `failed: ` and why."""
    folder: Path
    """With `metrics.json` and `predictions.csv`."""
    seconds: float = 0.0
    """In which this machine trained and evaluated it."""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """95%, by bootstrap over the test images."""


def load_study(spec: str) -> Study:
    """The study that `FILE` or `FILE:VARIANT` names.

    Raises:
      InputError: there is no such file or variant.
    """
    found = call_in_file(spec, "get_study", f"study {spec}")
    if not isinstance(found, Study):
        raise InputError(f"study {spec}: get_study gives no Study")
    return found


def parse_change(text: str) -> tuple[str, Any]:
    """`FIELD=VALUE` of a command line; what is no Python literal is a text.

    Raises:
      InputError: it has no `=`.
    """
    field, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: is not FIELD=VALUE")
    try:
        return field, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return field, value


def run_workdir(folder: Path, row: str, seed: int) -> Path:
    """Where a study's run lives."""
    return folder / "runs" / f"{row}-{seed}"


def make_config(study: Study, row: Row, seed: int, folder: Path) -> ml_collections.ConfigDict:
    """The resolved configuration of one run.

    Raises:
      InputError: for an unknown field or a value that cannot work.
    """
    config = load_config(row.config)
    places = {each.name: str(run_workdir(folder, each.name, seed)) for each in study.rows}
    for field, value in {**study.changes, **row.changes, "seed": seed}.items():
        group, _, name = field.rpartition(".")
        try:
            if name not in (config[group] if group else config):
                raise KeyError("there is no such field")
            if isinstance(value, str):
                value = re.sub(r"\{([\w.-]+)\}", lambda found: places[found[1]], value)
            config.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, ValueError) as error:
            reason = error.args[0] if error.args else error
            raise InputError(f"study row {row.name}: config.{field}={value!r}: {reason}") from error
    return resolve(config)


def run_study(study: Study, folder: Path, tell: Callable[[Study, Path, Failures], object]) -> bool:
    """Run what is not done yet.

    Args:
      study: as `load_study` gives it.
      folder: where it lives: `runs/`, `seconds.json` and what `tell` writes.
      tell: called after every run, or once if there is nothing to run, with the failures so far.

    Returns:
      Whether every run is done.

    Raises:
      InputError: a configuration cannot work; nothing has run then.
      Interrupted: the run at hand was asked to stop, and is saved.
    """
    # All at once, so that a typo in the last row does not cost a day.
    configs = make_configs(study, folder)
    failures: Failures = {}
    ran = False
    for seed in study.seeds:
        for row in study.rows:
            if row.guidance or _is_done(row, seed, folder, configs):
                continue
            log.info("study: %s, seed %d", row.name, seed)
            reason = _attempt(_job(row, seed, folder, configs), folder, f"{row.name}-{seed}")
            if reason:
                failures[row.name, seed] = reason
                log.error("study: %s, seed %d failed: %s", row.name, seed, reason)
            tell(study, folder, failures)
            ran = True
    if not ran:
        tell(study, folder, failures)
    return not failures


def make_configs(study: Study, folder: Path) -> Configs:
    """The configurations of all runs. Errors as in `make_config`."""
    return {
        (row.name, seed): make_config(study, row, seed, folder)
        for row in study.rows
        for seed in study.seeds
        if row.config
    }


def _is_done(row: Row, seed: int, folder: Path, configs: Configs) -> bool:
    """Whether the results of a row and a seed are there, and of this very configuration."""
    trained = run_workdir(folder, row.of or row.name, seed)
    metrics = _results(row, seed, folder) / "metrics.json"
    try:
        config = json.loads((trained / "config.json").read_text())
        if row.sampling and metrics.with_name(SAMPLING).read_text() != _as_text(row.sampling):
            return False
        # What is evaluated otherwise is evaluated after the training.
        newest = (trained / "eval/test/metrics.json").stat().st_mtime_ns
        return config == as_json(configs[row.of or row.name, seed]) and (
            metrics.stat().st_mtime_ns >= newest
        )
    except (OSError, ValueError):
        return False


def _job(row: Row, seed: int, folder: Path, configs: Configs) -> Callable[[], object]:
    """What makes the results of a row and a seed."""
    from diffmic_jax import experiment  # which stands on this package

    workdir = run_workdir(folder, row.of or row.name, seed)
    config = configs[row.of or row.name, seed]
    if row.config:
        return partial(experiment.run, config, workdir, "train")
    out, sampling = _results(row, seed, folder), dict(row.sampling)

    def evaluate() -> None:
        experiment.evaluate_workdir(workdir, "test", out, sampling, config.data.root)
        if parallel.is_main_process():
            write_text(out / SAMPLING, _as_text(sampling))

    return evaluate


def _as_text(sampling: Mapping[str, Any]) -> str:
    return json.dumps(dict(sampling), sort_keys=True)


def _attempt(job: Callable[[], object], folder: Path, name: str) -> str:
    """Do a job; returns why that failed, or nothing."""
    began = time.monotonic()
    try:
        job()
    except Interrupted:
        raise
    except InputError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other runs may do without
        log.error("%s", traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    finally:
        # Compiled programs of one run are nothing to the next, and take memory.
        jax.clear_caches()
        if parallel.is_main_process():
            spent = _seconds(folder)
            spent[name] = spent.get(name, 0.0) + time.monotonic() - began
            write_json(folder / "seconds.json", spent)
    return ""


def _seconds(folder: Path) -> dict[str, float]:
    path = folder / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _results(row: Row, seed: int, folder: Path) -> Path:
    """Where the `metrics.json` of a row and a seed is, or will be."""
    if row.sampling:
        return run_workdir(folder, row.name, seed)
    return run_workdir(folder, row.of or row.name, seed) / "eval/test"


def outcomes(study: Study, folder: Path, failures: Failures) -> list[Outcome]:
    """What became of every row and seed so far."""
    spent, configs = _seconds(folder), make_configs(study, folder)
    found = []
    for row in study.rows:
        for seed in study.seeds:
            results = _results(row, seed, folder)
            reason = failures.get((row.name, seed))
            if reason or not _is_done(row, seed, folder, configs):
                status = f"failed: {reason}" if reason else "waiting"
                found.append(Outcome(row.name, seed, status, results))
                continue
            values, intervals = _measured(results, row.guidance)
            seconds = spent.get(f"{row.name}-{seed}", 0.0)
            found.append(Outcome(row.name, seed, "done", results, seconds, values, intervals))
    return found


def _measured(results: Path, guidance: bool) -> tuple[dict[str, float], dict[str, Sequence[float]]]:
    """The metrics of an evaluation and their intervals."""

    def scores(folder: Path) -> dict[str, Any]:
        found = json.loads((folder / "metrics.json").read_text())
        return found["guidance"] if guidance else found

    whole = scores(results)
    values = {name: whole[name] for name in METRICS if whole[name] is not None}
    intervals = {name: whole["ci95"][name] for name in values if whole["ci95"].get(name)}
    if whole["confusion"] and (results.with_name(CLEAN) / "metrics.json").exists():
        clean = scores(results.with_name(CLEAN))
        values[CLEAN_ACCURACY] = clean["accuracy"]
        # The others are those whose lesion or patient is in training as well.
        inside = np.array(clean["confusion"])
        leaked = np.array(whole["confusion"]) - inside
        values[LEAKED] = float(leaked.trace() / leaked.sum())
        recall = inside.diagonal() / np.maximum(inside.sum(axis=1), 1)
        values[CLEAN_MATCHED] = float(recall @ leaked.sum(axis=1) / leaked.sum())
    return values, intervals
