"""What a study is: many runs and one table, described in a Python file.

A study file has a function `get_study(variant) -> Study`. `study.runs` runs it, `study.tables`
writes its tables.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffmic_jax import configfile
from diffmic_jax.config import Config
from diffmic_jax.errors import InputError

Configs = dict[tuple[str, int], Config]
"""(row, seed) -> its configuration."""
_NAME_IN_TEXT = re.compile(r"\{([\w.-]+)\}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a configuration, run once for each seed."""

    name: str
    """Letters, digits and `._-`; the workdirs are named after it."""
    config: str = ""
    """As `--config` of the command line: NAME or FILE, perhaps with :RECIPE."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field -> value; in a string, `{NAME}` is the workdir of that row's run of the same seed."""
    of: str = ""
    """Instead of a configuration: the runs of that row are used, and nothing is trained."""
    guidance: bool = False
    """The results of the guidance prediction in the runs `of` that row."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `config.sampling` to change; the runs `of` that row are evaluated with them."""
    members: tuple[str, ...] = ()
    """Instead of a configuration: the mean prediction of the runs of these rows."""
    seed_shift: int = 0
    """Added to the seed of its trainings, so that a member of an ensemble is one of its own."""

    def needs(self) -> set[str]:
        """The rows whose runs this one uses."""
        named = _NAME_IN_TEXT.findall(str([*self.changes.values()]))
        return {*named, self.of, *self.members} - {""}

    @property
    def runs_of(self) -> tuple[str, ...]:
        """The rows whose trainings the results are of."""
        return self.members or (self.of or self.name,)

    @property
    def evaluates(self) -> bool:
        """Whether trainings of other rows are evaluated anew, into a folder of its own."""
        return bool(self.sampling or self.members)


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs that are compared with each other."""

    title: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0,)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of every row that is trained; those of a row win over them."""
    minutes: float | None = None
    """Of each run that is trained, which choose its epochs; None: as the configurations have. A row
    whose changes have `train.epochs` keeps them."""
    against: str | None = ""
    """The row that the others are compared with; empty: the first. None: no row is compared, since
    they have other test images."""

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
                raise InputError(
                    f"study: row name {row.name!r} is not unique, or not of letters, digits and ._-"
                )
            _check_kind(row)
            for name in {row.of, *row.members, *row.needs().intersection(names)} - {""}:
                if name not in trained:
                    raise InputError(f"study: row {row.name}: no row {name!r} is trained")
                if name not in names[:i] and not row.guidance:  # for which nothing is run
                    raise InputError(
                        f"study: row {row.name} needs the row {name}, which has to come before it"
                    )

        if self.against and self.against not in names:
            raise InputError(f"study: has no row {self.against!r} to compare the others with")

    @property
    def rival(self) -> Row:
        """The row that the others are compared with."""
        return self.row(self.against) if self.against else self.rows[0]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def with_rows(self, names: Collection[str]) -> Study:
        """The same study with some of its rows, in its own order.

        Where the row that the others are compared with is left out, the first takes its place.

        Raises:
          InputError: there is no such row, or one of them needs a row that is left out.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise InputError(f"study: has no row {name!r}; it has {', '.join(known)}")
        for row in self.rows:
            missing = row.needs().intersection(known).difference(names)
            if row.name in names and missing:
                raise InputError(f"study: row {row.name} needs the row {', '.join(missing)} too")
        rows = tuple(row for row in self.rows if row.name in names)
        against = "" if self.against and self.against not in names else self.against
        return dataclasses.replace(self, rows=rows, against=against)

    def with_changes(self, changes: Mapping[str, Any]) -> Study:
        """The same study with these changes in every row that is trained; they win over its own."""
        rows = tuple(
            dataclasses.replace(row, changes={**row.changes, **changes}) if row.config else row
            for row in self.rows
        )
        return dataclasses.replace(self, rows=rows)


def _check_types(study: Study) -> None:
    """Refuse values of a wrong type, as one row without its comma or a number of seeds."""
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
    kinds = (row.config, row.of and row.guidance, row.of and row.sampling, row.members)
    mixed = (row.config or row.members) and row.of
    trained, asked_anew = row.changes or row.seed_shift, row.guidance or row.sampling
    unused = (trained and not row.config) or (asked_anew and not row.of)
    if sum(map(bool, kinds)) != 1 or mixed or unused:
        raise InputError(
            f"study: row {row.name}: give config, perhaps with changes; or of, with guidance or "
            "with sampling; or members"
        )


def load_study(spec: str) -> Study:
    """The study that `FILE` or `FILE:VARIANT` names.

    Raises:
      InputError: there is no such file or variant.
    """
    found = configfile.call(spec, "get_study", f"study {spec}")
    if not isinstance(found, Study):
        raise InputError(f"study {spec}: get_study returns no Study")
    return found


def parse_change(text: str) -> tuple[str, Any]:
    """`FIELD=VALUE` of a command line; a value that is no Python literal is a string.

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
    """The configurations of all runs; a row of the guidance prediction has none of its own.

    Raises:
      InputError: for an unknown field or a value that cannot work, naming the row.
    """
    return {
        (row.name, seed): make_config(study, row, seed, folder)
        for row in study.rows
        for seed in study.seeds
        if not row.guidance
    }


def make_config(study: Study, row: Row, seed: int, folder: Path) -> Config:
    """The configuration of one run, or of one evaluation. Errors as in `make_configs`."""
    trained = study.row(row.runs_of[0])
    places = {each.name: str(run_workdir(folder, each.name, seed)) for each in study.rows}
    changes = {**study.changes, **trained.changes}
    if "seed" in changes:
        raise InputError(f"study row {row.name}: seed is no change; give the study its seeds")
    sampling = {f"sampling.{name}": value for name, value in row.sampling.items()}
    try:
        config = configfile.load(trained.config).changed(
            _placed(changes, places) | {"seed": seed + trained.seed_shift}
        )
        return config.changed(sampling)
    except InputError as error:
        raise InputError(f"study row {row.name}: {error}") from error


def _placed(changes: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Changes in whose strings `{NAME}` is replaced by one of the places.

    Raises:
      InputError: there is no such name.
    """
    placed = dict(changes)
    for field, value in changes.items():
        names = _NAME_IN_TEXT.findall(value) if isinstance(value, str) else []
        if odd := [name for name in names if name not in places]:
            raise InputError(f"config.{field}={value!r}: there is no row {odd[0]!r}")
        if names:
            placed[field] = _NAME_IN_TEXT.sub(lambda found: places[found[1]], value)
    return placed
