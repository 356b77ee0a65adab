"""Runs of main.py in processes of their own, several of which may make one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1]

CONFIG = """
import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from tests import tiny


def get_config(recipe="v1"):
    config = tiny.make_config(Path({data!r}), recipe, **{changes!r})
    return ConfigDict(dataclasses.asdict(config))
"""


def write_config(path: Path, data: Path, **changes: object) -> Path:
    """A config file of a tiny run."""
    path.write_text(CONFIG.format(data=str(data), changes=changes))
    return path


def environment() -> dict[str, str]:
    """The variables of a process in any folder, which finds the package and the tests."""
    return os.environ | {"PYTHONPATH": str(PROJECT)}


def start(
    *argv: str, cwd: Path = PROJECT, devices: int = 0, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """main.py with arguments, on some forced devices."""
    forced = {"JAX_NUM_CPU_DEVICES": str(devices)} if devices else {}
    return subprocess.Popen(
        [sys.executable, PROJECT / "main.py", *argv],
        cwd=cwd,
        env=environment() | forced,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def start_together(count: int, *argv: str, devices: int = 1) -> list[subprocess.Popen[str]]:
    """`count` processes that make one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = [f"--coordinator={address}", f"--num_processes={count}"]
    return [start(*argv, *own, f"--process_id={i}", devices=devices) for i in range(count)]


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end, which has to have that exit status; returns standard error."""
    return finish_all([process], status)[0]


def finish_all(processes: Sequence[subprocess.Popen[str]], status: int = 0) -> list[str]:
    """The same of several, of which the last may be the reason for what the first says."""
    shown = [process.communicate()[1] for process in processes]
    found = [process.returncode for process in processes]
    assert found == [status] * len(found), "\n".join(shown)
    return shown
