"""The one training loop: steps, logs, validation, checkpoints, and a clean stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffmic_jax.errors import Interrupted, NonFiniteLossError
from diffmic_jax.method.build import Method, Phase
from diffmic_jax.method.state import TrainState, inherit
from diffmic_jax.training import parallel, peers
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.guards import FiniteCheck, StopRequest, Watchdog
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.owner import check_owned
from diffmic_jax.training.pace import Pace, last_step
from diffmic_jax.training.steps import compiled_step
from diffmic_jax.types import Array, Batch

messages = logging.getLogger("diffmic_jax")

WORTH_TELLING = 10.0
"""Seconds of training by which its end has to move before the log says so."""
Metrics = Mapping[str, float]
Validate = Callable[[TrainState], Metrics]
Done = tuple[Mapping[str, float], int]
"""The finite scalars of a step, and the steps skipped so far."""
_norm = jax.jit(optax.tree.norm)  # leaf by leaf it takes longer than a save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guards:
    """What may stop a run before its end."""

    stop: StopRequest
    watchdog: Watchdog
    skip: bool
    """Skip a step whose result is not finite, rather than stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """Trains a state to its horizon, or until validation has long been worse."""

    method: Method
    """What to compute; its phases define who learns when."""
    mesh: Mesh
    key: Array
    """Random key of the run's training."""
    checkpoints: Checkpoints
    meta: Mapping[str, Any]
    """JSON saved with every checkpoint."""
    log: TrainingLog
    save_every: int
    """Steps between checkpoints; the last step is always saved."""
    patience: int
    """Training ends when this many checkpoints in a row are worse on validation than the best; 0:
    never. The checkpoints are all the memory that this needs."""
    guards: Guards
    pace: Pace | None = None
    """Moves the horizon to where the time that is left ends; None: it stays."""
    max_steps: int = 0
    """Training ends here in any case; 0: at the horizon."""
    settle: Callable[[TrainState], TrainState] | None = None
    """Makes the guidance ready to predict: before it is validated, and when it ceases to learn."""
    steps_per_dispatch: int = 1
    """Steps that the devices take in one go, where no checkpoint, phase or end comes before."""

    def run(
        self, state: TrainState, batches: Generator[Batch, None, None], validate: Validate | None
    ) -> TrainState:
        """Train.

        Args:
          state: initial or restored state, on the mesh.
          batches: global batches on the devices, from the state's step on.
          validate: validation metrics of a state, or None without a validation part. Called with
            every checkpoint of the last phase.

        Returns:
          The state after the last step.

        Raises:
          NonFiniteLossError: on a NaN or infinite loss that is not skipped; nothing is saved after
            it.
          StorageError: if a checkpoint or the log cannot be written.
          InputError: if another process has taken the workdir over.
          Interrupted: when a stop was asked for, on any process, and the current step is saved.
        """
        watchdog, vote = self.guards.watchdog, parallel.voting(self.mesh)
        step, end = int(state.step), last_step(int(state.horizon), self.max_steps)
        bar = self._bar(step, end)
        watchdog.at(f"reads the batch of step {step + 1}")
        with (
            peers.alarming(),
            self.guards.stop.listening(),
            watchdog,
            bar,
            logging_redirect_tqdm(),
            contextlib.closing(batches),
        ):
            while step < end and not self._has_stalled(step):
                taken = tuple(next(batches) for _ in range(self._dispatched(step, end)))
                began = time.monotonic()
                state, done = self._steps(state, taken, step)
                step += len(taken)
                state, end = self._paced(state, step, end)
                # Looked at once, and together: a signal may come at any time, to any process.
                stopping = vote(self.guards.stop.asked)
                seconds = time.monotonic() - began
                images = len(taken[0].label)
                bar.set_postfix_str(_progress(done[-1][0], images, bar), refresh=False)
                bar.total = end
                bar.update(len(taken))
                last = step >= end
                state = self._after_steps(state, step, done, seconds, stopping, last, validate)
                if stopping and not last:
                    raise Interrupted(f"stopped after step {step} of {end} and saved")
                watchdog.at(f"reads the batch of step {step + 1}")
        jax.block_until_ready(state)
        return state

    def _finite(self, step: int, scalars: Mapping[str, Any]) -> dict[str, float]:
        """The finite scalars of a step.

        Raises:
          NonFiniteLossError: as `FiniteCheck` does; the message says what is left.
        """
        try:
            return self._check(step, scalars)
        except NonFiniteLossError as error:
            kept = self.checkpoints.latest_step
            left = (
                "there is no checkpoint yet"
                if kept is None
                else f"the last good checkpoint, of step {kept}, is kept"
            )
            raise NonFiniteLossError(f"{error}; {left}") from error

    @cached_property
    def _check(self) -> FiniteCheck:
        return FiniteCheck(self.guards.skip)

    @cached_property
    def _started(self) -> set[tuple[Phase, int]]:
        """The phases and numbers of steps whose programs have run."""
        return set()

    def _dispatched(self, step: int, end: int) -> int:
        """Steps to take in one go after step `step`: as many as asked for, or one."""
        limits = [end, step - step % self.save_every + self.save_every]
        limits += accumulate(phase.steps for phase in self.method.phases)
        count = self.steps_per_dispatch
        # Any other number would be one more program to compile.
        return 1 if any(step < limit < step + count for limit in limits) else count

    def _paced(self, state: TrainState, step: int, end: int) -> tuple[TrainState, int]:
        """The state and the end of training, after the clock was looked at."""
        if self.pace is None or step <= self.method.warmup_steps:
            return state, end
        horizon = self.pace.horizon(step, end)
        if horizon == end:
            return state, end
        seconds = abs(horizon - end) * self.pace.of_a_step
        level = logging.INFO if seconds > WORTH_TELLING else logging.DEBUG
        messages.log(level, "training ends at step %d, not %d, to end in time", horizon, end)
        self.log.num_steps = horizon
        moved = jax.device_put(np.int32(horizon), parallel.replicated(self.mesh))
        return state.replace(horizon=moved), last_step(horizon, self.max_steps)

    def _bar(self, start: int, end: int) -> tqdm:
        return tqdm(
            total=end,
            initial=start,
            unit="step",
            disable=None if parallel.is_main_process() else True,
        )

    def _has_stalled(self, step: int) -> bool:
        """Whether validation has been worse than the best for `patience` checkpoints."""
        if not self.patience:
            return False
        stalled = self.checkpoints.since_best(step) >= self.patience * self.save_every
        if stalled:
            messages.info("training ends early: best at step %d", self.checkpoints.best_step)
        return stalled

    def _steps(
        self, state: TrainState, batches: tuple[Batch, ...], step: int
    ) -> tuple[TrainState, list[Done]]:
        """The state after one more step with each batch, and what each has come to."""
        phase, count = self.method.phase_at(step), len(batches)
        self.guards.watchdog.at(f"computes step {step + count} ({phase.name})")
        if self.method.inherits and step == self.method.warmup_steps:
            state = inherit(state)
        run = compiled_step(self.method, phase, self.mesh, skip=self.guards.skip, count=count)
        if self.pace and (phase, count) not in self._started:
            self.pace.compiles()
        self._started.add((phase, count))
        if count == 1:
            state, scalars = run(state, *batches, self.key)
            return state, [(self._finite(step + 1, scalars), int(state.skipped))]
        state, found = run(state, batches, self.key)
        scalars, skipped = jax.device_get(found)
        return state, [
            (self._finite(step + 1 + i, {name: scalars[name][i] for name in scalars}), int(so_far))
            for i, so_far in enumerate(skipped)
        ]

    def _after_steps(
        self,
        state: TrainState,
        step: int,
        done: Sequence[Done],
        seconds: float,
        stopping: bool,
        last: bool,
        validate: Validate | None,
    ) -> TrainState:
        """Settle, validate, log and save, where each is due after step `step` (1-based)."""
        phase, watchdog = self.method.phase_at(step - 1), self.guards.watchdog
        began = time.monotonic()
        due = step % self.save_every == 0 or last
        if (due or stopping) and not self.guards.skip:
            # The loss shows a bad update only one step later.
            self._finite(step, {"parameters": _norm(state.params)})
        watchdog.at(f"validates after step {step}")
        judged = due and phase is self.method.phases[-1]
        if self.settle and phase.guidance and (judged or step == self.method.warmup_steps):
            state = self.settle(state)
        metrics = None
        if validate and judged:
            metrics = validate(state)
        for number, (values, skipped) in enumerate(done, step + 1 - len(done)):
            found = metrics if number == step else None
            taken = seconds / len(done)
            self.log.add(number, phase.name, values, taken, found, skipped=skipped)
        self.log.ended(step, metrics)
        watchdog.at(f"saves after step {step}")
        if due or stopping:
            check_owned(self.checkpoints.folder.parent)
            spent = {"seconds": self.pace.spent} if self.pace else {}
            self.checkpoints.save(step, state, {**self.meta, **spent}, metrics)
            if self.pace:
                self.pace.saved(time.monotonic() - began)
        return state


def _progress(values: Mapping[str, float], batch_size: int, bar: tqdm) -> str:
    """What the progress bar shows beside the step and the time left."""
    rate = bar.format_dict["rate"] or 0.0
    shown = [f"{name} {values[name]:.3f}" for name in ("loss", "guidance_loss") if name in values]
    return ", ".join([*shown, f"{rate * batch_size:.0f} images/s"])
