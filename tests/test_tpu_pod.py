from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.processes import PROJECT

GCLOUD = """#!/bin/sh
# Stands in for gcloud: notes what it is asked, and answers with the next line of a script.
echo "$*" >> "$NOTES"
case "$*" in *describe*|*"main.py"*)
    line=$(head -n 1 "$ANSWERS"); sed -i 1d "$ANSWERS"
    case "$line" in [0-9]*) exit "$line" ;; *) echo "$line" ;; esac ;;
esac
"""


def run(folder: Path, answers: list[str], *argv: str) -> tuple[int, list[str]]:
    """Status, and the kinds of requests that were made, in order."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    (folder / "answers").write_text("".join(f"{line}\n" for line in answers))
    (folder / "notes").touch()
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "NOTES": str(folder / "notes"),
        "ANSWERS": str(folder / "answers"),
        "TPU_POD_PAUSE": "0",
    }
    done = subprocess.run(
        [PROJECT / "scripts/tpu_pod", *argv], env=environment, capture_output=True
    )
    kinds = ("describe", "create", "delete", "scp", "main.py", "ssh")
    notes = (folder / "notes").read_text().splitlines()
    return done.returncode, [next(kind for kind in kinds if kind in line) for line in notes]


ARGV = ("pod", "zone-a", "v5litepod-16", "--config=configs/busi.py", "--workdir=/mnt/a b")


def test_a_preempted_slice_is_made_anew_and_the_same_command_runs_again(tmp_path):
    answers = ["1", "WAITING", "ACTIVE", "255", "SUSPENDED", "SUSPENDED", "1", "ACTIVE", "0"]
    status, made = run(tmp_path, answers, *ARGV)
    assert status == 0
    obtained = ["describe", "create", "describe", "describe"]
    trained = ["scp", "ssh", "main.py"]
    again = ["describe", "describe", "delete", "describe", "create", "describe"]
    assert made == [*obtained, *trained, *again, *trained]
    assert "--workdir=/mnt/a\\ b" in (tmp_path / "notes").read_text()


def test_a_failed_run_on_a_slice_that_is_there_is_not_repeated(tmp_path):
    status, made = run(tmp_path, ["ACTIVE", "2", "ACTIVE"], *ARGV)
    assert (status, made.count("main.py")) == (1, 1)


def test_too_few_arguments_tell_the_usage(tmp_path):
    assert run(tmp_path, [], "pod") == (2, [])
