from __future__ import annotations

import re
import subprocess
import sys

from tests.processes import PROJECT


def test_trainings_that_are_killed_end_like_one_that_is_not():
    # In a process of its own: it forks, which one that runs JAX must not.
    command = [sys.executable, "-m", "tests.faults", "--trainings=2", "--seed=3"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"2 trainings equal the undisturbed one; [2-4] kills", done.stdout)
