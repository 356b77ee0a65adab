"""Random keys of a run, and its state on the devices."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import compress
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, init_state
from diffmic_jax.training import parallel
from diffmic_jax.types import Array

__all__ = [
    "Purpose",
    "TrainState",
    "abstract_state",
    "blank_state",
    "completed",
    "fresh_state",
    "run_key",
]


LARGE = 100_000_000
"""Numbers of a state from which drawing them is what takes the time."""


class Purpose(enum.IntEnum):
    """What a run needs random numbers for; each purpose has a stream of its own."""

    INIT = 0
    TRAIN = 1
    SAMPLING = 2
    AUGMENT = 3
    VIEWS = 4


def run_key(seed: int, purpose: Purpose) -> Array:
    """The random key of one purpose of a run."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


@lru_cache(maxsize=16)
def _initial(method: Method) -> Callable[[Array, Array], TrainState]:
    """`init_state` of a method: one function, which is traced once for its shapes and itself."""
    return jax.jit(partial(init_state, method))


@lru_cache(maxsize=16)
def abstract_state(method: Method, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the method's state on a mesh.

    Raises:
      InputError: the denoiser's layers cannot be split evenly over the mesh.
    """
    abstract = jax.eval_shape(_initial(method), jax.random.key(0), _horizon(method))
    wide = method.denoiser.feature_dim if method.denoiser else mesh.shape["model"]
    shardings = parallel.state_shardings(mesh, abstract, wide)
    # Without them, Orbax restores the devices of the run that saved, which may be others.
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own),
        abstract,
        shardings,
    )


def fresh_state(method: Method, key: Array, mesh: Mesh) -> TrainState:
    """`init_state`, computed, on the devices of a mesh. Errors as in `abstract_state`."""
    return completed(abstract_state(method, mesh), method, key)


def blank_state(method: Method, mesh: Mesh) -> TrainState:
    """A state of zeros, which costs no compiling: to time programs with."""
    state = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        abstract_state(method, mesh),
    )
    horizon = jax.device_put(_horizon(method), state.horizon.sharding)
    return state.replace(horizon=horizon)  # a rate of 0 steps would be 0 / 0


def completed(state: TrainState, method: Method, key: Array) -> TrainState:
    """A state of which only some arrays are there, with the others as in `init_state`.

    Args:
      state: `abstract_state` with arrays in the places of some shapes.
      method: what to train.
      key: random key of the parameters.
    """
    leaves, tree = jax.tree.flatten(state)
    missing = tuple(
        leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None for leaf in leaves
    )
    large = sum(leaf.size for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)) > LARGE
    # The horizon is no part of the program, which is compiled once for any number of epochs.
    new = iter(_drawing(method, missing, large)(key, _horizon(method)))
    whole = [
        leaf if there is None else next(new) for leaf, there in zip(leaves, missing, strict=True)
    ]
    return jax.tree.unflatten(tree, whole)


@lru_cache(maxsize=16)
def _drawing(
    method: Method, missing: tuple[Any, ...], large: bool
) -> Callable[[Array, np.int32], list[Array]]:
    """Compiled function (key, horizon) -> those leaves of `init_state` that have a sharding."""

    def init(key: Array, horizon: Array) -> list[Array]:
        # What is there already is not drawn: no compiler keeps what nothing depends on.
        return list(compress(jax.tree.leaves(_initial(method)(key, horizon)), missing))

    # It runs once: on a CPU, to optimise the program for a small state takes longer than to run it.
    options = {
        "xla_backend_optimization_level": int(large),
        "xla_llvm_disable_expensive_passes": not large,
    }
    return jax.jit(
        init,
        out_shardings=[there for there in missing if there is not None],
        compiler_options=options if jax.default_backend() == "cpu" else None,
    )


def _horizon(method: Method) -> np.int32:
    """Steps of the whole run, as planned."""
    return np.int32(method.optimization.horizon)
