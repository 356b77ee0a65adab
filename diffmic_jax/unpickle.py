"""Pickles from strangers, read without running anything in them.

A pickle is a program. Of its instructions only those are known here that make plain values, and of
the functions that it may ask for only those that a subclass names. A few bytes cannot take much
memory or time: no instruction allocates by a number alone, and keys are text or numbers, since the
hash of a nested tuple can take for ever.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

MOST_BYTES = 2**23
"""Of a pickle, each of which can take more than a hundred bytes of memory."""

_INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND"),
    *("APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
)
_PYTHON: Any = pickle._Unpickler  # the one in C cannot be limited


class _Instructions(dict[int, Callable[..., None]]):
    """By their byte."""

    def __missing__(self, code: int) -> Callable[..., None]:
        raise ValueError(f"instruction {code}")


class LimitedStream:
    """A file of which a limited number of bytes can be read; a length is checked before it is used.

    Args:
      stream: an open file.
      left: bytes that may be read.
    """

    def __init__(self, stream: io.BufferedIOBase, left: int = MOST_BYTES) -> None:
        """At the place where the file is."""
        self._stream, self._left = stream, left

    def read(self, size: int) -> bytes:
        """As a file does."""
        if size > self._left:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        data = self._stream.read(size)
        self._left -= len(data)
        if len(data) < size:
            raise EOFError("it is cut short")
        return data

    def readline(self) -> bytes:
        """As a file does."""
        data = self._stream.readline(self._left)
        self._left -= len(data)
        return data


class Unpickler(_PYTHON):
    """Makes dictionaries, lists, tuples, numbers, text and bytes, and what `known` makes."""

    known: Mapping[tuple[str, str], Callable[..., Any]] = MappingProxyType({})
    """By module and name: what stands for a class or function that a pickle asks for. A class with
    `__setstate__` may be given a state."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        """At the place where the file is; `load` reads the pickle.

        That raises an `UnpicklingError` if it holds more than plain values, and nearly anything if
        it is damaged.
        """
        super().__init__(LimitedStream(stream), encoding="latin-1")

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """What stands for a class or function."""
        try:
            return self.known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None

    def load_frame(self) -> None:
        """Frames only say how much may be read at once; nothing depends on them."""
        self.read(8)

    def load_reduce(self) -> None:
        """Call one of the known functions."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is each for each in self.known.values()):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """Give an object its state; that of a dictionary is of no use."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, dict):
            return
        if type(made) not in self.known.values() or not hasattr(made, "__setstate__"):
            raise pickle.UnpicklingError(f"a state of a {type(made).__name__}")
        made.__setstate__(state)

    def load_dict(self) -> None:
        """Pairs up to the mark."""
        items = self.pop_mark()
        self.append(with_items({}, items[::2], items[1::2]))

    def load_setitem(self) -> None:
        """One pair."""
        value = self.stack.pop()
        key = self.stack.pop()
        with_items(self.stack[-1], [key], [value])

    def load_setitems(self) -> None:
        """Pairs up to the mark."""
        items = self.pop_mark()
        with_items(self.stack[-1], items[::2], items[1::2])

    dispatch = _Instructions()


for _name in _INSTRUCTIONS:
    _code = getattr(pickle, _name)[0]
    _method = getattr(Unpickler, f"load_{_name.lower()}", None)
    Unpickler.dispatch[_code] = _method or _PYTHON.dispatch[_code]


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols before 3 write bytes."""
    return text.encode("latin-1" if encoding == "latin1" else "ascii")


BYTES: Mapping[tuple[str, str], Callable[..., bytes]] = MappingProxyType(
    {("_codecs", "encode"): _encoded, ("__builtin__", "bytes"): lambda: b""}
)
"""For `known`: what makes bytes in old protocols."""


def with_items(made: Any, keys: list[Any], values: list[Any]) -> Any:
    """A dictionary with further items.

    Raises:
      pickle.UnpicklingError: it is none, or a key is neither text nor a number.
    """
    if not isinstance(made, dict) or not all(isinstance(key, str | int | bytes) for key in keys):
        raise pickle.UnpicklingError("keys that are neither text nor numbers")
    made.update(zip(keys, values, strict=True))
    return made


def ordered(pairs: Any = ()) -> dict[Any, Any]:
    """In the place of `collections.OrderedDict`: dictionaries have an order."""
    return with_items({}, [key for key, _ in pairs], [value for _, value in pairs])
