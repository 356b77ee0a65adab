"""Runs that have to be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffmic_jax import api
from diffmic_jax.cli import process
from diffmic_jax.config import Config


def refused(
    config: Config,
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    run: Callable[[Config, Path], object] = api.train,
) -> str:
    """The one line that a run of bad input prints; it has to exit with 2."""
    status = process.run_command(lambda: run(config, workdir))
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert "Traceback" not in "".join(lines)
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    return lines[-1].removeprefix("error: ")
