"""Contents of files from strangers: damaged, hostile, or of any shape that a format allows."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

Content = st.SearchStrategy[bytes]
HOSTILE = (
    *("", "=cmd|' /C calc'!A0", "../../etc/passwd", "/etc/passwd", "a\r\nb", "\u202e", "$x^$"),
    *("nan", "-1", "1e999", "9" * 5000, "a|b", "'", '"', "\0", "<script>", "\u00e9", "e\u0301"),
)
NUMBERS_OF_SIZE = (
    0,
    1,
    -1,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63,
    2**64,
    10**30,
)


def json_values() -> st.SearchStrategy[Any]:
    """Anything that JSON can hold."""
    leaves = (
        st.none()
        | st.booleans()
        | st.sampled_from(NUMBERS_OF_SIZE)
        | st.floats(allow_nan=True)
        | st.sampled_from(HOSTILE)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*HOSTILE, "a", "class_names"]), inner, max_size=4)
        ),
        max_leaves=8,
    )


@st.composite
def damaged(draw: Any, bases: tuple[bytes, ...]) -> bytes:
    """A file with bytes changed, cut out, repeated or put in; often a number, as of a size."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64)))
        kind = draw(st.sampled_from(("flip", "number", "cut", "repeat", "end", "put")))
        if kind == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "number":
            order = draw(st.sampled_from(("little", "big")))
            number = draw(st.sampled_from(NUMBERS_OF_SIZE)) % 2 ** (8 * length)
            data[place : place + length] = number.to_bytes(length, order)
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.integers(1, 50))
        elif kind == "end":
            del data[place:]
        else:
            data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def changed_json(draw: Any, base: dict[str, Any]) -> bytes:
    """A JSON object with values at any depth changed or left out."""
    found = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(0, 3))):
        inside = found
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and draw(st.booleans()):
                inside = inside[key]
                continue
            if draw(st.integers(0, 3)):
                inside[key] = draw(json_values())
            else:
                del inside[key]
            break
    return json.dumps(draw(st.sampled_from([found, found, found, draw(json_values())]))).encode()


@st.composite
def tables(draw: Any) -> bytes:
    """Tables of labels, more or less."""
    cells = st.sampled_from((*HOSTILE, "a.png", "b.png", "c/d.png", "x", "y", "0", "1", "2", "1.0"))
    columns = st.sampled_from(("image", "label", "split", "group", "x", "y", "male", *HOSTILE))
    header = draw(st.lists(columns, min_size=1, max_size=5))
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=8))
    separator = draw(st.sampled_from(",;\t|"))
    quoted = [[f'"{c}"' if draw(st.booleans()) else c for c in row] for row in [header, *rows]]
    text = draw(st.sampled_from(("\n", "\r\n", "\r"))).join(map(separator.join, quoted))
    encoding = draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")))
    return text.encode(encoding, "replace")


@st.composite
def safetensors(draw: Any) -> bytes:
    """Headers with shapes, types and offsets of any kind."""
    number = st.sampled_from((*NUMBERS_OF_SIZE, 2, 4, 6, 8, 24))
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(("F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X")),
            "shape": st.lists(number, max_size=4),
            "data_offsets": st.lists(number, min_size=2, max_size=2),
        }
    )
    names = st.sampled_from(("w", "__metadata__", *HOSTILE))
    header = draw(st.dictionaries(names, entry | json_values(), max_size=4))
    text = json.dumps(header).encode()
    size = draw(st.sampled_from((len(text), len(text), len(text), *NUMBERS_OF_SIZE))) % 2**64
    return struct.pack("<Q", size) + text + bytes(draw(st.sampled_from((0, 24, 1000))))


def pickles() -> Content:
    """Instructions of pickles in any order, with arguments of any size."""
    whole = st.sampled_from([bytes([code]) for code in range(0x28, 0x98)])
    long = st.sampled_from(
        [
            *(b"r" + struct.pack("<I", n % 2**32) for n in NUMBERS_OF_SIZE),
            *(b"X" + struct.pack("<I", n % 2**32) for n in NUMBERS_OF_SIZE),
            *(b"\x96" + struct.pack("<Q", n % 2**64) for n in NUMBERS_OF_SIZE),
            *(b"\x8e" + struct.pack("<Q", n % 2**64) for n in NUMBERS_OF_SIZE),
            b"cos\nsystem\n",
            b"cnumpy\ndtype\n",
            b"X\x01\0\0\0a",
            b"(lp0\n",
        ]
    )
    return st.lists(whole | long, max_size=30).map(
        lambda parts: b"\x80\x04" + b"".join(parts) + b"."
    )
