"""A configuration: the groups of fields as one complete and valid whole.

A `Config` holds no open field, and one that cannot work cannot be made. `groups` declares the
fields; `diffmic_jax.recipes` has the published configurations.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from diffmic_jax.consistency import check_together
from diffmic_jax.errors import InputError
from diffmic_jax.fields import FieldSpec, as_json, field, flatten, no_such_field, specs
from diffmic_jax.groups import (
    Checkpoint,
    Data,
    Denoiser,
    Diffusion,
    Eval,
    Guidance,
    Model,
    Sampling,
    Train,
)

__all__ = [
    "Checkpoint",
    "Config",
    "Data",
    "Denoiser",
    "Diffusion",
    "Eval",
    "Guidance",
    "Model",
    "Sampling",
    "Train",
    "fields",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A complete configuration.

    Raises:
      InputError: in one line, for the first value that cannot work.
    """

    recipe: str = field("", "the recipe that it started from; a name, nothing depends on it")
    seed: int = field(0, "of all random numbers but the split's", low=0, high=2**32 - 1)
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    denoiser: Denoiser = dataclasses.field(default_factory=Denoiser)
    diffusion: Diffusion = dataclasses.field(default_factory=Diffusion)
    train: Train = dataclasses.field(default_factory=Train)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    eval: Eval = dataclasses.field(default_factory=Eval)

    def __post_init__(self) -> None:
        """Check every value, then those that have to go together."""
        for spec in fields():
            spec.check(spec.typed(_value(self, spec.name)))
        check_together(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], what: str = "configuration") -> Config:
        """The inverse of `to_dict`.

        Args:
          values: nested; every field has to be there.
          what: names it in an error.

        Raises:
          InputError: fields are missing or unknown, or a value cannot work.
        """
        flat = flatten(values)
        known = {spec.name: spec for spec in fields()}
        unknown, missing = flat.keys() - known.keys(), known.keys() - flat.keys()
        if unknown:
            raise InputError(f"{what}: {no_such_field(min(unknown), known)}")
        if missing:
            raise InputError(f"{what}: config.{min(missing)} is missing")
        return _build({name: spec.typed(flat[name]) for name, spec in known.items()})

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, as JSON has them: tuples are lists."""
        return typing.cast(dict[str, Any], as_json(dataclasses.asdict(self)))

    def changed(self, changes: Mapping[str, Any]) -> Config:
        """The same configuration with other values.

        Args:
          changes: field, as `train.epochs`, to value.

        Raises:
          InputError: for an unknown field or a value that cannot work.
        """
        known = {spec.name: spec for spec in fields()}
        for name in changes:
            if name not in known:
                raise InputError(no_such_field(name, known))
        flat = {name: _value(self, name) for name in known}
        return _build(flat | {name: known[name].typed(x) for name, x in changes.items()})


def fields() -> tuple[FieldSpec, ...]:
    """Every field, in the order of declaration."""
    return _FIELDS


_FIELDS = tuple(specs(Config))
GROUPS: Mapping[str, type] = types.MappingProxyType(
    {
        each.name: typing.get_type_hints(Config)[each.name]
        for each in dataclasses.fields(Config)
        if dataclasses.is_dataclass(typing.get_type_hints(Config)[each.name])
    }
)
"""Name of each group of fields -> its class."""


def _build(flat: Mapping[str, Any]) -> Config:
    """A configuration of all its fields."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("", *GROUPS)}
    for path, value in flat.items():
        group, _, name = path.rpartition(".")
        groups[group][name] = value
    alone = groups.pop("")
    return Config(**alone, **{name: GROUPS[name](**values) for name, values in groups.items()})


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
