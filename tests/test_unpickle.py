"""What a stranger's pickle may ask for."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from collections import OrderedDict

import pytest

from diffmic_jax.unpickle import BYTES, Unpickler, ordered

PLAIN = [
    {"a": 1, 2: (1.5, None, True), b"c": [b"bytes", "text\u00e9"]},
    [],
    {},
    "",
    b"",
    (),
    [2**70, -(2**70), -1, 300, 70000],
    [{"img_root": f"images/{i}.png", "label": i % 3} for i in range(300)],
]


class Some(Unpickler):
    known = {("collections", "OrderedDict"): ordered} | BYTES


def load(data: bytes) -> object:
    return Some(io.BytesIO(data)).load()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_they_were(protocol):
    for value in PLAIN:
        assert load(pickle.dumps(value, protocol)) == value
    assert load(pickle.dumps(OrderedDict(a=1), protocol)) == {"a": 1}
    shared = ["x"]
    first, second = load(pickle.dumps([shared, shared], protocol))
    assert first is second


def bomb(depth: int = 60) -> tuple:
    """A tuple whose hash takes 2^depth steps."""
    found: tuple = ()
    for _ in range(depth):
        found = (found, found)
    return found


def pickled_key(key: object) -> bytes:
    return b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s."


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f",  # 2 GB in the unpickler in C
        b"\x80\x02Nr\xff\xff\xff\x7f0" + b"r\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # BYTEARRAY8
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",  # BINBYTES8
        b"\x80\x03B" + (2**31).to_bytes(4, "little") + b".",
        b"\x80\x04\x95" + (2**60).to_bytes(8, "little"),
        pickled_key(bomb()),
        pickle.dumps({(1, 2): 3}),
        pickle.dumps(OrderedDict([((1,), 2)])),
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"ccollections\nOrderedDict\n}(S'__doc__'\nS'x'\nub.",  # a state for a function
        b"S'abc'\n(tR.",
        pickle.dumps(print),
        pickle.dumps({1, 2}, 4),
        b"I" + b"9" * 5000 + b"\n.",
        b"",
        b".",
        b"\xff",
    ],
)
def test_what_could_run_or_take_memory_is_refused(data):
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    with pytest.raises(Exception):  # noqa: B017  (of broken bytes anything)
        load(data)
    assert tracemalloc.get_traced_memory()[1] - before < 2**24
    tracemalloc.stop()
    assert ordered.__doc__ != "x"


def test_a_pickle_has_so_many_bytes_at_most():
    long = pickle.dumps(list(range(1000)), 2)
    assert load(long)
    stream = Some(io.BytesIO(long))
    stream._file_read.__self__._left = 1000
    with pytest.raises(ValueError, match="more than"):
        stream.load()
