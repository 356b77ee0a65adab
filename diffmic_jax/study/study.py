"""What a study is: many runs and one table, as a file of the user's describes them.

A study file has `get_study(variant) -> Study`. `study_runs` runs it, `study_tables` writes its
tables.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from diffmic_jax.errors import InputError
from diffmic_jax.settings import call_in_file, load_config, resolve

Configs = dict[tuple[str, int], ml_collections.ConfigDict]
"""(row, seed) -> its resolved configuration."""
_NAME_IN_TEXT = re.compile(r"\{([\w.-]+)\}")


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

    def stands_on(self) -> set[str]:
        """The rows whose runs this one needs."""
        named = _NAME_IN_TEXT.findall(str([*self.changes.values()]))
        return {*named, self.of} - {""}


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared with what."""

    title: str
    rows: tuple[Row, ...]
    """The others are compared with the first."""
    seeds: tuple[int, ...] = (0,)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of every row that is trained, before its own."""
    compared: bool = True
    """Whether the rows have the same test images, so that each can be compared with the first."""

    def __post_init__(self) -> None:
        """Refuse rows and seeds that cannot be run."""
        _check_types(self)
        if not self.rows or not self.seeds:
            raise InputError("study: has no rows or no seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"study: seeds {self.seeds} repeat one; give each once")
        names = [row.name for row in self.rows]
        trained = {row.name for row in self.rows if row.config}
        for i, row in enumerate(self.rows):
            if not re.fullmatch(r"[\w.-]+", row.name) or names.count(row.name) > 1:
                raise InputError(f"study: row name {row.name!r} is no word of its own")
            _check_kind(row)
            for name in {row.of, *row.stands_on().intersection(names)} - {""}:
                if name not in trained:
                    raise InputError(f"study: row {row.name}: no row {name!r} is trained")
                if name not in names[:i] and not row.guidance:  # of which nothing is run
                    raise InputError(
                        f"study: row {row.name} needs the row {name}, which has to come before it"
                    )

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

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
            missing = row.stands_on().intersection(known).difference(names)
            if row.name in names and missing:
                raise InputError(f"study: row {row.name} needs the row {', '.join(missing)} too")
        rows = tuple(row for row in self.rows if row.name in names)
        return dataclasses.replace(self, rows=rows)

    def with_changes(self, changes: Mapping[str, Any]) -> Study:
        """The same study where these changes have the last word in every row that is trained."""
        rows = tuple(
            dataclasses.replace(row, changes={**row.changes, **changes}) if row.config else row
            for row in self.rows
        )
        return dataclasses.replace(self, rows=rows)


def _check_types(study: Study) -> None:
    """Refuse what a slip in a study file leaves: one row without its comma, a number of seeds."""
    whole = (
        isinstance(study.rows, tuple)
        and all(isinstance(row, Row) for row in study.rows)
        and isinstance(study.seeds, tuple)
        and all(isinstance(seed, int) for seed in study.seeds)
    )
    if not whole:
        raise InputError("study: rows is a tuple of Row, and seeds one of whole numbers")
    fields = [study.changes, *(each for row in study.rows for each in (row.changes, row.sampling))]
    if not all(isinstance(each, Mapping) for each in fields):
        raise InputError("study: changes and sampling are dictionaries, field to value")


def _check_kind(row: Row) -> None:
    """Refuse a row that is not of exactly one kind."""
    kinds = (row.config, row.of and row.guidance, row.of and row.sampling)
    idle = (row.guidance or row.sampling) if row.config else row.changes
    if sum(map(bool, kinds)) != 1 or bool(row.config and row.of) or idle:
        raise InputError(
            f"study: row {row.name}: give config, maybe with changes; or of, with guidance or with "
            "sampling"
        )


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


def make_configs(study: Study, folder: Path) -> Configs:
    """The resolved configurations of all runs; a row of the guidance alone has none of its own.

    Raises:
      InputError: for an unknown field or a value that cannot work, naming the row.
    """
    return {
        (row.name, seed): make_config(study, row, seed, folder)
        for row in study.rows
        for seed in study.seeds
        if not row.guidance
    }


def make_config(study: Study, row: Row, seed: int, folder: Path) -> ml_collections.ConfigDict:
    """The resolved configuration of one run, or of one evaluation. Errors as in `make_configs`."""
    trained = study.row(row.of) if row.of else row
    places = {each.name: str(run_workdir(folder, each.name, seed)) for each in study.rows}
    changes = {**study.changes, **trained.changes}
    if "seed" in changes:
        raise InputError(f"study row {row.name}: seed is no change; give the study its seeds")
    try:
        config = _changed(load_config(trained.config), {**changes, "seed": seed}, places)
        # On what the recipe has decided, so that another number of steps is all that changes.
        sampling = {f"sampling.{name}": value for name, value in row.sampling.items()}
        return _changed(config, sampling, {}) if sampling else config
    except InputError as error:
        raise InputError(f"study row {row.name}: {error}") from error


def _changed(
    config: ml_collections.ConfigDict, changes: Mapping[str, Any], places: Mapping[str, str]
) -> ml_collections.ConfigDict:
    """The resolved configuration with changes, in which `{NAME}` is one of the places.

    Raises:
      InputError: for an unknown field or a value that cannot work.
    """
    for field, value in changes.items():
        group, _, name = field.rpartition(".")
        try:
            within = config[group] if group else config
            if name not in within or isinstance(within[name], ml_collections.ConfigDict):
                raise KeyError("there is no such field")
            if isinstance(value, str):
                value = _NAME_IN_TEXT.sub(lambda found: places[found[1]], value)
            config.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, ValueError) as error:
            reason = error.args[0] if error.args else error
            raise InputError(f"config.{field}={value!r}: {reason}") from error
    return resolve(config)
