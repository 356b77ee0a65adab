"""A checksum of arrays that does not depend on how they lie on the devices.

Every element's bits are mixed with its position by a bijection of 32 bits, and the results are
added modulo 2^32. Integer sums do not depend on their order, so one device and a pod agree. A
single changed element always changes the sum; any other damage goes unseen once in 2^64, as there
are two sums with different mixes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffmic_jax.types import Array

SEEDS = (0x9E3779B9, 0x85EBCA6B)


def _mix(x: Array) -> Array:
    """The finaliser of MurmurHash3, a bijection of uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _positions(shape: tuple[int, ...]) -> Array:
    """The flat index of every element, uint32; built by axis, so that sharded axes stay so."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index * jnp.uint32(size) + along
    return index


def _bits(x: Array) -> Array:
    """The elements' bits as uint32, for types of up to 32 bits."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


@jax.jit
def _sums(x: Array) -> Array:
    """Both sums of an array: [2] uint32.

    Compiled for each shape, of which a state has few: all of it at once would take longer to
    compile than a training step.
    """
    bits, place = _bits(x), _positions(x.shape)
    return jnp.stack([_mix(bits ^ _mix(place + jnp.uint32(seed))).sum() for seed in SEEDS])


def checksums(tree: Any) -> dict[str, str]:
    """Path of every array in a tree -> its checksum, 16 hexadecimal digits.

    Every process has to call it, where arrays are spread over processes.
    """
    sums = jax.device_get(jax.tree.map(_sums, tree))
    return {
        name(path): "".join(f"{part:08x}" for part in pair)
        for path, pair in jax.tree_util.tree_leaves_with_path(sums)
    }


def name(path: Any) -> str:
    """A leaf's path as text, such as `params.denoiser.output.linear.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
