"""The other processes of a run: which of them is there, and an end where one is not.

Every process gives a sign of life to the coordinator (in process 0) every few seconds, and looks
for those of the others. Where one has given none for a while, or the coordinator does not answer,
this process names the missing one and what it was at, and ends with `RESTART`: what it waits for
would never come, and everything that was saved stays. It ends from a thread of its own, since the
main one may wait within a library for ever.

Only times of this process are compared, on a clock that does not jump.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # the coordinator's store has no public name

from diffmic_jax.errors import RESTART, InputError, Interrupted, NonFiniteLossError

BEAT = 5.0
"""Seconds between two signs of life."""
SOON = 4
"""Beats without a sign after which a process is missing once something has failed."""
ENDED = "ended"
_FOLDER = "diffmic_jax/alive/"


def at(doing: str) -> None:
    """Note what this process does next, for the message if another one is lost."""
    for each in _WATCHING:
        each.doing = doing


@contextlib.contextmanager
def alarming() -> Iterator[None]:
    """Look closer for a missing process from the first error on: to leave may take long."""
    try:
        yield
    except Exception:
        for each in _WATCHING:
            each.alarm()
        raise


@contextlib.contextmanager
def watched(limit: float) -> Iterator[None]:
    """End this process when another one of the run is missing; does nothing in a run of one.

    Args:
      limit: seconds without a sign of life after which a process counts as missing.
    """
    if jax.process_count() == 1:
        yield
        return
    peers = Peers(limit)
    peers.start()
    _WATCHING.append(peers)
    try:
        yield
        peers.leave()
    except Interrupted:
        peers.leave()
        raise
    except (InputError, NonFiniteLossError):
        raise
    except Exception:
        # A library's words for a lost process are many. Whether one is lost shows in a moment.
        peers.alarm()
        peers.wait()
        raise
    finally:
        _WATCHING.remove(peers)
        peers.stop()


@contextlib.contextmanager
def joining(seconds: int) -> Iterator[None]:
    """End this process with `RESTART` and a line when the others of its run do not come in time."""
    _before_abort(lambda: _end(_who_did_not_come(seconds)))
    try:
        yield
    finally:
        _before_abort(lambda: None)


def _who_did_not_come(seconds: int) -> str:
    state = distributed.global_state
    count, address = state.num_processes, state.coordinator_address or ""
    if state.process_id and not _answers(address):
        who = f"process 0 of {count} cannot be reached at {address}"
    else:
        others = [str(i) for i in range(count) if i != state.process_id]
        who = f"not all of the other processes ({', '.join(others[:8])}) of {count} have come"
        who = f"process {others[0]} of {count} has not come" if count == 2 else who
    return f"{who} within {seconds} s, while process {state.process_id} starts"


class Peers:
    """Gives signs of life and looks for those of the others."""

    def __init__(self, limit: float) -> None:
        """Not watching yet; `limit` as in `watched`."""
        self._client: Any = distributed.global_state.client
        self._address = distributed.global_state.coordinator_address or ""
        self._own, self._count = jax.process_index(), jax.process_count()
        now = time.monotonic()
        self.doing = "starts"
        self._left = False
        self._limit = limit
        self._heard = dict.fromkeys(range(self._count), now)
        self._signs: dict[int, str] = {}
        self._hosts = {0: "?"}
        self._answered = self._looked = now
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="alive", daemon=True)
        self._judge = threading.Thread(target=self._watch, name="peers", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        _before_abort(self._last_look)
        self._beats.start()
        self._judge.start()

    def alarm(self) -> None:
        """Something failed: from now on less silence is enough."""
        self._limit = min(self._limit, SOON * BEAT)

    def wait(self) -> None:
        """Wait for as long as it takes to notice that one is missing, which ends this process."""
        self._over.wait(self._limit + 2 * BEAT)

    def leave(self) -> None:
        """Tell the others not to miss this process from now on, and wait until all have ended."""
        self._left = True
        others = [process for process in range(self._count) if process != self._own]
        while any(self._signs.get(process) != ENDED for process in others):
            with contextlib.suppress(Exception):
                self._say(ENDED)
                self._listen()
            if self._over.wait(BEAT / 20):
                return

    def stop(self) -> None:
        """Stop watching, and give no more signs."""
        self._over.set()

    def _say(self, sign: str) -> None:
        text = f"{sign} {socket.gethostname()}"
        self._client.key_value_set(f"{_FOLDER}{self._own}", text, allow_overwrite=True)

    def _beat(self) -> None:
        """Speak and listen; the calls may block for as long as the coordinator is away."""
        count = 0
        while True:
            with contextlib.suppress(Exception):  # of several kinds; silence is what counts
                self._say(ENDED if self._left else str(count))
                self._listen()
                self._answered = time.monotonic()
            count += 1
            if self._over.wait(BEAT):
                return

    def _listen(self) -> None:
        for key, text in self._client.key_value_dir_get(_FOLDER):
            process = int(key.rpartition("/")[2])
            sign, _, self._hosts[process] = text.partition(" ")
            if sign == ENDED or sign != self._signs.get(process):
                self._signs[process] = sign
                self._heard[process] = time.monotonic()

    def _missing(self, limit: float) -> int | None:
        """The process that was silent for longest, and for longer than the limit; None: none."""
        now = time.monotonic()
        if now - self._answered > max(limit, 2 * BEAT):
            return 0 if self._own else None
        others = [
            process
            for process in range(self._count)
            if process != self._own and self._signs.get(process) != ENDED
        ]
        silent = {process: now - self._heard[process] for process in others}
        first = max(silent, key=silent.__getitem__, default=None)
        return first if first is not None and silent[first] > max(limit, 2 * BEAT) else None

    def _watch(self) -> None:
        while not self._over.wait(BEAT / 5):
            now = time.monotonic()
            if now - self._looked > 3 * BEAT:  # this process itself was stopped
                self._answered = now
                self._heard = dict.fromkeys(self._heard, now)
            self._looked = now
            missing = self._missing(self._limit)
            if missing is not None:
                self._give_up(missing)

    def _last_look(self) -> None:
        """Before an abort: the coordinator's library makes one when it loses the coordinator."""
        missing = self._missing(0.0)
        if self._own and missing is None and not _answers(self._address):
            missing = 0
        if missing is not None:
            self._give_up(missing)

    def _give_up(self, missing: int) -> None:
        silent = time.monotonic() - self._heard[missing]
        host = self._hosts.get(missing, "?")
        _end(
            f"process {missing} of {self._count} on {host} is missing (no sign of life for "
            f"{silent:.0f} s) while process {self._own} {self.doing}"
        )


def _end(what: str) -> None:
    """Say what happened, and end this process whatever its other threads wait for."""
    sys.stderr.write(
        f"\n{what}; all that was saved is intact: run the same command again to go on, with fewer "
        "processes if need be\n"
    )
    sys.stderr.flush()
    os._exit(RESTART)


def _answers(address: str) -> bool:
    """Whether somebody takes connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2 * BEAT):
            return True
    except (OSError, ValueError):
        return False


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handler = _Handler(lambda number: _last_acts[-1]())
_last_acts: list[Callable[[], None]] = []
_WATCHING: list[Peers] = []


def _before_abort(act: Callable[[], None]) -> None:
    """Call this function, the last one that was given, when a library aborts the process.

    Python's own handlers run in the main thread, which an abort in another one does not wait for.
    """
    _last_acts.append(act)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, _Handler], ctypes.c_void_p
    libc.signal(signal.SIGABRT, _handler)
