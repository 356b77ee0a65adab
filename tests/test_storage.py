"""The two programs that disturb whole commands, each a little; `-m slow` runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.processes import PROJECT

pytestmark = pytest.mark.slow


def run(*argv: str) -> str:
    # In processes of their own: they fork, which one that runs JAX must not.
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_commands_that_are_killed_leave_what_undisturbed_ones_do():
    assert re.search(r"\d+ kills, nothing lost", run("tests.kills", "--kills=12"))


def test_storage_that_lies_costs_nothing():
    if not (shutil.which("cc") and shutil.which("unshare")):
        pytest.skip("needs a C compiler and unshare")
    assert re.search(r"\d\d faults, nothing lost", run("tests.storage"))
