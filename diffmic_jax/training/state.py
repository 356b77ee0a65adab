"""The training state: one tree whose shape never changes between phases."""

from __future__ import annotations

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from diffmic_jax.method.build import Recipe
from diffmic_jax.method.optimizers import make_optimizers
from diffmic_jax.types import Array, Variables


class Purpose(enum.IntEnum):
    """What a run draws random numbers for; each purpose has a stream of its own."""

    INIT = 0
    TRAIN = 1
    SAMPLING = 2
    AUGMENT = 3


def run_key(seed: int, purpose: Purpose) -> Array:
    """The random key of one purpose of a run."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


class TrainState(struct.PyTreeNode):
    """Everything that a step changes; each tree is keyed by network."""

    step: Array
    """Steps taken, in all phases."""
    params: Variables
    batch_stats: Variables
    opt_state: Any
    ema_params: Variables
    """Averaged parameters, or an empty dictionary without EMA."""
    skipped: Array
    """Of the steps taken, those that changed nothing because something was not finite."""

    def variables(self, average: bool = False) -> Variables:
        """What `predict_step` takes; the averaged parameters if there are any and it is asked."""
        params = self.ema_params if average and self.ema_params else self.params
        return {"params": params, "batch_stats": self.batch_stats}


def inherit(state: TrainState) -> TrainState:
    """The state with the guidance's trunk of the whole image as the denoiser's encoder."""

    def taken(tree: Variables) -> Variables:
        # Copied, since a step that is given the state may overwrite it in place.
        trunk = jax.tree.map(jnp.copy, tree["guidance"]["global_trunk"])
        return tree | {"denoiser": tree["denoiser"] | {"encoder": trunk}}

    return state.replace(
        params=taken(state.params),
        batch_stats=taken(state.batch_stats),
        ema_params=taken(state.ema_params) if state.ema_params else {},
    )


def of_network(variables: Variables, network: str) -> Variables:
    """One network's own variables, as its `apply` takes them."""
    return {name: tree[network] for name, tree in variables.items()}


def init_variables(recipe: Recipe, key: Array) -> Variables:
    """Fresh parameters and statistics of both networks; none of a denoiser that is not there."""
    image = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
    keys = jax.random.split(key)
    guidance, variables = recipe.guidance.init_with_output(keys[0], image, False)
    others: Any = {"params": {}, "batch_stats": {}}
    if recipe.denoiser:
        # The answer only lends its shapes.
        others = recipe.denoiser.init(
            keys[1],
            image,
            guidance.patches,
            recipe.priors(guidance),
            guidance.features,
            method="initialize",
        )
    both = {"guidance": variables, "denoiser": others}
    return {
        kind: {network: both[network].get(kind, {}) for network in both}  # a ViT has no statistics
        for kind in ("params", "batch_stats")
    }


def init_state(recipe: Recipe, key: Array) -> TrainState:
    """The state before the first step, as a pure function: for `eval_shape`, or `fresh_state`."""
    variables = init_variables(recipe, key)
    params = variables["params"]
    optimizers = make_optimizers(recipe)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state={network: optimizers[network].init(params[network]) for network in params},
        ema_params=jax.tree.map(jnp.copy, params) if recipe.optimization.ema else {},
        skipped=jnp.zeros((), jnp.int32),
    )


def fresh_state(recipe: Recipe, key: Array, shardings: Any = None) -> TrainState:
    """`init_state`, computed; where a tree of shardings is given, onto their devices."""
    # It runs once: on a CPU, optimising the program takes many times longer than running it.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    cpu = jax.default_backend() == "cpu"
    init = jax.jit(
        partial(init_state, recipe),
        out_shardings=shardings,
        compiler_options=options if cpu else None,
    )
    return init(key)
