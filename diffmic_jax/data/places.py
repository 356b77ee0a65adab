"""Folders for files that belong to the user and not to a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMPILED = {
    # Small programs too: of the many that a run has, none takes long, but all of them do.
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def user_cache() -> Path:
    """`diffmic_jax` in the user's cache folder; its content can be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffmic_jax"


def keep_compiled() -> None:
    """Keep compiled programs for the next process, unless the user has said where, or that not.

    JAX reads the environment when it is imported; it is not imported here.
    """
    options = {"jax_compilation_cache_dir": str(user_cache() / "compiled"), **COMPILED}
    if "jax" not in sys.modules:
        for name, value in options.items():
            os.environ.setdefault(name.upper(), str(value))
        return
    config = sys.modules["jax"].config
    if config.jax_compilation_cache_dir is None:
        for name, value in options.items():
            config.update(name, value)
