"""Where training has to end so that it ends in time, on a machine that may become busy."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
from jax.experimental import multihost_utils

LOOKS = 25
"""How often the clock is looked at in a training."""
SURE = 3
"""Timed steps from which a pace is no accident."""
SHORTER, LONGER = 0.02, 0.05
"""Changes of the steps that are left below these shares are noise; a little too long is worse than
a little too short."""


Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """The time that a training may take."""

    seconds: float
    """From its beginning to its last checkpoint."""
    save: float
    """Seconds expected for the validation and saving of a checkpoint."""
    least: float = 0.0
    """Seconds from the first step that it may take in any case, however long it took until then."""
    longest: int = 0
    """Steps beyond which there is nothing to gain, though there may be time; 0: no limit."""


def last_step(horizon: int, max_steps: int) -> int:
    """The step that training ends with; `max_steps` of 0 sets no limit."""
    return min(horizon, max_steps or horizon)


class Pace:
    """Moves the end of a training by the time that its steps and its checkpoints take.

    One object per run. Steps that are compiled first are not timed.
    """

    def __init__(
        self, limit: Limit, *, began: float, save_every: int, clock: Clock = time.monotonic
    ) -> None:
        """Nothing timed yet.

        Args:
          limit: what the run may take.
          began: when the run began, on the clock; earlier by what earlier processes took.
          save_every: steps from a checkpoint to the next.
          clock: seconds.
        """
        self._limit, self._began, self._clock = limit, began, clock
        self._save_every = save_every
        self._steps, self._stepping = 0.0, 0.0
        self._saves = [limit.save]
        self._mark: float | None = None
        self._first: float | None = None
        self._step = self._next_look = self._planned = 0

    @property
    def spent(self) -> float:
        """Seconds of the run, those of earlier processes included."""
        return self._clock() - self._began

    @property
    def of_a_step(self) -> float:
        """Seconds of a step, lately; 0 before any was timed."""
        return self._stepping / self._steps if self._steps else 0.0

    def compiles(self) -> None:
        """Note that the next steps are compiled first."""
        self._mark = None

    def saved(self, seconds: float) -> None:
        """Note how long validation and checkpoint have taken, after which the next step begins."""
        self._saves.append(seconds)
        self._mark = self._clock()

    def horizon(self, step: int, end: int) -> int:
        """Where training should end; called after every dispatch of steps, on all processes.

        Args:
          step: steps taken.
          end: where it is to end now.

        Returns:
          A later end only in the first half of the longest so far, since the rate falls towards the
          end; at least `step`.
        """
        now = self._clock()
        self._first = now if self._first is None else self._first
        if self._mark is not None:
            self._steps += step - self._step
            self._stepping += now - self._mark
        self._mark, self._step = now, step
        if not self._steps or step < self._next_look:
            return end
        if not self._planned or self._steps >= SURE:
            self._planned = max(self._planned, end)
        # A pace that stands on few steps is looked at again soon: one of them may have been slow.
        self._next_look = step + max(1, min(round(self._steps), end // LOOKS))
        ends = self._began + self._limit.seconds, self._first + self._limit.least
        fitting = self._fitting(step, max(ends) - now)
        fitting = min(fitting, self._limit.longest or fitting)
        change = (fitting - end) / max(end - step, 1)
        moved = change < -SHORTER or (change > LONGER and step < self._planned / 2)
        # All processes have to end together.
        chosen = int(multihost_utils.broadcast_one_to_all(np.int32(fitting if moved else end)))
        self._steps, self._stepping = self._steps / 2, self._stepping / 2  # the past fades
        return chosen

    def _fitting(self, step: int, left: float) -> int:
        """The end that the seconds left allow, with the checkpoints on the way; at least `step`."""
        pace, save = self.of_a_step, float(np.mean(self._saves[-3:]))
        end = step + math.ceil(left / pace)
        while end > step:
            saves = math.ceil(end / self._save_every) - step // self._save_every
            late = (end - step) * pace + saves * save - left
            if late <= 0:
                break
            end -= max(1, math.floor(late / (pace + save)))
        return max(end, step)
