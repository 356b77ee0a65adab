"""Folders for files that belong to the user and not to a run."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`diffmic_jax` in the user's cache folder; its content can be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffmic_jax"
