"""PyTorch state dicts as files: reading them without executing code in them, and writing them.

`.safetensors` and the format of PyTorch before 1.6 need nothing else. For any other kind PyTorch
has to be installed; it loads weights only, and refuses a file that contains code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from diffmic_jax.errors import InputError
from diffmic_jax.extras import requires
from diffmic_jax.nn import torch_legacy

StateDict = dict[str, np.ndarray]


def read(path: Path, prefix: str = "") -> StateDict:
    """The tensors of a file, by name.

    Args:
      path: a `.safetensors`, or a file of `torch.save` that holds a state dict: itself, as the
        first entry of a list (DiffMIC), or under `state_dict` (Lightning) or `model`.
      prefix: only entries of this beginning, which is taken off.

    Raises:
      InputError: the file is missing, damaged, or holds more than tensors; or PyTorch is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a state dict (.safetensors or .pth)")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
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
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: no safetensors file ({error}); get it anew") from error


def _read_torch(path: Path) -> StateDict:
    with path.open("rb") as file:
        legacy = torch_legacy.is_legacy(file.read(16))
    found = _unwrapped(torch_legacy.read(path) if legacy else _loaded(path))
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds a {type(found).__name__}, no state dict; save that alone")
    return {name: x for name, x in found.items() if isinstance(x, np.ndarray)}


def _loaded(path: Path) -> Any:
    """The object in a file of `torch.save`, its tensors as arrays."""
    torch = _torch(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = " ".join(str(error).split("\n")[0].split())[:200]
        raise InputError(
            f"{path}: holds more than weights, and what it wants to run is not run ({asked}). If "
            "you trust it, save its state dict alone where it was made: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(f"{path}: no file of torch.save ({error}); get it anew") from error
    return _with_arrays(found, torch.Tensor)


def _with_arrays(found: Any, tensor: type) -> Any:
    """Dictionaries and lists with arrays in the place of tensors."""
    if isinstance(found, tensor):
        return found.detach().cpu().numpy()  # type: ignore[attr-defined]
    if isinstance(found, Mapping):
        return {name: _with_arrays(x, tensor) for name, x in found.items()}
    if isinstance(found, list | tuple):
        return [_with_arrays(x, tensor) for x in found]
    return found


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
