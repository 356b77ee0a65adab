"""What a field of a configuration is, and how a value of it is checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from diffmic_jax.errors import InputError


def field(
    default: Any,
    help_text: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    unit: str = "",
    free: bool = False,
) -> Any:
    """A field of a configuration.

    Args:
      default: its value where a recipe does not set it.
      help_text: one line.
      low: smallest number.
      high: largest number.
      unit: of the number.
      free: a run may go on with another value: it changes where things are or how they are shown,
        not what is computed.
    """
    facts = {"help": help_text, "low": low, "high": high, "unit": unit, "free": free}
    return dataclasses.field(default=default, metadata=facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """What is declared of one field."""

    name: str
    """As `train.epochs`."""
    kind: Any
    """Its type: int, float, bool, str, a tuple, or a Literal of its allowed values."""
    default: Any
    help: str
    low: float
    high: float
    unit: str
    free: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, if they can be listed."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def type(self) -> type:
        """The Python type of a value."""
        if self.choices:
            return str
        return typing.cast(type, typing.get_origin(self.kind) or self.kind)

    def typed(self, value: Any) -> Any:
        """A value as JSON, a flag or Python code gives it, in the field's own type.

        Raises:
          InputError: for a value of another type.
        """
        wanted = self.type
        if wanted is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(self.kind)[0]
            # A flag gives classes named 0, 1, 2 as numbers.
            if all(isinstance(x, inner) or type(x) is int for x in value):
                return tuple(map(inner, value))
        elif wanted is float and type(value) in (int, float):
            return float(value)
        elif type(value) is wanted:
            # The shell leaves the ~ of --config.data.root=~/photos to the program.
            return os.path.expanduser(value) if isinstance(value, str) else value
        raise InputError(
            f"config.{self.name}={value!r} is of the wrong type; give "
            f"{'a tuple' if wanted is tuple else wanted.__name__}"
        )

    def check(self, value: Any) -> None:
        """Refuse a value that is not allowed.

        Raises:
          InputError: naming the field and what is allowed.
        """
        if self.choices and value not in self.choices:
            raise InputError(
                f"config.{self.name}={value!r} is unknown; choose one of {', '.join(self.choices)}"
            )
        if self.type in (int, float) and not (
            self.low <= value <= self.high and math.isfinite(value)
        ):
            fix = f"{self.low:g} to {self.high:g}"
            if self.high == math.inf:
                fix = f"at least {self.low:g}"
            raise InputError(f"config.{self.name}={value} is out of range; give {fix}")


def specs(cls: type, prefix: str = "") -> Iterator[FieldSpec]:
    """Every field that a dataclass and the dataclasses in it declare, in their order."""
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[each.name]):
            yield from specs(hints[each.name], f"{prefix}{each.name}.")
        else:
            yield FieldSpec(
                name=prefix + each.name,
                kind=hints[each.name],
                default=each.default,
                **each.metadata,
            )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to `{'a.b': value}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def as_json(value: Any) -> Any:
    """Nested dictionaries with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


RENAMED: Mapping[str, str] = types.MappingProxyType(
    {
        "data.horizontal_flip": "data.flip",
        "data.vertical_flip": "data.flip",
        "data.train_list": "data.lists",
        "data.test_list": "data.lists",
        "guidance.width": "model.width",
        "guidance.stem": "model.stem",
        "guidance.amsgrad": "guidance.optimizer",
        "denoiser.width": "model.width",
        "denoiser.stem": "model.stem",
        "denoiser.predicts": "denoiser.parameterization",
        "denoiser.guidance_dropout": "denoiser.conditioning_dropout",
        "denoiser.guidance_features": "",
        "denoiser.guidance_swap": "",
        "denoiser.map_size": "guidance.num_regions",
        "diffusion.beta_start": "diffusion.schedule",
        "diffusion.beta_end": "diffusion.schedule",
        "train.share_guidance": "",
        "sampling.stop": "",
        "sampling.average": "",
        "sampling.antithetic": "",
        "sampling.withhold": "sampling.unconditional",
        "sampling.guess_weight": "sampling.ensemble_weight",
        "sampling.eta": "",
    }
)
"""Field before version 0.2.0 -> the field that has its place; empty where it was removed."""


def no_such_field(name: str, known: Collection[str]) -> str:
    """The error about a name that is no field, with the field that it may stand for.

    Args:
      name: as `train.epoch`.
      known: the names of all fields.
    """
    inside = [each for each in known if each.startswith(f"{name}.")]
    if inside:
        return f"config.{name} is a group of fields; give one of them, as config.{inside[0]}"
    if name in RENAMED:
        new = RENAMED[name]
        return f"config.{name} " + (f"is now config.{new}" if new else "was removed; leave it out")
    return f"config.{name}: there is no such field{did_you_mean(close_fields(name, known))}"


def close_fields(name: str, known: Iterable[str]) -> list[str]:
    """The fields that a name may stand for: of its own group, else those of the same last part.

    Args:
      name: as `train.epoch`, `image_size` or `data.batch_size`.
      known: the names of all fields.
    """
    group, _, last = name.rpartition(".")
    by_last: dict[str, list[str]] = defaultdict(list)
    for each in known:
        by_last[each.rpartition(".")[2]].append(each)
    for close in difflib.get_close_matches(last, by_last, 1, 0.8):
        own = [each for each in by_last[close] if each == f"{group}.{close}"]
        return own or by_last[close]
    return difflib.get_close_matches(name, known, 1)


def did_you_mean(names: Sequence[str]) -> str:
    """The end of an error about a name that is close to these; empty without one."""
    return f"; did you mean {' or '.join(names)}?" if names else ""
