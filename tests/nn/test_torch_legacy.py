"""PyTorch's old file format: what is read, and what is refused."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import state_dict, torch_legacy


class Named:
    """Stands for a class or function of PyTorch in a pickle."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Tensor(Named):
    """A tensor on a storage."""

    def __init__(self, key: str, offset: int, shape: tuple, strides: tuple, kind="FloatStorage"):
        super().__init__("torch._utils", "_rebuild_tensor_v2")
        self.storage = (key, kind)
        self.args = (offset, shape, strides, False, OrderedDict())


class Reference:
    """A storage, by its key."""

    def __init__(self, key: str, kind: str, size: int):
        self.pid = ("storage", Named("torch", kind), key, "cpu", size, None)


class Writer(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python can be extended
    """Writes what PyTorch would have written."""

    def __init__(self, stream: io.BytesIO, sizes: dict[str, int]):
        super().__init__(stream, protocol=2)
        self.sizes = sizes

    def persistent_id(self, found: Any) -> Any:
        return found.pid if isinstance(found, Reference) else None

    def save(self, found: Any, save_persistent_id: bool = True) -> None:
        if isinstance(found, Tensor):
            key, kind = found.storage
            self.write(f"c{found.module}\n{found.name}\n".encode())
            super().save((Reference(key, kind, self.sizes[key]), *found.args))
            self.write(pickle.REDUCE)
        elif isinstance(found, Named):
            self.write(f"c{found.module}\n{found.name}\n".encode())
        else:
            super().save(found, save_persistent_id)


def written(found: Any, storages: dict[str, np.ndarray]) -> bytes:
    """A file with an object and its storages."""
    stream = io.BytesIO()
    facts = {"protocol_version": 1001, "little_endian": True}
    for part in (torch_legacy.MAGIC, 1001, facts):
        pickle.dump(part, stream, protocol=2)
    Writer(stream, {key: array.size for key, array in storages.items()}).dump(found)
    pickle.dump(sorted(storages), stream, protocol=2)
    for key in sorted(storages):
        stream.write(storages[key].size.to_bytes(8, "little") + storages[key].tobytes())
    return stream.getvalue()


NUMBERS = {"7": np.arange(12, dtype=np.float32), "9": np.array([5], np.int64)}
STATE = OrderedDict(
    weight=Tensor("7", 0, (3, 4), (4, 1)),
    turned=Tensor("7", 1, (2, 3), (1, 4)),
    steps=Tensor("9", 0, (), (), "LongStorage"),
    none=Tensor("7", 12, (0, 4), (4, 1)),
)


def test_tensors_are_read_without_pytorch(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(written({"state_dict": STATE, "epoch": 3}, NUMBERS))
    found = state_dict.read(path)
    assert set(found) == set(STATE)
    np.testing.assert_array_equal(found["weight"], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[1, 5, 9], [2, 6, 10]])
    assert (found["steps"], found["steps"].dtype, found["none"].shape) == (5, np.int64, (0, 4))


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "anything")],
)
def test_a_file_that_names_code_is_refused_by_what_it_names(tmp_path, module, name):
    path = tmp_path / "w.pth"
    path.write_bytes(written({"weight": Named(module, name)}, {}))
    with pytest.raises(InputError, match=rf"w.pth: holds more than weights, .*\({module}.{name}\)"):
        torch_legacy.read(path)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("7", 1, (3, 4), (4, 1)),
        Tensor("7", -1, (1,), (1,)),
        Tensor("7", 0, (2, 2), (-1, 1)),
        Tensor("7", 0, (10**6, 10**6), (0, 0)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, tensor):
    path = tmp_path / "w.pth"
    path.write_bytes(written({"weight": tensor}, NUMBERS))
    with pytest.raises(InputError, match="w.pth: damaged"):
        torch_legacy.read(path)


def test_a_file_cut_anywhere_or_longer_is_refused(tmp_path):
    path, whole = tmp_path / "w.pth", written(STATE, NUMBERS)
    for data in (*(whole[:end] for end in range(20, len(whole), 7)), whole + b"x"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="w.pth: "):
            torch_legacy.read(path)
