"""What a training state passes on, on trees of one number."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from diffmic_jax.method.state import TrainState, inherit

PARTS = ("params", "batch_stats", "ema_params", "ema_batch_stats")


def tree(trunk: float) -> dict[str, Any]:
    guidance = {"global_trunk": {"w": jnp.array(trunk)}, "head": {"w": jnp.array(7.0)}}
    return {"guidance": guidance, "denoiser": {"encoder": {"w": jnp.array(0.0)}, "out": 9.0}}


@pytest.mark.parametrize("averages", [True, False])
def test_the_encoder_inherits_parameters_statistics_and_the_averages_of_both(averages):
    trees = {part: tree(i) for i, part in enumerate(PARTS, 1)}
    if not averages:
        trees |= {"ema_params": {}, "ema_batch_stats": {}}
    zero = jnp.array(0)
    found = inherit(TrainState(step=zero, opt_state={}, skipped=zero, horizon=zero, **trees))
    for i, part in enumerate(PARTS, 1):
        after = getattr(found, part)
        if trees[part]:
            assert after["denoiser"] == {"encoder": {"w": i}, "out": 9}
            assert after["guidance"] == trees[part]["guidance"]
        else:
            assert after == {}
