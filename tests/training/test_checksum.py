from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.training import checksum
from diffmic_jax.training.checksum import checksums

RNG = np.random.default_rng(0)


def one(array: object) -> str:
    (text,) = checksums([jnp.asarray(array)]).values()
    return text


@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16, np.uint8, np.bool_])
def test_any_changed_element_changes_the_sum(dtype):
    array = np.asarray(RNG.integers(0, 2, (3, 5)), dtype)
    seen = {one(array)}
    for i in range(array.size):
        changed = array.copy()
        changed.flat[i] = 1 - changed.flat[i]
        seen.add(one(changed))
    assert len(seen) == array.size + 1


def test_every_bit_and_every_place_counts():
    array = RNG.standard_normal(8).astype(np.float32)
    flipped = [np.frombuffer((array.view(np.uint32) ^ (1 << bit)).tobytes()) for bit in range(32)]
    others = [array[::-1], array.reshape(2, 4).T.ravel(), np.roll(array, 1)]
    sums = {one(array), *(one(x.view(np.float32)) for x in flipped), *map(one, others)}
    assert len(sums) == 1 + 32 + 3


def test_zero_and_minus_zero_differ_and_nan_is_a_value():
    assert one(np.float32(0)) != one(np.float32(-0.0))
    assert one(np.float32(np.nan)) == one(np.float32(np.nan))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 3, 5, 2)])
def test_host_and_devices_agree(shape, dtype, monkeypatch):
    array = np.asarray(100 * RNG.standard_normal(shape), dtype)
    host = one(array)
    monkeypatch.setattr(checksum, "LARGE", 0)
    assert one(array) == host


def test_the_path_names_the_array():
    tree = {"params": {"w": jnp.ones(2)}, "opt_state": (jnp.zeros(()), {})}
    assert sorted(checksums(tree)) == ["opt_state.0", "params.w"]
