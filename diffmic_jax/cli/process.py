"""What every entry point shares: exit codes, one-line errors, quiet libraries."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from diffmic_jax.data.places import keep_compiled
from diffmic_jax.errors import (
    RESTART,
    InputError,
    Interrupted,
    NonFiniteLossError,
    RunError,
    StorageError,
)
from diffmic_jax.memory import keep_freed

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


CLOSED_PIPE = 141
"""As the shell has it for SIGPIPE."""


def _lacks_devices() -> bool:
    """Whether JAX was asked for devices that are not there."""
    if not os.environ.get("JAX_PLATFORMS") or "jax" not in sys.modules:
        return False
    try:
        sys.modules["jax"].devices()
    except Exception:  # whatever it says
        return True
    return False


def _print(message: str) -> None:
    line = " ".join(message.split())
    # Names from files could hold codes that a terminal obeys.
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print("".join(shown), file=sys.stderr)


def _log_to_stderr() -> None:
    """Show this package's log, once, on standard error."""
    log = logging.getLogger("diffmic_jax")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        # Some libraries put a handler of their own on the root, and lines would come twice.
        log.propagate = False


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside the training loop, where nothing needs to be saved."""
    del number, frame
    raise Interrupted("terminated, what was saved until then is kept")


def _is_echo(error: BaseException | None) -> bool:
    """Whether an error is the echo of a save that failed.

    TensorStore's other writes end after Orbax has closed the loop that waits for them.
    """
    return type(error) is RuntimeError and str(error) == "Event loop is closed"


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show what nobody caught, but for echoes."""
    if not _is_echo(error):
        sys.__excepthook__(kind, error, trace)


def _unraisablehook(told: sys.UnraisableHookArgs) -> None:
    """The same of what nobody could catch, as in a thread of TensorStore's own."""
    if not _is_echo(told.exc_value):
        sys.__unraisablehook__(told)


def _prepare() -> None:
    """Set up libraries, memory, log and the last resort for errors, before JAX is imported."""
    # Orbax and JAX log every save and compile at the levels below, and Orbax the traceback of
    # every error that it raises as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    keep_compiled()
    keep_freed()
    _log_to_stderr()
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisablehook


def run_command(main: Callable[[], None]) -> int:
    """Run `main` and return the exit status.

    0, 1 failed, 2 bad input, 75 stopped on request and to be restarted, 130 interrupted.

    An error that the user can correct is printed as one line, without a traceback.
    """
    _prepare()
    usual = signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
        sys.stdout.flush()  # here, where a pipe that has closed is no error
    except BrokenPipeError:
        # As `| head` leaves it; what is still in the buffer would fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (AssertionError, RuntimeError):  # JAX has no error of its own for it
        if not _lacks_devices():
            raise
        _print(
            f"error: JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: JAX finds no such device here; "
            "unset it, or install JAX for the device: pip install 'diffmic_jax[cuda]' or "
            "'diffmic_jax[tpu]'"
        )
        return BAD_INPUT
    except InputError as error:
        _print(f"error: {error}")
        return BAD_INPUT
    except (NonFiniteLossError, RunError) as error:
        _print(f"error: {error}")
        return FAILED
    except StorageError as error:
        _print(
            f"error: {error}; earlier checkpoints are intact: make room or repair the disk, and "
            "run the same command again to go on"
        )
        return FAILED
    except Interrupted as error:
        _print(f"{error}; run the same command again to go on")
        return RESTART
    except OSError as error:  # a name that no file can have, a folder that cannot be looked into
        where = f"{error.filename}: " if error.filename else ""
        _print(
            f"error: {where}cannot be used ({error.strerror or error}); name another, or mend it"
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        _print("interrupted; run the same command again to go on")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, usual)
    return 0
