"""Kills (SIGKILL) one of two processes of a run at random moments: how soon does the other end?

    python -m tests.pairs --kills=10

The other has to name the missing process and end with the status that asks for a restart; the same
command then has to end in the checkpoints and results of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import tempfile
import time
from pathlib import Path

from diffmic_jax.errors import RESTART
from tests import tiny
from tests.kills import of_run
from tests.processes import finish_all, start_together, write_config

NAMED = re.compile(r"process (\d) of 2 .*(is missing|has not come|cannot be reached)")
"""The line by which a process names the one that it has lost."""


def both(flags: list[str], workdir: Path) -> list[subprocess.Popen[str]]:
    return start_together(2, *flags, f"--workdir={workdir}")


def whole(flags: list[str], workdir: Path) -> float:
    """Run the two to their end; the seconds that it took."""
    began = time.monotonic()
    finish_all(both(flags, workdir))
    return time.monotonic() - began


def kill(flags: list[str], workdir: Path, victim: int, seconds: float) -> str:
    """Kill one after some seconds; what the other said last and after how long, "" if too late."""
    pair = both(flags, workdir)
    time.sleep(seconds)
    pair[victim].kill()
    began = time.monotonic()
    pair[victim].communicate()
    shown = pair[1 - victim].communicate()[1].splitlines()[-1]
    took = time.monotonic() - began
    if pair[1 - victim].returncode == 0:
        return ""
    named = NAMED.search(shown)
    assert pair[1 - victim].returncode == RESTART and named, shown
    assert int(named[1]) == victim, shown
    return f"the other ended {took:.1f} s later: {shown}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4, help="of the run that is disturbed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, struck = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
        tiny.write_data(home / "data")
        changes = {"train__epochs": args.epochs, "checkpoint__every_steps": 2}
        config = write_config(home / "mine.py", home / "data", **changes)
        flags = [f"--config={config}", "--lost_after=15"]
        whole(flags, home / "undisturbed")
        wanted = of_run(home / "undisturbed")
        seconds = whole(flags, home / "again")  # compiled by now
        assert of_run(home / "again") == wanted
        print(f"{seconds:.1f} s undisturbed", flush=True)
        while struck < args.kills:
            victim, at = rng.randrange(2), rng.uniform(0, seconds)
            workdir = home / f"{struck}-{at:.3f}"
            said = kill(flags, workdir, victim, at)
            if said:
                struck += 1
                whole(flags, workdir)
                assert of_run(workdir) == wanted, (victim, at)
                done = f"process {victim} killed after {at:.1f} s; {said}; resumed, outcome equal"
                print(done, flush=True)
    print(f"{struck} kills, {struck} resumed")


if __name__ == "__main__":
    main()
