"""Write docs/config.md from the declarations in `diffmic_jax/groups.py`, and from the recipes.

python scripts/write_config_docs.py
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffmic_jax import config, recipes
from diffmic_jax.fields import FieldSpec, flatten

FILE = Path(__file__).parents[1] / "docs" / "config.md"
INTRODUCTION = """# Configuration

Every field of a run. `scripts/write_config_docs.py` writes this page from `diffmic_jax/groups.py`.

A field is set on the command line, `--config.train.batch_size=64`, in a file as those in
`configs/`, or in Python, `config.changed({"train.batch_size": 64})`. A value that is of another
type, out of range, or does not go with the others is refused in one line.

*Default* is the value in a file that names no other. *Recipes* are those with another value;
[recipes.md](recipes.md) describes them. A run that goes on in its workdir has to keep its values,
but for the fields marked with \\*, which change where things are or how they are shown, not what is
computed.
"""
HEADER = "| Field | Values | Default | Recipes | Meaning |\n|---|---|---|---|---|\n"


def text() -> str:
    """The whole page."""
    parts = [INTRODUCTION, *(_section(group) for group in ("", *config.GROUPS))]
    return "\n".join(parts)


def _section(group: str) -> str:
    """The fields of one group, or those that are in none."""
    title = "## The run\n"
    if group:
        title = f"## {group}\n\n{inspect.getdoc(config.GROUPS[group])}\n"
    rows = (_row(spec) for spec in config.fields() if spec.name.rpartition(".")[0] == group)
    return f"{title}\n{HEADER}{''.join(rows)}"


def _row(spec: FieldSpec) -> str:
    mark = "\\*" if spec.free else ""
    name = spec.name.rpartition(".")[2]
    cells = (f"`{name}`{mark}", _values(spec), _shown(spec.default), _recipes(spec), spec.help)
    return "| " + " | ".join(cells) + " |\n"


def _values(spec: FieldSpec) -> str:
    """What is allowed: the choices, or the type with range and unit."""
    if spec.choices:
        return ", ".join(map(_shown, spec.choices))
    if spec.type not in (int, float):
        return {str: "text", bool: "true or false", tuple: "list"}[spec.type]
    kind = "whole number" if spec.type is int else "number"
    limits = f"at least {spec.low}" if spec.high == math.inf else f"{spec.low} to {spec.high}"
    return f"{kind}, {limits}" + (f" ({spec.unit})" if spec.unit else "")


def _shown(value: Any) -> str:
    """A value as the command line takes it."""
    if value in ("", ()):
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _recipes(spec: FieldSpec) -> str:
    """The values of the recipes that do not have the default."""
    if spec.name == "recipe":
        return "its own in each"
    return "; ".join(f"{name} {_shown(value)}" for name, value in _differences(spec))


def _differences(spec: FieldSpec) -> Iterator[tuple[str, Any]]:
    for name in recipes.NAMES:
        value = flatten(recipes.get(name).to_dict())[spec.name]
        value = tuple(value) if isinstance(value, list) else value
        if value != spec.default:
            yield name, value


if __name__ == "__main__":
    FILE.write_text(text())
