"""How far a training is: how long it takes, told after two steps, and a line every minute."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import jax

from diffmic_jax.training.checkpoint import LOWER_IS_BETTER

log = logging.getLogger("diffmic_jax")

EVERY = 60.0
"""Seconds between lines."""
LONG = 2 * 3600.0
"""From so many seconds on the first estimate says how to have a result sooner."""
SOONER = (
    "; that is long: --minutes=30 in another workdir gives a first result, and fewer epochs, "
    "smaller images (config.data.image_size) or a GPU shorten it"
)


class Progress:
    """Tells epoch, best validation and time left; a context manager with a thread of its own.

    A step may take longer than a minute, as may compiling it or a validation, so the lines do not
    wait for steps.
    """

    def __init__(self, *, steps_per_epoch: int, warmup_steps: int, metric: str) -> None:
        """Nothing noted yet.

        Args:
          steps_per_epoch: of the run.
          warmup_steps: before the last phase; its steps take longer than these.
          metric: of validation, which chooses the best checkpoint.
        """
        self._per_epoch, self._warmup, self._metric = max(steps_per_epoch, 1), warmup_steps, metric
        self._sign = -1 if metric in LOWER_IS_BETTER else 1
        self._best: tuple[float, int] | None = None
        self._step = self._total = 0
        self._since: tuple[int, float] | None = None
        self._told = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def validated(self, step: int, value: float | None) -> None:
        """Note the metric of a step; None where it is not defined."""
        if value is not None and (
            self._best is None or self._sign * value >= self._sign * self._best[0]
        ):
            self._best = value, step

    def note(self, step: int, total: int, validation: Mapping[str, float] | None = None) -> None:
        """Note that steps have ended; the second time in a phase gives the first estimate.

        Args:
          step: steps taken.
          total: of the whole run.
          validation: metrics of the state after the step.
        """
        begins = self._since is None or self._step <= self._warmup < step
        self._step, self._total = step, total
        self.validated(step, (validation or {}).get(self._metric))
        if self._since is None or begins:  # these steps were compiled
            self._since, self._told = (step, time.monotonic()), False
        elif not self._told and step < total:
            self._told = True
            began, clock = self._since
            log.info("%s", self.estimate((time.monotonic() - clock) / (step - began)))

    def estimate(self, seconds: float) -> str:
        """How long the run takes when a step takes so many seconds."""
        epoch = seconds * self._per_epoch
        last = max(self._total - max(self._step, self._warmup), 0) / self._per_epoch
        first = max(self._warmup - self._step, 0) / self._per_epoch
        now = first or last
        text = f"about {spoken(now * epoch)} ({now:.3g} epochs at {spoken(epoch)}) on {devices()}"
        if first:
            text += f", then {last:.3g} epochs of the last phase, which take longer"
        return text + SOONER * ((first + last) * epoch > LONG)

    def line(self) -> str:
        """Epoch, best validation and time left."""
        epochs = -(-self._total // self._per_epoch)
        parts = [f"epoch {min(self._step // self._per_epoch + 1, epochs)}/{epochs}"]
        if self._best is not None:
            value, step = self._best
            parts += [f"best {self._metric} {value:.3g} at epoch {-(-step // self._per_epoch)}"]
        if self._since is None:
            return ", ".join([*parts, "the first step is compiled"])
        begun, clock = self._since
        if self._step > begun:
            pace = (time.monotonic() - clock) / (self._step - begun)
            more = "more than" if self._step <= self._warmup else "about"
            parts += [f"{more} {spoken(pace * (self._total - self._step))} left"]
        return ", ".join(parts)

    def _tell(self) -> None:
        while not self._done.wait(EVERY):
            if self._total:
                log.info("%s", self.line())

    def start(self, total: int) -> None:
        """Note the steps of the whole run, before its first step."""
        self._total = total

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()


def spoken(seconds: float) -> str:
    """A duration with two digits, as `40 s`, `12 minutes`, `5.2 hours` or `3.1 days`."""
    for name, size, most in (("s", 1, 100), ("minutes", 60, 100), ("hours", 3600, 48)):
        if seconds < most * size:
            return f"{_two_digits(seconds / size)} {name}"
    return f"{_two_digits(seconds / 86400)} days"


def _two_digits(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def devices() -> str:
    """The devices of the run in words."""
    if jax.default_backend() == "cpu":
        usable = getattr(os, "sched_getaffinity", None)
        count = len(usable(0)) if usable else os.cpu_count() or 1
        return f"{count} CPU core{'s' * (count != 1)}"
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
