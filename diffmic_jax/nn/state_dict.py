"""PyTorch state dicts as files: reading them without executing code in them, and writing them.

Reading needs no PyTorch; writing another kind than `.safetensors` does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from diffmic_jax.errors import InputError
from diffmic_jax.extras import requires
from diffmic_jax.nn import torch_files

StateDict = dict[str, np.ndarray]
PARALLEL = "module."
"""What PyTorch's DataParallel puts in front of every name; `read` takes it off."""


def read(path: Path, prefix: str = "") -> StateDict:
    """The tensors of a file, by name.

    Args:
      path: a `.safetensors`, or a file of `torch.save` that holds a state dict: itself, as the
        first entry of a list (DiffMIC), or under `state_dict` (Lightning) or `model`.
      prefix: only entries of this beginning, which is taken off.

    Raises:
      InputError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a state dict (.safetensors or .pth)")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if all(name.startswith(PARALLEL) for name in found):
        found = {name.removeprefix(PARALLEL): x for name, x in found.items()}
    chosen = {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}
    if not chosen:
        begins = f" whose names begin with {prefix!r}" if prefix else ""
        raise InputError(f"{path}: holds no tensors{begins}; name a state dict")
    return chosen


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write tensors as `.safetensors`, or with PyTorch as any other kind.

    Raises:
      InputError: the file cannot be written, or PyTorch is missing.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            part.write_bytes(save({name: np.asarray(x, order="C") for name, x in state.items()}))
        else:
            torch = _torch(path)
            torch.save({name: torch.from_numpy(x.copy()) for name, x in state.items()}, part)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another place") from error


def _read_safetensors(path: Path) -> StateDict:
    try:
        found = load_file(path)
    except Exception as error:  # also of types that NumPy does not have
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no safetensors file ({reason}); get it anew") from error
    # NumPy's own functions know little of BF16.
    return {name: x.astype(np.float32) if x.dtype.kind == "V" else x for name, x in found.items()}


def _read_torch(path: Path) -> StateDict:
    found = _unwrapped(torch_files.read(path))
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds a {type(found).__name__}, no state dict; save that alone")
    return {name: x for name, x in found.items() if isinstance(x, np.ndarray)}


def _unwrapped(found: Any) -> Any:
    """The state dict in one of the usual containers."""
    if isinstance(found, list | tuple) and found:
        return found[0]  # DiffMIC: [state dict, optimizer, ...]
    if isinstance(found, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(found.get(key), Mapping):
                return found[key]
    return found


def _torch(path: Path) -> Any:
    with requires("torch", f"{path}: a file that is not .safetensors"):
        import torch
    return torch
