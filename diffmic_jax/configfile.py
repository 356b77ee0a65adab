"""Configuration files by name or path, from a checkout or an installed package."""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.fields import did_you_mean

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where the project's own files are: in an installed package, in a checkout."""


def find(spec: str) -> str:
    """The path of a configuration file, with what stands behind its colon.

    Args:
      spec: `quickstart`, `configs/ham10000.py`, or a file of the user's own; perhaps with :RECIPE.

    Raises:
      InputError: there is no such file; names the project's own.
    """
    name, colon, recipe = spec.partition(":")
    path = Path(name)
    if path.is_file():
        return spec
    stem = path.name.removesuffix(".py")
    if path.parent in (Path(), Path("configs")):
        for folder in SHIPPED:
            if (folder / f"{stem}.py").is_file():
                return f"{folder / stem}.py{colon}{recipe}"
    raise InputError(
        f"--config={name}: no such file; give one of your own, or one of {', '.join(names())}"
        f"{did_you_mean(difflib.get_close_matches(stem, names(), 1))}"
    )


def names() -> list[str]:
    """The project's own configurations."""
    files = {path.stem for folder in SHIPPED for path in folder.glob("[a-z]*.py")}
    return sorted(files)


def load(spec: str) -> Config:
    """The configuration that `NAME`, `FILE`, `NAME:RECIPE` or `FILE:RECIPE` names.

    Raises:
      InputError: there is no such file, or it is no configuration.
    """
    found = call(find(spec), "get_config", f"--config={spec}")
    return typed(found, f"--config={spec}")


def typed(found: Any, what: str) -> Config:
    """A typed configuration out of what a file or the command line gives.

    Raises:
      InputError: a field is missing or unknown, or a value cannot work.
    """
    if isinstance(found, Config):
        return found
    if not isinstance(found, ConfigDict):
        raise InputError(f"{what}: get_config returns no ConfigDict")
    return Config.from_dict(found.to_dict(), what)


def default_workdir(spec: str) -> Path:
    """runs/X for configs/X.py or X, runs/X-recipe with a recipe."""
    name, _, recipe = spec.partition(":")
    stem = Path(name).stem
    return Path("runs") / (f"{stem}-{recipe}" if recipe else stem)


def call(spec: str, name: str, what: str) -> Any:
    """The value of a function in a Python file of the user.

    Args:
      spec: FILE or FILE:ARGUMENT.
      name: of the function.
      what: names the spec in an error.

    Raises:
      InputError: there is no such file, or it fails.
    """
    file, _, argument = spec.partition(":")
    if not Path(file).is_file():
        raise InputError(f"{what}: no such file {file}; name one of the project's, or your own")
    # Such files import each other from the folder above theirs.
    sys.path.insert(0, str(Path(file).resolve().parent.parent))
    try:
        return runpy.run_path(file)[name](*filter(None, [argument]))
    except InputError:
        raise
    except Exception as error:  # it is the user's code: whatever goes wrong there
        raise InputError(f"{what}: cannot be used ({type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
