"""A checksum of arrays that does not depend on how they lie on the devices.

Every element's bits are mixed with its position by a bijection of 32 bits, and the results are
added modulo 2^32. Integer sums do not depend on their order, so one device and a pod agree. A
single changed element always changes the sum; any other damage goes unseen once in 2^64, as there
are two sums with different mixes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmic_jax.types import Array

SEEDS = (0x9E3779B9, 0x85EBCA6B)


LARGE = 1 << 20
"""Elements from which the devices take the sums. To compile a program for each of the many shapes
of small arrays takes longer than these sums do on the host."""


def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3, a bijection of uint32; on the host and on devices."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _positions(shape: tuple[int, ...], first: Array, strides: Array) -> Array:
    """The place of every element in the whole array, uint32."""
    place = jnp.full(shape, first)
    for axis in range(len(shape)):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * strides[axis]
    return place


def _bits(x: Array) -> Array:
    """The elements' bits as uint32, for types of up to 32 bits."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


@jax.jit
def _sums(x: Array, first: Array, strides: Array) -> Array:
    """Both sums of a large piece of an array: [2] uint32.

    Compiled for each shape, of which a state has few: all of it at once would take longer to
    compile than a training step.
    """
    bits, place = _bits(x), _positions(x.shape, first, strides)
    return jnp.stack([_mix(bits ^ _mix(place + jnp.uint32(seed))).sum() for seed in SEEDS])


def _sums_on_host(x: np.ndarray, first: np.uint32, strides: np.ndarray) -> np.ndarray:
    """The same of a small one."""
    x = np.atleast_1d(x)  # numpy warns where a scalar wraps around, as it is to do here
    kind = np.uint8 if x.dtype == np.bool_ else np.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = np.ascontiguousarray(x).view(kind).reshape(x.shape).astype(np.uint32)
    place = np.full(x.shape, first)
    for axis, stride in enumerate(strides):
        line = np.arange(x.shape[axis], dtype=np.uint32) * stride
        place += line.reshape(-1, *(1 for _ in x.shape[axis + 1 :]))
    mixed = (_mix(bits ^ _mix(place + np.uint32(seed))) for seed in SEEDS)
    return np.stack([each.sum(dtype=np.uint32) for each in mixed])


def _pieces(array: jax.Array) -> list[Array | np.ndarray]:
    """The sums of every piece of an array that this process holds, each piece once."""
    strides = np.array([math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)])
    strides = strides.astype(np.uint32)
    pieces: dict[tuple[int, ...], Array | np.ndarray] = {}
    for shard in array.addressable_shards:
        start = tuple(part.start or 0 for part in shard.index)
        first = np.uint32(sum(int(s) * at for s, at in zip(strides, start, strict=True)) % 2**32)
        if start not in pieces:
            small = shard.data.size < LARGE
            piece = np.asarray(shard.data) if small else shard.data
            pieces[start] = (_sums_on_host if small else _sums)(piece, first, strides)
    return list(pieces.values())


def checksums(tree: Any) -> dict[str, str]:
    """Path of every array in a tree -> its checksum, 16 hexadecimal digits.

    Every process has to hold each array whole, on its devices together. No process waits for
    another: hundreds of small programs that do can block each other.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get([_pieces(jnp.asarray(leaf)) for _, leaf in leaves])
    return {name(path): _text(pieces) for (path, _), pieces in zip(leaves, sums, strict=True)}


def _text(pieces: list[np.ndarray]) -> str:
    """The sums of an array's pieces, added."""
    return "".join(f"{part:08x}" for part in np.asarray(pieces).sum(axis=0, dtype=np.uint32))


def name(path: Any) -> str:
    """A leaf's path as text, such as `params.denoiser.output.linear.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def described(state: Any) -> dict[str, dict[str, Any]]:
    """Path -> shape and type of every array of a state, real or abstract."""
    return {
        name(path): {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In words, where two states as `described` are not alike; empty where they are."""
    one, other = (
        {path: f"{x['dtype']}[{','.join(map(str, x['shape']))}]" for path, x in each.items()}
        for each in (there, here)
    )
    return some(
        [
            f"{path} is {one.get(path, 'absent')}, not {other.get(path, 'absent')}"
            for path in sorted(one.keys() | other.keys())
            if one.get(path) != other.get(path)
        ]
    )


def some(texts: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return ", ".join(texts[:3]) + more


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what is written as JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
