"""The files of `torch.save`, read without PyTorch and without running anything in them.

The format since PyTorch 1.6 is an archive: a pickle of the object, with its tensors as references
to storages, and the numbers of each storage in a file of its own. The one before is five pickles in
a row: a magic number, a version, facts of the machine, the object, and the keys of the storages,
whose numbers come last. The unpickler knows tensors, storages and plain values; a file that names
anything else is refused.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from diffmic_jax.errors import InputError
from diffmic_jax.unpickle import BYTES, MOST_BYTES, Unpickler, ordered

MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "double", "float", "half", "long", "int", "short"),
)


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


def read(path: Path) -> Any:
    """The object in a file, its tensors as arrays that cannot be written.

    Tensors are found at the top, in lists and in dictionaries.

    Raises:
      InputError: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK"
            file.seek(0)
            return _read_archive(file) if is_archive else _read_legacy(file)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than weights, and what it wants to run is not run ({error}). If "
            "you trust it, save its state dict alone, dense and not quantised, where it was made: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # of broken bytes a pickle or an archive makes nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: no file of torch.save, or damaged ({reason}); get it anew"
        ) from error


def _read_archive(file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {each.filename: each for each in archive.infolist()}
        (place,) = (name for name in members if name.count("/") == 1 and name.endswith("/data.pkl"))
        root = place.removesuffix("data.pkl")
        if members.keys() & {f"{root}byteorder"} and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("another byte order")
        if members[place].file_size > MOST_BYTES:
            raise ValueError(f"its pickle has {members[place].file_size} bytes")
        unpickler = _TensorUnpickler(io.BytesIO(archive.read(place)))
        found = unpickler.load()
        wanted = {key: members[f"{root}data/{key}"] for key in unpickler.storages}
        # Stored as they are, and not one upon the other, they cannot be larger than the file.
        packed = any(each.compress_type != zipfile.ZIP_STORED for each in wanted.values())
        if packed or sum(each.file_size for each in wanted.values()) > file.seek(0, os.SEEK_END):
            raise ValueError("its tensors are larger than the file, perhaps a bomb")
        arrays = {
            key: _numbers(archive.read(member), unpickler.storages[key])
            for key, member in wanted.items()
        }
    return _with_arrays(found, arrays, {})


def _read_legacy(file: io.BufferedIOBase) -> Any:
    magic, version, facts = (_TensorUnpickler(file).load() for _ in range(3))
    if magic != MAGIC or version != _VERSION or not facts["little_endian"]:
        raise ValueError("another format or byte order")
    unpickler = _TensorUnpickler(file)
    found = unpickler.load()
    keys = _TensorUnpickler(file).load()
    place = file.tell()
    left = file.seek(0, os.SEEK_END) - place
    file.seek(place)
    arrays = {}
    for key in keys:
        storage = unpickler.storages[key]
        size = int.from_bytes(file.read(8), "little")
        left -= 8 + storage.dtype.itemsize * size
        if size != storage.size or left < 0:
            raise ValueError(f"storage {key} is cut short")
        arrays[key] = _numbers(file.read(storage.dtype.itemsize * size), storage)
    if left:
        raise ValueError("more bytes than numbers")
    return _with_arrays(found, arrays, {})


def _numbers(raw: bytes, storage: _Storage) -> np.ndarray:
    """The numbers of a storage; BF16, which few know, as float32."""
    numbers = np.frombuffer(raw, storage.dtype)
    if len(numbers) != storage.size:
        raise ValueError(f"storage {storage.key} has {len(numbers)} numbers, not {storage.size}")
    return numbers.astype(np.float32) if storage.dtype == ml_dtypes.bfloat16 else numbers


def _view(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _View:
    """In the place of PyTorch's own function: it takes whether there are gradients, and hooks."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes)


def _device(*place: Any) -> str:
    return ":".join(map(str, place))


class _TensorUnpickler(Unpickler):
    """Makes views in the place of tensors."""

    known: Mapping[tuple[str, str], Callable[..., Any]] = MappingProxyType(
        {
            **BYTES,
            ("collections", "OrderedDict"): ordered,
            ("collections", "Counter"): ordered,
            ("torch", "Size"): _size,
            ("torch", "device"): _device,
            ("torch._utils", "_rebuild_tensor"): _view,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
        }
    )

    def __init__(self, stream: io.BufferedIOBase) -> None:
        """At the place where the file is."""
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function; the name, for types of numbers."""
        if module == "torch" and (name in _TYPES or name in _DTYPES):
            return name
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of a reference; before PyTorch 1.6 it could be a part of another."""
        kind, dtype, key, _, size, *part = pid
        if kind != "storage" or part not in ([], [None]) or not isinstance(key, str):
            raise ValueError("a reference to something else than a storage")
        if type(size) is not int or size < 0:
            raise ValueError("a storage of no size")
        storage = _Storage(np.dtype(_TYPES[dtype]), size, key)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is of two kinds")
        return storage


def _with_arrays(found: Any, arrays: dict[str, np.ndarray], done: dict[int, Any]) -> Any:
    """The object with arrays in the place of views.

    Args:
      found: as the pickle has it.
      arrays: the storages.
      done: what became of an object, by its id: a few lists in each other can have billions of
        entries.
    """
    if id(found) in done:
        return done[id(found)]
    if isinstance(found, _View):
        done[id(found)] = _array(found, arrays[found.storage.key])
    elif isinstance(found, dict):
        made: dict[Any, Any] = {}
        done[id(found)] = made
        made |= {key: _with_arrays(value, arrays, done) for key, value in found.items()}
    elif isinstance(found, list | tuple):
        listed: list[Any] = []
        done[id(found)] = listed
        listed += [_with_arrays(value, arrays, done) for value in found]
    else:
        return found
    return done[id(found)]


def _array(view: _View, numbers: np.ndarray) -> np.ndarray:
    """The numbers of a view, which cannot be written; many views may have the same."""
    if not all(type(n) is int and n >= 0 for n in (view.offset, *view.shape, *view.strides)):
        raise ValueError("a tensor of sizes that are none")
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if 0 in view.shape:
        return np.zeros(view.shape, numbers.dtype)
    if view.offset + last >= len(numbers) or math.prod(view.shape) > len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * numbers.itemsize for stride in view.strides]
    # Inside of the storage, as was just checked.
    return np.lib.stride_tricks.as_strided(
        numbers[view.offset :], view.shape, strides, writeable=False
    )
