"""No module of the package imports one that builds on it, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffmic_jax

PACKAGE = Path(diffmic_jax.__file__).parent
ORDER = (
    *(
        "errors",
        "memory",
        "types",
        "extras",
        "unpickle",
        "fields",
        "groups",
        "consistency",
        "config",
        "configfile",
        "recipes",
    ),
    *("diffusion", "nn", "method", "data", "training", "inference", "planning", "evaluation"),
    *("fitting", "report", "classifier", "api", "study", "serve", "interop", "cli"),
)
"""Subpackages and modules; each imports only from those before it."""
ALLOWED = {("consistency.py", "config")}
"""A type that a signature names, imported only by type checkers."""


def imported(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Full names of the modules that a statement may import.

    Args:
      node: of a syntax tree.
      package: names of the package of its file, which relative imports start from.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) + 1 - node.level] if node.level else ()
        module = ".".join((*base, *filter(None, [node.module])))
        yield from (f"{module}.{alias.name}" for alias in node.names)


def upward(path: Path, source: str) -> list[str]:
    """Imports of a file, at this path below the package, that its place does not allow."""
    own = path.parts[0].removesuffix(".py")
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node, ("diffmic_jax", *path.parts[:-1])):
            root, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if root != "diffmic_jax" or other in (own, "__version__"):
                continue
            known = other in ORDER and own in ORDER
            below = known and ORDER.index(other) < ORDER.index(own)
            if not below and (str(path), other) not in ALLOWED:
                found.append(f"{path}:{getattr(node, 'lineno', 0)} imports {name}")
    return found


def files() -> list[Path]:
    """Every module below the package but its own `__init__` and `__main__`, which are above all."""
    paths = (path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")))
    return [path for path in paths if path.parent.parts or not path.stem.startswith("__")]


def test_every_module_has_a_place_in_the_order():
    assert {path.parts[0].removesuffix(".py") for path in files()} <= set(ORDER)


def test_no_import_runs_upward():
    found = [line for path in files() for line in upward(path, (PACKAGE / path).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import diffmic_jax.api",
        "from diffmic_jax import api",
        "from diffmic_jax.evaluation.run import score",
        "from ..evaluation import run",
        "def late():\n    from diffmic_jax.cli import main",
        "if TYPE_CHECKING:\n    from diffmic_jax.report.build import build",
        "from diffmic_jax import nowhere",
        "import diffmic_jax",
    ],
)
def test_an_upward_import_is_found(source):
    assert len(upward(Path("training/loop.py"), source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import json, jax",
        "from diffmic_jax.method.build import Method",
        "from diffmic_jax import config, recipes",
        "from diffmic_jax.training.state import TrainState",
        "from . import state",
        "from diffmic_jax import __version__",
    ],
)
def test_an_import_from_below_is_allowed(source):
    assert upward(Path("training/loop.py"), source) == []
