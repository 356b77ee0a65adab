"""Checkpoints with Orbax: the two latest and the best, each complete and checked on its own.

A checkpoint holds the training state and, as JSON, a record: what is needed to use the state
elsewhere (class names, configuration), the validation metrics, shape, type and checksum of every
array, and a SHA-256 of the record itself. Orbax commits a checkpoint by a rename, so a killed save
leaves none; whatever happens to one later is found when it is read. With several processes all of
them make the same calls.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from diffmic_jax.errors import DamagedCheckpointError, InputError, StorageError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import parallel
from diffmic_jax.training.checksum import checksums, described, differences, digest, some
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

LOWER_IS_BETTER = ("nll", "brier", "rps", "ece")
LATEST = 2
"""Newest checkpoints to keep: one may turn out to be damaged."""


class Checkpoints:
    """The `checkpoints` folder of a workdir; a context manager that waits for open saves."""

    def __init__(self, workdir: Path, metric: str, *, read_only: bool = False) -> None:
        """Open or make the folder.

        Args:
          workdir: the run's folder.
          metric: key of the validation metrics that ranks checkpoints.
          read_only: never write, not even the folder.

        Raises:
          InputError: if it is read-only and there is no checkpoint.
          StorageError: if the folder cannot be made.
        """
        self.folder = workdir.absolute() / "checkpoints"
        self._metric = metric
        if read_only and not self.folder.is_dir():
            raise InputError(f"{workdir} holds no checkpoint; train there first, or check the path")
        with self._writing(None), _quiet():
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self,
                    read_only=read_only,
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    # The records are read here, and a broken file should not stop it from opening.
                    lightweight_initialize=True,
                ),
            )
        self._saving: int | None = None
        self._ranks = {step: self._rank_of(step) for step in self.steps}

    @property
    def steps(self) -> list[int]:
        """The steps kept, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int:
        """Step of the best checkpoint on validation; of equals or unvalidated ones the newest.

        Raises:
          InputError: if there is no checkpoint.
          DamagedCheckpointError: if one cannot be read, which might be the best.
        """
        steps = self.steps
        if not steps:
            raise InputError(f"{self.folder} holds no complete checkpoint; train there first")
        for step in steps:
            if self._ranks[step] is None:
                self._record(step)  # raises, with what is wrong
        return max(steps, key=lambda step: (self._ranks[step], step))

    def since_best(self, step: int) -> int:
        """Steps from the best checkpoint to a given step; 0 if there is none yet."""
        return step - self.best_step if self.steps else 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question which checkpoints to keep.

        One whose record cannot be read stays: it might be the best.
        """
        del context
        steps = [info.step for info in checkpoints]
        ranks = {step: self._ranks.get(step) for step in steps}
        known = [step for step in steps if ranks[step] is not None]
        best = max(known, key=lambda step: (ranks[step], step), default=None)
        return [step in steps[-LATEST:] or step == best or ranks[step] is None for step in steps]

    def _rank(self, metrics: Mapping[str, float] | None) -> float:
        """Higher is better; without validation a checkpoint loses to every validated one."""
        if metrics is None:
            return -math.inf
        value = metrics.get(self._metric)
        if value is None:  # undefined on validation: loses to every defined one
            return -1e300
        return -value if self._metric in LOWER_IS_BETTER else value

    def _rank_of(self, step: int) -> float | None:
        """The rank of a checkpoint on disk, None if its record cannot be read."""
        try:
            return self._rank(self._record(step)["metrics"])
        except DamagedCheckpointError:
            return None

    def save(
        self,
        step: int,
        state: TrainState,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Save in the background; metrics rank the checkpoint, None leaves it unranked.

        Raises:
          StorageError: if this save, or the one before it, fails.
        """
        sums = checksums(state)
        leaves = {
            path: {**facts, "checksum": sums[path]} for path, facts in described(state).items()
        }
        record: dict[str, Any] = {"meta": dict(meta), "metrics": metrics, "leaves": leaves}
        record["sha256"] = digest(record)
        self._ranks[step] = self._rank(metrics)
        if metrics is not None and metrics.get(self._metric) is None:
            log.warning("%s is undefined on validation: step %d is no best", self._metric, step)
        self.wait()
        with self._writing(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
                ),
                force=True,
            )
        self._saving = step

    def wait(self) -> None:
        """Wait for the save in the background, if there is one.

        Raises:
          StorageError: if it failed.
        """
        with self._writing(self._saving):
            self._manager.wait_until_finished()
        self._saving = None

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """Name what cannot be written; the rest is intact."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore's are of the latter two
            what = self.folder if step is None else self.folder / str(step)
            raise StorageError(f"{what}: cannot be written ({_reason(error)})") from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Whatever a library makes of broken bytes is one kind of error, which names the step."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise DamagedCheckpointError(
                f"{self.folder / str(step)} is damaged ({_reason(error)}); put back a copy of that "
                "folder, or delete it to go on without it"
            ) from error

    def _record(self, step: int) -> dict[str, Any]:
        """The record of a checkpoint.

        Raises:
          DamagedCheckpointError: if it is not what was saved.
        """
        with self._reading(step):
            text = (self.folder / str(step) / "record" / "metadata").read_text()  # Orbax is slow
            record: dict[str, Any] = json.loads(text)
            if record.pop("sha256") != digest(record):
                raise ValueError("record/metadata is not what was saved")
            return record

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The state at a step, exactly as it was saved.

        Args:
          step: one of the steps kept.
          target: shapes, types and shardings, as `abstract_state` gives them.

        Raises:
          InputError: if the checkpoint is of other networks, with the difference.
          DamagedCheckpointError: if it is not what was saved.
        """
        args = ocp.args.StandardRestore(target)
        return self._restore(step, target, args, self._record(step)["leaves"])

    def variables(self, step: int, target: Variables, average: bool) -> Variables:
        """As `TrainState.variables` of the state at a step, and as `restore`.

        Nothing else is read, and what is not read is not checked: the optimizers' states are twice
        as large, and how a network was trained does not matter to who uses it.
        """
        saved = self._record(step)["leaves"]
        averaged = average and any(path.startswith("ema_params.") for path in saved)
        fields = {part: f"ema_{part}" if averaged else part for part in target}
        wanted = {field: target[part] for part, field in fields.items()}
        places = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=places, partial_restore=True)
        own = {path: facts for path, facts in saved.items() if path.split(".")[0] in wanted}
        found = self._restore(step, wanted, args, own)
        return {part: found[field] for part, field in fields.items()}

    def _restore(self, step: int, target: Any, args: Any, saved: Mapping[str, Any]) -> Any:
        """What is asked for of a step whose arrays are `saved`, checked. Raises as `restore`."""
        if difference := differences(saved, described(target)):
            raise InputError(
                f"{self.folder / str(step)} holds other networks than the configuration: "
                f"{difference}; choose another --workdir or the run's own fields"
            )
        with self._reading(step):
            state = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
            found = checksums(state)
            changed = [path for path in found if found[path] != saved[path]["checksum"]]
            # Every process checks its own copy, and all of them have to decide the same.
            if np.any(multihost_utils.process_allgather(len(changed))):
                raise ValueError(f"{some(changed)} is not what was saved")
        return state

    def meta(self, step: int) -> dict[str, Any]:
        """Class names and configuration at a step.

        Raises:
          DamagedCheckpointError: if they are not what was saved.
        """
        return self._record(step)["meta"]

    def fingerprint(self, step: int) -> str:
        """A hash of the state at a step, which another training does not have; raises as `meta`."""
        return digest(self._record(step)["leaves"])

    def resume(self, restore: Callable[[int], TrainState]) -> TrainState | None:
        """The newest state that is as it was saved; None if nothing was saved yet.

        Damaged checkpoints that are newer are set aside: training makes them again.

        Args:
          restore: state at a step, as `restore` gives it.

        Raises:
          InputError: if none is whole.
        """
        damaged: list[int] = []
        for step in reversed(self.steps):
            try:
                state = restore(step)
            except DamagedCheckpointError as error:
                log.error("%s", error)
                damaged.append(step)
                continue
            for each in damaged:
                self._set_aside(each)
                log.error("checkpoint %d is set aside, training goes on from %d", each, step)
            return state
        if damaged:
            raise InputError(
                f"{self.folder} holds no checkpoint that is not damaged; put back a copy of one, "
                "or delete them to begin anew"
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Move a damaged checkpoint to `damaged/` in the workdir; a new one may take its place."""
        self._ranks.pop(step, None)
        with self._writing(step):
            if jax.process_index() == 0:
                place = self.folder.parent / "damaged" / str(step)
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                (self.folder / str(step)).rename(place)
            parallel.meet("set aside")
            self._manager.reload()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            # A failed save has been reported by now.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._manager.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warnings that a folder is opened to be read only, which is what was asked."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        absl.setLevel(level)


def _reason(error: Exception) -> str:
    """The head of an error's message, on one line; the system's own words where it has some."""
    number = getattr(error, "errno", None)
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        number = int(code[1])
    text = os.strerror(number) if number else " ".join(str(error).split())
    text = text or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
