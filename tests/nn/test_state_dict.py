from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.nn import state_dict


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (("module.a.w", "module.b.w"), ("a.w", "b.w")),
        (("module.a.w", "b.w"), ("module.a.w", "b.w")),  # a module of that name
        (("module.model.a",), ("model.a",)),
    ],
)
def test_the_names_of_data_parallel_lose_their_prefix(tmp_path, names, read):
    written = {name: np.full(2, i, np.float32) for i, name in enumerate(names)}
    state_dict.write(tmp_path / "x.safetensors", written)
    found = state_dict.read(tmp_path / "x.safetensors")
    assert {name: x[0] for name, x in found.items()} == {name: i for i, name in enumerate(read)}


def test_a_prefix_is_looked_for_behind_that_of_data_parallel(tmp_path):
    state_dict.write(tmp_path / "x.safetensors", {"module.model.a": np.zeros(2, np.float32)})
    assert [*state_dict.read(tmp_path / "x.safetensors", "model.")] == ["a"]
