"""The file format of `torch.save` before PyTorch 1.6, read without PyTorch.

Five pickles follow one another: a magic number, a version, facts of the machine, the object with
its tensors as references to storages, and the keys of the storages, whose raw numbers come last.
The unpickler knows tensors, storages and dictionaries; a file that names anything else is refused,
and no code in it runs.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffmic_jax.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    """Numbers that tensors are views of."""

    dtype: np.dtype
    size: int
    key: str


class _View(NamedTuple):
    """A tensor: where in a storage its numbers are."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_legacy(data: bytes) -> bool:
    """Whether a file begins as one of this format."""
    return data.startswith(pickle.dumps(MAGIC, protocol=2))


def read(path: Path) -> Any:
    """The object in a file, its tensors as arrays.

    Raises:
      InputError: the file is damaged, or holds more than tensors.
    """
    try:
        return _read(path.read_bytes())
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than weights, which is not run ({error}); save its state dict "
            "alone where it was made: torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # of broken bytes a pickle makes nearly anything
        raise InputError(f"{path}: damaged ({error}); get it anew") from error


def _read(data: bytes) -> Any:
    stream = io.BytesIO(data)
    magic, version, facts = (_Unpickler(stream).load() for _ in range(3))
    if magic != MAGIC or version != _VERSION or not facts["little_endian"]:
        raise ValueError("another format or byte order")
    unpickler = _Unpickler(stream)
    found = unpickler.load()
    arrays = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        size = int.from_bytes(stream.read(8), "little")
        raw = stream.read(size * storage.dtype.itemsize)
        if size != storage.size or len(raw) != size * storage.dtype.itemsize:
            raise ValueError(f"storage {key} is cut short")
        arrays[key] = np.frombuffer(raw, storage.dtype)
    if stream.read(1):
        raise ValueError("more bytes than numbers")
    return _with_arrays(found, arrays)


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, numbers and text, and views in the place of tensors."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """What stands for a class or function in the file."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name]).type
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of a reference."""
        kind, dtype, key, _, size, part = pid
        if kind != "storage" or part is not None:
            raise ValueError("a reference to something else than a storage")
        storage = _Storage(np.dtype(dtype), size, key)
        self.storages[key] = storage
        return storage


def _view(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _View:
    """In the place of PyTorch's own function: it takes whether there are gradients, and hooks."""
    return _View(storage, offset, tuple(shape), tuple(strides))


def _with_arrays(found: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The object with arrays in the place of views."""
    if isinstance(found, _View):
        return _array(found, arrays[found.storage.key])
    if isinstance(found, dict):
        return {key: _with_arrays(value, arrays) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_with_arrays(value, arrays) for value in found]
    return found


def _array(view: _View, numbers: np.ndarray) -> np.ndarray:
    """The numbers of a view, copied."""
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.shape, *view.strides)) < 0:
        raise ValueError("a tensor of negative sizes")
    if 0 in view.shape:
        return np.zeros(view.shape, numbers.dtype)
    if view.offset + last >= len(numbers) or math.prod(view.shape) > len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * numbers.itemsize for stride in view.strides]
    # Read-only, and inside of the storage, as was just checked.
    there = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides)
    return there.copy()
