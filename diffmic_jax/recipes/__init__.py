"""Recipes: one file each, with `CONFIG`, a complete configuration that reads from top to bottom.

A configuration file takes one and changes what its data set needs:

    def get_config(recipe: str = "v1") -> ConfigDict:
        return recipes.config_dict(recipe, {"data.name": "busi"}, {"v2": {"train.epochs": 100}})
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, cast

from ml_collections import ConfigDict

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError

NAMES = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))
Changes = Mapping[str, Any]
"""Field, as `train.epochs`, to value."""


def get(name: str) -> Config:
    """A recipe by its name.

    Raises:
      InputError: there is no such recipe.
    """
    if name not in NAMES:
        raise InputError(f"recipe {name!r} is unknown; choose one of {', '.join(NAMES)}")
    return cast(Config, importlib.import_module(f"{__name__}.{name}").CONFIG)


def config_dict(
    recipe: str, changes: Changes | None = None, by_recipe: Mapping[str, Changes] | None = None
) -> ConfigDict:
    """A recipe with a data set's changes, as the command line sees it.

    Args:
      recipe: its name.
      changes: for every recipe.
      by_recipe: name of a recipe to the changes for that one alone.

    Raises:
      InputError: there is no such recipe or field, or a value cannot work.
    """
    changes = {**(changes or {}), **(by_recipe or {}).get(recipe, {})}
    return ConfigDict(dataclasses.asdict(get(recipe).changed(changes)))
