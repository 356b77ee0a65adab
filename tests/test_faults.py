from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import PROJECT


@pytest.mark.whole
def test_a_training_that_is_killed_twice_ends_like_one_that_is_not():
    # In a process of its own: it forks, which one that runs JAX must not.
    command = [sys.executable, "-m", "tests.faults", "--trainings=1", "--seed=17"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 trainings equal the undisturbed one; 2 kills" in done.stdout
