"""One run, one owner: who may write into a folder, and what another one is told.

The owner holds a lock of the operating system, which dies with it. Such locks do not reach across
the machines of some network file systems. So the owner also names itself in a file and writes that
anew every few seconds; whoever gets the lock on another machine first watches whether it changes.
No clocks are compared. An owner that was stopped for so long that it lost its folder is told before
its next save.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffmic_jax.data.files import write_text
from diffmic_jax.errors import InputError
from diffmic_jax.training import parallel

log = logging.getLogger("diffmic_jax")

FILE, LOCK = ".owner.json", ".owner.lock"
BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 3
"""Beats without a sign after which an owner on another machine is dead."""


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only one who writes into a folder, which is made when absent.

    Of several processes of a run the main one owns it for all.

    Raises:
      InputError: another process owns it, which the message names; or it cannot be written.
    """
    problem = ""
    with contextlib.ExitStack() as stack:
        if parallel.is_main_process():
            try:
                stack.enter_context(_Owner(folder))
            except InputError as error:
                problem = str(error)
        if problem := parallel.told(problem):
            raise InputError(problem)
        yield


def check_free(folder: Path) -> None:
    """Refuse a folder that another process owns now, without making anything.

    Raises:
      InputError: naming that process.
    """
    if parallel.told(str((folder / LOCK).exists() or "")):
        with owned(folder):
            pass


def check_owned(folder: Path) -> None:
    """Refuse to write into a folder that this process has owned and lost.

    Raises:
      InputError: naming the owner.
    """
    if owner := _OWNERS.get(folder.absolute()):
        owner.check()


_OWNERS: dict[Path, _Owner] = {}


class _Owner:
    """This process as the owner of a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / FILE
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._count = 0

    def check(self) -> None:
        found = _read(self._path)
        if found and found.get("token") != self._token:
            raise InputError(
                f"{self._folder} has been taken over by {_named(found)}, since this process gave "
                "no sign of life for a while; it stops here and writes nothing more"
            )

    def _write(self) -> None:
        self._count += 1
        facts = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "process": os.getpid(),
            "started": _start_time(os.getpid()),
            "token": self._token,
            "beat": self._count,
        }
        write_text(self._path, json.dumps(facts) + "\n")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            # A full disk or another owner is for the next save to tell of.
            with contextlib.suppress(InputError):
                self.check()
                self._write()

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / LOCK, timeout=0)
            self._lock.acquire()
        except Timeout:
            raise InputError(_refusal(self._folder, _read(self._path))) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self._folder} cannot be locked ({reason}); choose another place"
            ) from error
        try:
            self._check_no_other()
            self._write()
        except BaseException:
            self._lock.release()
            raise
        _OWNERS[self._folder.absolute()] = self
        self._thread.start()

    def _check_no_other(self) -> None:
        """Refuse where the lock is free, but somebody on whom it has no hold is at work."""
        found = _read(self._path)
        if not found:
            return
        if found.get("machine") == _machine():
            known = found.get("started")
            alive = known and _start_time(found.get("process")) == known
        else:
            alive = _changes(self._path, found)
        if alive:
            raise InputError(_refusal(self._folder, found))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        _OWNERS.pop(self._folder.absolute(), None)
        with contextlib.suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._token:
                self._path.unlink()
        self._lock.release()


def _changes(path: Path, found: dict[str, Any]) -> bool:
    """Whether the owner on another machine gives a sign of life."""
    log.info("waits up to %.0f s for a sign of life of %s", PATIENCE * BEAT, _named(found))
    end = time.monotonic() + PATIENCE * BEAT
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        if _read(path) != found:
            return path.exists()
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _named(found: dict[str, Any] | None) -> str:
    found = found or {}
    return f"process {found.get('process', '?')} on {found.get('host', 'this machine')}"


def _refusal(folder: Path, found: dict[str, Any] | None) -> str:
    return (
        f"{folder} is in use by {_named(found)}; wait for its end, stop it, or choose another place"
    )


@cache
def _machine() -> str:
    """What the locks of the operating system reach: this machine since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _start_time(process: object) -> str:
    """When a process of this machine was started, in its clock's ticks; '' if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
