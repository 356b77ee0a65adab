"""Files from strangers for as long as is wanted: see `scripts/fuzz`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import types
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import hypothesis

from tests import fuzzing

MEMORY = 2 * 2**30
"""Bytes that a case may take beyond what the process has before."""
SECONDS = 30
"""That a case may take."""
BATCH = 200


class TooSlow(BaseException):
    """Of a case; no `Exception`, which a reader might take for a damaged file."""


def main() -> int:
    """Fuzz each target in turn; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of all targets together")
    parser.add_argument("--only", default="", help="targets, with commas between them")
    parser.add_argument("--folder", type=Path, default=Path("fuzz"), help="of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return 0
    names = args.only.split(",") if args.only else list(fuzzing.targets())
    each = args.minutes / len(names)
    print("target           cases    read  refused  faults    MiB  slowest s")
    faults = 0
    for name in names:
        found = in_process(name, each, args)
        faults += found["faults"]
        print(
            f"{name:14}{found['accepted'] + found['refused']:8}{found['accepted']:8}"
            f"{found['refused']:9}{found['faults']:8}{found['mebibytes']:7.0f}"
            f"{found['slowest']:11.2f}",
            flush=True,
        )
    return int(faults > 0)


def in_process(name: str, minutes: float, args: argparse.Namespace) -> dict[str, float]:
    """What a worker counts; a worker that dies is a fault."""
    own = [f"--minutes={minutes}", f"--folder={args.folder}", f"--seed={args.seed}"]
    command = [sys.executable, __file__, f"--worker={name}", *own]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        counts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return counts
    print(f"{name}: the process ended with {done.returncode}; its last file is {last(args, name)}")
    return {"accepted": 0, "refused": 0, "faults": 1, "mebibytes": 0, "slowest": 0}


def last(args: argparse.Namespace, name: str) -> Path:
    """Where the file is that a worker reads, in case that it dies."""
    return args.folder / f"{name}-last"


def work(args: argparse.Namespace) -> dict[str, float]:
    """Fuzz one target for some minutes."""
    warnings.simplefilter("ignore")
    args.folder.mkdir(parents=True, exist_ok=True)
    target, end = fuzzing.targets()[args.worker], time.monotonic() + 60 * args.minutes
    counts = {"accepted": 0, "refused": 0, "faults": 0, "slowest": 0.0}
    before = limit_memory()
    signal.signal(signal.SIGALRM, too_slow)

    def case(content: bytes) -> None:
        if time.monotonic() > end:
            return
        last(args, args.worker).write_bytes(content)
        start = time.monotonic()
        signal.alarm(SECONDS)
        try:
            counts[fuzzing.run(target, content)] += 1
        except BaseException:
            counts["faults"] += 1
            keep(args, counts["faults"], content)
        finally:
            signal.alarm(0)
        counts["slowest"] = max(counts["slowest"], time.monotonic() - start)

    for number in range(10**9):
        if time.monotonic() > end:
            break
        settings = hypothesis.settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        again = types.FunctionType(case.__code__, globals(), closure=case.__closure__)
        again.__annotations__ = case.__annotations__
        hypothesis.seed(args.seed * 10**6 + number)(
            settings(hypothesis.given(target.contents)(again))
        )()
    with contextlib.suppress(OSError):
        last(args, args.worker).unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return counts | {"mebibytes": peak}


def limit_memory() -> float:
    """Allow `MEMORY` more; returns the MiB that are resident now."""
    pages = Path("/proc/self/statm").read_text().split()
    virtual, resident = (int(each) * os.sysconf("SC_PAGESIZE") for each in pages[:2])
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    return resident / 2**20


def too_slow(number: int, frame: types.FrameType | None) -> None:
    """End a case."""
    raise TooSlow(f"a case took more than {SECONDS} s")


def keep(args: argparse.Namespace, number: float, content: bytes) -> None:
    """Keep the file of a fault, and say what happened."""
    if number > 20:
        return
    path = args.folder / f"{args.worker}-{args.seed}-{number}"
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(traceback.format_exc())
    head = traceback.format_exc().strip().splitlines()[-1][:150]
    print(f"{args.worker}: {head}; see {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
