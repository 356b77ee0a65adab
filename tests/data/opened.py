"""Sources as tests open them: by a few fields of the configuration."""

from __future__ import annotations

import os
from typing import Any

from diffmic_jax.config import Data
from diffmic_jax.data import sources


def open_source(name: str, root: str | os.PathLike[str] = "", **fields: Any) -> sources.Source:
    """A source by its name, its root and other fields of `config.Data`."""
    return sources.open_source(Data(name=name, root=str(root), **fields))
