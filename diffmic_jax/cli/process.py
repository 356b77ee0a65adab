"""What every entry point shares: exit codes, one-line errors, quiet libraries."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from diffmic_jax.data.places import user_cache
from diffmic_jax.errors import InputError, Interrupted, NonFiniteLossError, RunError, StorageError

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
RESTART = 75
"""EX_TEMPFAIL of sysexits.h: stopped on request, all is saved, the same command goes on."""


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
    raise Interrupted("terminated, all there was to save is saved")


def run_command(main: Callable[[], None]) -> int:
    """Run `main` and return the exit status.

    0, 1 failed, 2 bad input, 75 stopped on request and to be restarted, 130 interrupted.

    An error that the user can correct is printed as one line, without a traceback.
    """
    # Orbax and JAX log every save and compile at the levels below, and Orbax the traceback of
    # every error that it raises as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Compiled programs are kept for the next process. JAX reads this when it is imported, which is
    # why no entry point imports it before; what the user has set, empty for none, stays.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache() / "compiled"))
    _log_to_stderr()
    usual = signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
    except InputError as error:
        _print(f"error: {error}")
        return BAD_INPUT
    except NonFiniteLossError as error:
        _print(f"error: {error}; the last good checkpoint is kept")
        return FAILED
    except RunError as error:
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
    except KeyboardInterrupt:
        _print("interrupted; run the same command again to go on")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, usual)
    return 0
