"""The training steps of a method, each made once: what was traced or compiled is used again."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from jax.sharding import Mesh

from diffmic_jax.method.build import Method, Phase
from diffmic_jax.method.train_step import train_step
from diffmic_jax.training import parallel
from diffmic_jax.training.guards import Step, skipping
from diffmic_jax.training.state import abstract_state

KEPT = 16
"""Programs: a fit of two folds trains eight."""


@lru_cache(maxsize=KEPT)
def step_of(method: Method, phase: Phase, *, skip: bool) -> Step:
    """The training step of a phase; with `skip`, one that leaves out what is not finite."""
    plain = partial(train_step, method.in_phase(phase))
    return skipping(plain) if skip else plain


@lru_cache(maxsize=KEPT)
def compiled_step(
    method: Method, phase: Phase, mesh: Mesh, *, skip: bool, count: int = 1
) -> Callable[..., Any]:
    """So many of these steps, compiled for states that lie on the mesh as `fresh_state` has them.

    Several take as many batches, and give the scalars of each.
    """
    step = step_of(method, phase, skip=skip)
    run = step if count == 1 else parallel.in_a_row(step)
    return parallel.jit_train(mesh, run, abstract_state(method, mesh))
