"""What every test stands on: the CPU, parsed flags, golden vectors and optional data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Set before jax is imported, so that processes which tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest
from absl import flags

TESTS = Path(__file__).parent

# Grain's worker processes crash on flags that nobody has parsed.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Function from the name of a file in tests/golden to its arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(TESTS / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder beside the project with real data sets and all golden vectors; skips without it."""
    folder = TESTS.parents[1] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder
