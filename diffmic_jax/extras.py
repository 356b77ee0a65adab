"""Optional dependencies: what to install where the packages of an extra are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffmic_jax.errors import InputError


def install_command(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'diffmic_jax[{extra}]'"


@contextlib.contextmanager
def requires(extra: str, what: str) -> Iterator[None]:
    """Imports in this context need an extra.

    Args:
      extra: a name from `project.optional-dependencies` of pyproject.toml.
      what: what needs it, for the message.

    Raises:
      InputError: if one of its packages is not installed, with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "diffmic_jax"):
            raise  # a fault of this package, which no installation repairs
        raise InputError(
            f"{what} needs {error.name}; install it with {install_command(extra)}"
        ) from error
