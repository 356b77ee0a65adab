"""Random keys of a run, and its state on the devices."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, init_state
from diffmic_jax.training import parallel
from diffmic_jax.types import Array

__all__ = ["Purpose", "TrainState", "abstract_state", "fresh_state", "run_key"]


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
    return partial(init_state, method)


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
    # It runs once: on a CPU, optimising the program takes many times longer than running it.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    init = jax.jit(
        _initial(method),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract_state(method, mesh)),
        compiler_options=options if jax.default_backend() == "cpu" else None,
    )
    # The horizon is no part of the program, which is compiled once for any number of epochs.
    state: TrainState = init(key, _horizon(method))
    return state


def _horizon(method: Method) -> np.int32:
    """Steps of the whole run, as planned."""
    return np.int32(method.optimization.horizon)
