"""Kills small trainings at random moments, also within saves, and checks that nothing is lost.

    python -m tests.faults --trainings=50

Every training is killed (SIGKILL) once or twice and started again until it ends. It has to end
in the bytes of an undisturbed one, with the same choice of the best checkpoint, and every step has
to see the same images in every attempt, every image once in an epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import jax
import numpy as np

from diffmic_jax.config import Config
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.state import abstract_state
from diffmic_jax.types import Batch
from tests import tiny

TEMPORARY = "*.orbax-checkpoint-tmp*"
SEEN, RESULT = "seen.jsonl", "result.json"


def _make_config(data: Path) -> Config:
    """Two phases of three and six steps; every step is saved and validated.

    Of the smallest network, since what is looked at is what is saved: `tests.kills` has others.
    """
    changes = {"checkpoint__every_steps": 1, "train__max_steps": 9, "train__ema": True}
    return tiny.make_config(data, "classifier", **changes)


def _note_images(workdir: Path) -> None:
    """Record which images each of the loop's batches holds, as it is handed out."""
    real = parallel.augmented

    def augmented(mesh, batches, augment, key, start: int) -> Generator[Batch, None, None]:
        for step, batch in enumerate(real(mesh, batches, augment, key, start), start):
            with (workdir / SEEN).open("a") as file:
                file.write(json.dumps([step, np.asarray(batch.index).tolist()]) + "\n")
            yield batch

    parallel.augmented = augmented


def _validate(state: TrainState) -> dict[str, float]:
    """An arbitrary metric: only that a run chooses like another is of interest here."""
    return {"accuracy": float(int(state.step) * 7 % 5)}


def _train(data: Path, workdir: Path) -> None:
    """Train to the end, and write the result."""
    _note_images(workdir)
    run = tiny.open_run(_make_config(data), workdir)
    run.train(_validate)
    digest = hashlib.sha256()
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        target = abstract_state(run.method, run.mesh)
        state = checkpoints.restore(checkpoints.steps[-1], target)
        for leaf in jax.tree.leaves(state):
            digest.update(np.asarray(leaf).tobytes())
        facts = {"steps": checkpoints.steps, "best": checkpoints.best_step}
    (workdir / RESULT).write_text(json.dumps(facts | {"sha256": digest.hexdigest()}))


def _start(data: Path, workdir: Path) -> int:
    """Train in a process of its own, which shares the imports; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        with (workdir / "stderr").open("a") as file:
            os.dup2(file.fileno(), 2)
        _train(data, workdir)
        status = 0
    except BaseException:
        logging.exception("the training failed")
    finally:
        os._exit(status)


def _steps_seen(workdir: Path) -> list[tuple[int, list[int]]]:
    """Step and images of every batch that was handed out, in all attempts."""
    path = workdir / SEEN
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [tuple(json.loads(line)) for line in whole]


def _moment(rng: random.Random, workdir: Path) -> Callable[[], bool]:
    """A function that returns whether it is time to kill."""
    if rng.random() < 0.3:
        end = time.monotonic() + rng.uniform(0, 10)
        return lambda: time.monotonic() > end
    count = len(_steps_seen(workdir)) + rng.randint(1, 4)
    delay = rng.uniform(0, 0.3)
    saving = rng.random() < 0.6

    def now() -> bool:
        if len(_steps_seen(workdir)) < count:
            return False
        if not saving:
            time.sleep(delay)
            return True
        if any((workdir / "checkpoints").glob(TEMPORARY)):
            time.sleep(delay / 10)
            return True
        return False

    return now


def _kill_at(child: int, now: Callable[[], bool]) -> int | None:
    """Kill the child when it is time; its exit status if it ends before."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if now():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def disturbed(data: Path, workdir: Path, seed: int) -> Iterator[bool]:
    """Train with one or two kills; yields for each whether it struck within a save."""
    workdir.mkdir()
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 2)):
        status = _kill_at(_start(data, workdir), _moment(rng, workdir))
        if status is not None:
            assert status == 0, (workdir / "stderr").read_text()
            return
        yield any((workdir / "checkpoints").glob(TEMPORARY))
    status = _kill_at(_start(data, workdir), lambda: False)
    assert status == 0, (workdir / "stderr").read_text()


def check(workdir: Path, undisturbed: Path) -> None:
    """Assert that nothing was lost or repeated.

    Raises:
      AssertionError: if something was.
    """
    ours, theirs = (json.loads((each / RESULT).read_text()) for each in (workdir, undisturbed))
    assert ours == theirs, (ours, theirs)
    wanted = dict(_steps_seen(undisturbed))
    seen = _steps_seen(workdir)
    assert {step for step, _ in seen} == set(wanted)
    for step, images in seen:
        assert images == wanted[step], step
    for epoch in range(len(wanted) // tiny.STEPS_PER_EPOCH):
        first = epoch * tiny.STEPS_PER_EPOCH
        images = [i for step in range(first, first + tiny.STEPS_PER_EPOCH) for i in wanted[step]]
        assert sorted(images) == list(range(tiny.TRAIN)), epoch
    assert not list((workdir / "checkpoints").glob(TEMPORARY))


def run(folder: Path, trainings: int, seed: int = 0) -> tuple[int, int]:
    """Kill that many trainings; gives the kills, and those of them within saves."""
    data = tiny.write_data(folder / "data")
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    assert _kill_at(_start(data, undisturbed), lambda: False) == 0, (
        undisturbed / "stderr"
    ).read_text()
    kills: list[bool] = []
    for number in range(trainings):
        workdir = folder / str(number)
        struck = list(disturbed(data, workdir, seed + number))
        check(workdir, undisturbed)
        kills += struck
        print(f"training {number}: {len(struck)} kills, {sum(struck)} within saves", flush=True)
    return len(kills), sum(kills)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills, saving = run(Path(folder), args.trainings, args.seed)
    print(f"{args.trainings} trainings equal the undisturbed one; {kills} kills, {saving} in saves")


if __name__ == "__main__":
    sys.exit(main())
