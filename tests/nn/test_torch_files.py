"""The files of `torch.save`: what is read, and what is refused."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import state_dict, torch_files


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

    def __init__(self, key: str, kind: str, size: int, rest: tuple):
        self.pid = ("storage", Named("torch", kind), key, "cpu", size, *rest)


class Writer(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python can be extended
    """Writes what PyTorch would have written."""

    def __init__(self, stream: io.BytesIO, sizes: dict[str, int], rest: tuple = (None,)):
        super().__init__(stream, protocol=2)
        self.sizes, self.rest = sizes, rest

    def persistent_id(self, found: Any) -> Any:
        return found.pid if isinstance(found, Reference) else None

    def save(self, found: Any, save_persistent_id: bool = True) -> None:
        if isinstance(found, Tensor):
            key, kind = found.storage
            self.write(f"c{found.module}\n{found.name}\n".encode())
            super().save((Reference(key, kind, self.sizes[key], self.rest), *found.args))
            self.write(pickle.REDUCE)
        elif isinstance(found, Named):
            self.write(f"c{found.module}\n{found.name}\n".encode())
        else:
            super().save(found, save_persistent_id)


def written(found: Any, storages: dict[str, np.ndarray]) -> bytes:
    """A file with an object and its storages."""
    stream = io.BytesIO()
    facts = {"protocol_version": 1001, "little_endian": True}
    for part in (torch_files.MAGIC, 1001, facts):
        pickle.dump(part, stream, protocol=2)
    Writer(stream, {key: array.size for key, array in storages.items()}).dump(found)
    pickle.dump(sorted(storages), stream, protocol=2)
    for key in sorted(storages):
        stream.write(storages[key].size.to_bytes(8, "little") + storages[key].tobytes())
    return stream.getvalue()


def archived(
    found: Any, storages: dict[str, np.ndarray], packed: int = zipfile.ZIP_STORED
) -> bytes:
    """The same as an archive."""
    stream, whole = io.BytesIO(), io.BytesIO()
    Writer(stream, {key: array.size for key, array in storages.items()}, ()).dump(found)
    with zipfile.ZipFile(whole, "w", packed) as archive:
        archive.writestr("weights/data.pkl", stream.getvalue())
        archive.writestr("weights/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"weights/data/{key}", array.tobytes())
        archive.writestr("weights/version", "3\n")
    return whole.getvalue()


Write = Callable[..., bytes]
both = pytest.mark.parametrize("write", [written, archived], ids=["legacy", "archive"])
NUMBERS = {"7": np.arange(12, dtype=np.float32), "9": np.array([5], np.int64)}
STATE = OrderedDict(
    weight=Tensor("7", 0, (3, 4), (4, 1)),
    turned=Tensor("7", 1, (2, 3), (1, 4)),
    steps=Tensor("9", 0, (), (), "LongStorage"),
    none=Tensor("7", 12, (0, 4), (4, 1)),
)


@both
def test_tensors_are_read_without_pytorch(tmp_path, write: Write):
    path = tmp_path / "w.pth"
    path.write_bytes(write({"state_dict": STATE, "epoch": 3}, NUMBERS))
    found = state_dict.read(path)
    assert set(found) == set(STATE)
    np.testing.assert_array_equal(found["weight"], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[1, 5, 9], [2, 6, 10]])
    assert (found["steps"], found["steps"].dtype, found["none"].shape) == (5, np.int64, (0, 4))


@both
@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "anything")),
        *(("torch._utils", "_rebuild_sparse_tensor"), ("torch._utils", "_rebuild_qtensor")),
    ],
)
def test_a_file_that_names_code_is_refused_by_what_it_names(tmp_path, write, module, name):
    path = tmp_path / "w.pth"
    path.write_bytes(write({"weight": Named(module, name)}, {}))
    with pytest.raises(InputError, match=rf"w.pth: holds more than weights, .*\({module}.{name}\)"):
        torch_files.read(path)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("7", 1, (3, 4), (4, 1)),
        Tensor("7", -1, (1,), (1,)),
        Tensor("7", 0, (2, 2), (-1, 1)),
        Tensor("7", 0, (10**6, 10**6), (0, 0)),
        Tensor("7", 0, ("a",), (1,)),
        Tensor("7", 0, (2,), (1, 1)),
    ],
)
@both
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, tensor, write):
    path = tmp_path / "w.pth"
    path.write_bytes(write({"weight": tensor}, NUMBERS))
    with pytest.raises(InputError, match="w.pth: no file of torch.save, or damaged"):
        torch_files.read(path)


@both
def test_a_file_cut_anywhere_or_longer_is_refused(tmp_path, write):
    path, whole = tmp_path / "w.pth", write(STATE, NUMBERS)
    longer = [whole + b"x"] if write is written else []
    for data in (*(whole[:end] for end in range(20, len(whole), 7)), *longer):
        path.write_bytes(data)
        with pytest.raises(InputError, match="w.pth: "):
            torch_files.read(path)


@both
def test_bf16_becomes_float32(tmp_path, write):
    path = tmp_path / "w.pth"
    numbers = {"1": np.array([1.0, -2.5], np.float32).astype(ml_dtypes.bfloat16)}
    path.write_bytes(write({"w": Tensor("1", 0, (2,), (1,), "BFloat16Storage")}, numbers))
    found = state_dict.read(path)["w"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.0, -2.5])


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    state = {"w": Tensor("1", 0, (2**20,), (1,))}
    path.write_bytes(archived(state, {"1": np.zeros(2**20, np.float32)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="larger than the file, perhaps a bomb"):
        state_dict.read(path)


def nested(depth: int = 60) -> list:
    """Lists of two lists each: few objects, and 2^depth entries."""
    found: list = []
    for _ in range(depth):
        found = [found, found]
    return found


@both
def test_lists_in_lists_are_read_once_each(tmp_path, write):
    path = tmp_path / "w.pth"
    state = {"w": Tensor("9", 0, (1,), (1,), "LongStorage"), "many": nested()}
    path.write_bytes(write(state, {"9": NUMBERS["9"]}))
    assert state_dict.read(path).keys() == {"w"}


def test_many_tensors_of_one_storage_take_its_memory_once(tmp_path):
    path = tmp_path / "w.pth"
    numbers = {"1": np.zeros(2**18, np.float32)}
    path.write_bytes(archived([Tensor("1", 0, (2**18,), (1,)) for _ in range(300)], numbers))
    tracemalloc.start()
    torch_files.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24  # 300 MiB as copies
    tracemalloc.stop()
