"""What watches over a training: requests to stop, losses that are not finite, and hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Self

import jax
import jax.numpy as jnp
import optax

from diffmic_jax.errors import NonFiniteLossError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import peers
from diffmic_jax.types import Array, Batch

log = logging.getLogger("diffmic_jax")

MAX_SKIPS = 10
"""Steps in a row that may be skipped; more of them are no bad batch but a broken run."""


class StopRequest:
    """Set by the first SIGINT or SIGTERM, a second one acts as usual; or by the clock."""

    def __init__(self, deadline: float = math.inf) -> None:
        """Not asked yet.

        Args:
          deadline: on `time.monotonic()`; from then on a stop is asked for.
        """
        self._signalled, self._deadline = False, deadline

    @property
    def asked(self) -> bool:
        """Whether to stop after the current step."""
        return self._signalled or time.monotonic() >= self._deadline

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals within the block, in the main thread."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self._signalled = True
            signal.signal(number, previous[signal.Signals(number)])

        for each in previous:
            signal.signal(each, note)
        try:
            with _answering():
                yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Answer the first SIGINT or SIGTERM at once.

    Python runs a handler only between its own instructions, so not while a step is computed or
    compiled; the number of a signal comes through the pipe at any time.
    """
    end = 0
    read, write = os.pipe()
    os.set_blocking(write, False)

    def answer() -> None:
        if os.read(read, 1)[0] != end:
            log.warning(
                "stopping: ends what it is at, saves, and stops within a step; once more stops at "
                "once, without saving"
            )

    usual = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=answer, name="answer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(usual)
        os.write(write, bytes([end]))
        thread.join()
        os.close(read)
        os.close(write)


Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def skipping(step: Step) -> Step:
    """A step that leaves everything but the counts as it was, where its result is not finite."""

    def guarded(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        after, scalars = step(state, batch, key)
        # A finite loss can still break the parameters.
        values = jnp.stack([*scalars.values(), optax.tree.norm(after.params)])
        good = jnp.isfinite(values).all()
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        skipped = state.skipped + jnp.where(good, 0, 1)
        return kept.replace(step=after.step, skipped=skipped), scalars

    return guarded


class FiniteCheck:
    """The policy for values that are not finite: stop, or count those that `skipping` skips."""

    def __init__(self, skip: bool) -> None:
        """Nothing skipped yet."""
        self._skip, self._in_a_row = skip, 0

    def __call__(self, step: int, scalars: Mapping[str, Array]) -> dict[str, float]:
        """The finite scalars of step `step` as floats.

        Raises:
          NonFiniteLossError: if one of them is not finite and the policy is to stop, or if too
            many steps in a row were skipped.
        """
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        bad = [name for name in values if name not in finite]
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if bad and not (self._skip and self._in_a_row <= MAX_SKIPS):
            raise NonFiniteLossError(f"{', '.join(bad)} not finite at step {step}")
        if bad:
            log.warning("step %d skipped: %s not finite", step, ", ".join(bad))
        return finite


class Watchdog:
    """Reports, on every process, where nothing has moved for a while.

    It only reports: a step may just be slow, and with several processes the one that hangs is the
    one that waits for another thing than the others. The stacks of all threads come with it.
    """

    def __init__(self, minutes: float) -> None:
        """Not watching yet; 0 minutes never reports anything."""
        self._limit = 60 * minutes
        self._doing, self._since = "", time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._where = (
            f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"
        )

    def at(self, doing: str) -> None:
        """Note what comes next."""
        self._doing, self._since = doing, time.monotonic()
        peers.at(doing)

    def _watch(self) -> None:
        reported = 0.0
        while not self._done.wait(self._limit / 4):
            since, now = self._since, time.monotonic()
            if now - max(since, reported) > self._limit:
                reported = now
                log.error(
                    "%s hangs? %s, for %.1f minutes", self._where, self._doing, (now - since) / 60
                )
                faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)

    def __enter__(self) -> Self:
        if self._limit:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._limit:
            self._thread.join()
