from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.data import duplicates, views
from tests.data.test_audit import flat, picture


@pytest.mark.parametrize(("n", "m"), [(150, 2100), (64, 2048), (1, 1), (0, 5), (5, 0)])
def test_block_search_finds_what_comparing_all_pairs_finds(n, m):
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 2**64, k, np.uint64) for k in (n, m))
    for k in range(0, min(n, m), 3):  # some that are close
        right[-k - 1] = left[k] ^ np.bitwise_or.reduce(
            np.uint64(1) << rng.integers(0, 64, 1 + k % 9, np.uint64)
        )
    found = {
        (int(i), int(j)): int(d)
        for items in duplicates.close_pairs(left, right, 6)
        for i, j, d in zip(*items, strict=True)
    }
    bits_left, bits_right = (
        np.unpackbits(h.view(np.uint8).reshape(-1, 8), axis=1) for h in (left, right)
    )
    expected = {}
    for i, bits in enumerate(bits_left):
        distance = (bits != bits_right).sum(axis=1)
        expected |= {(i, int(j)): int(distance[j]) for j in np.flatnonzero(distance <= 6)}
    assert found == expected
    assert min(n, m) < 2 or len(found) > 10


def test_a_fingerprint_is_normalised_and_ignores_brightness_and_contrast():
    pixels = picture(0)
    code, spectrum = views.fingerprint(pixels)
    assert (spectrum.shape, spectrum.dtype) == ((16, 16), np.float32)
    assert np.square(spectrum).sum() == pytest.approx(1, abs=1e-5)
    assert spectrum[0, 0] == 0
    other_code, other = views.fingerprint(pixels // 2 + 20)
    assert (code ^ other_code).bit_count() <= 2
    assert (spectrum * other).sum() > 0.999
    assert (code ^ views.fingerprint(255 - pixels)[0]).bit_count() > 48
    assert not views.fingerprint(flat(7))[1].any()


def test_a_hash_has_a_bit_for_each_frequency_above_the_median():
    low = np.arange(64.0)
    # Of the terms 1 to 63 the median is 32; the first term, constant, never counts.
    assert f"{views._hash(low):064b}" == "0" * 33 + "1" * 31
    low[0] = 1e9
    assert f"{views._hash(low):064b}" == "0" * 33 + "1" * 31
