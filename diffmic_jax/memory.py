"""Memory that a program has freed is kept for its next step.

XLA asks for the working memory of a step anew each time: on a CPU hundreds of megabytes, which the
C library takes from the system and gives back. The system then clears every page again, which is a
third of the time of a training step of EfficientNet-Lite0 at 128 px, and half of that of v1.
"""

from __future__ import annotations

import ctypes
import os

ARENA_MAX, MMAP_MAX, TOP_PAD, TRIM_THRESHOLD = -8, -4, -2, -1
"""Parameters of glibc's `mallopt`."""
SETTINGS = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
"""Environment variables, or their beginnings, with which the user has chosen otherwise."""


def keep_freed() -> None:
    """Let the C library keep freed memory, in one heap that all threads share.

    For what is allocated from then on, so it comes before JAX makes its threads. Nothing happens
    where the C library is not glibc, or where the environment has settings for it.
    """
    if any(name.startswith(SETTINGS) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # Only the shared heap grows without mmap; that of a thread has an upper limit.
    for parameter, value in (
        (ARENA_MAX, 1),
        (MMAP_MAX, 0),
        (TOP_PAD, 64 << 20),
        (TRIM_THRESHOLD, -1),  # never; a step of ResNet50 frees more than any limit that fits
    ):
        mallopt(parameter, value)
