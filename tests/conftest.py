"""For all tests: the CPU, checked shapes, parsed flags, golden vectors, data, a tiny run."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Set before jax is imported, so that processes which tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping
import numpy as np
import pytest
from absl import flags

from tests import typechecker

# Before these packages are imported: from now on the shapes of their arguments are checked.
CHECKED = ("diffmic_jax.diffusion", "diffmic_jax.nn", "diffmic_jax.method")
jaxtyping.install_import_hook(CHECKED, f"{typechecker.__name__}.check")

from diffmic_jax import api
from tests import tiny

TESTS = Path(__file__).parent

LONG = (
    *("test_parallel", "test_train_step_golden", "test_study", "test_loop", "test_fitting"),
    *("test_tutorial", "test_api", "test_convert"),
)
"""Files that take a minute each come first, so that no worker is left alone with one at the end."""

# What JAX has traced stays for good; looking through it again and again took a tenth of the time.
gc.set_threshold(100_000, 50, 100)

# Grain's worker processes crash on flags that nobody has parsed.
flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    place = {f"{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


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


@pytest.fixture(autouse=True)
def fresh_log() -> Iterator[None]:
    """Take the commands' handler off again: its stream goes with the test that captured it."""
    yield
    log = logging.getLogger("diffmic_jax")
    log.handlers.clear()
    log.propagate = True


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps decoded images out of the user's own cache, in processes that tests start as well."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all workers share, made by the first that asks for it; the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a data set of small PNGs; not to be changed."""
    return made_once(tmp_path_factory, "tiny", tiny.write_data)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Workdir of a run on `tiny_data`, trained and evaluated; not to be changed."""
    config = tiny.make_config(tiny_data)
    shared = made_once(tmp_path_factory, "run", lambda workdir: api.train(config, workdir))
    # A test that writes into it all the same is seen by no other worker.
    return shutil.copytree(shared, tmp_path_factory.mktemp("trained") / "run")
