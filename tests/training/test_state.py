"""A state as it is drawn, whatever program draws it."""

from pathlib import Path

import jax
import numpy as np

from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel, state
from diffmic_jax.training.state import Purpose, fresh_state, run_key
from tests import tiny


def test_a_large_state_is_drawn_by_an_optimised_program_and_is_the_same(monkeypatch):
    config = tiny.make_config(Path("state"), "classifier")
    method = build(config, Task(class_names=tiny.CLASSES), steps_per_epoch=3)
    options = []
    jit = jax.jit

    def noted(function, **given):
        options.append(given["compiler_options"]["xla_backend_optimization_level"])
        return jit(function, **given)

    found = {}
    state._initial(method)  # made with the real `jit`
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(state.jax, "jit", noted)
    state._drawing.cache_clear()
    for large in (False, True):
        monkeypatch.setattr(state, "LARGE", 0 if large else state.LARGE)
        key = run_key(0, Purpose.INIT)
        found[large] = jax.device_get(fresh_state(method, key, parallel.make_mesh()))
    assert options == [0, 1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found[0], found[1]
    )
