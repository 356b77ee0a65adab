"""The training state: one tree whose shape never changes between phases."""

from __future__ import annotations

from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct

from diffmic_jax.method.build import Method
from diffmic_jax.method.optimizers import make_optimizers
from diffmic_jax.types import Array, Variables


@no_type_check  # jax and Orbax also put shapes, shardings and options in the places of the arrays
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
    horizon: Array
    """Steps of the whole run, from which the learning rates follow."""
    ema_batch_stats: Variables = struct.field(default_factory=dict)
    """Averaged statistics, which go with the averaged parameters."""

    def variables(self, average: bool = False) -> Variables:
        """Parameters and statistics; with `average` the averages of both, if there are any."""
        prefix = "ema_" if average and self.ema_params else ""
        return {part: getattr(self, prefix + part) for part in ("params", "batch_stats")}


def of_network(variables: Variables, network: str) -> Variables:
    """One network's own variables, as its `apply` takes them."""
    return {name: tree[network] for name, tree in variables.items()}


def inherit(state: TrainState) -> TrainState:
    """The state with the guidance's trunk of the whole image as the denoiser's encoder."""

    def inherited(tree: Variables) -> Variables:
        # Copied, since a step that is given the state may overwrite it in place.
        trunk = jax.tree.map(jnp.copy, tree["guidance"]["global_trunk"])
        return tree | {"denoiser": tree["denoiser"] | {"encoder": trunk}}

    return state.replace(
        params=inherited(state.params),
        batch_stats=inherited(state.batch_stats),
        ema_params=inherited(state.ema_params) if state.ema_params else {},
        ema_batch_stats=inherited(state.ema_batch_stats) if state.ema_params else {},
    )


def init_variables(method: Method, key: Array) -> Variables:
    """Fresh parameters and statistics of both networks; empty for a denoiser that is None."""
    image = jnp.zeros((1, method.image_size, method.image_size, 3))
    keys = jax.random.split(key)
    guidance, variables = method.guidance.init_with_output(keys[0], image, False)
    others: Any = {"params": {}, "batch_stats": {}}
    if method.denoiser:
        # The guidance prediction only lends its shapes.
        priors = method.priors(guidance)
        inputs = image, guidance.patches, priors, guidance.pooled
        others = method.denoiser.init(keys[1], *inputs, method="initialize")
    both = {"guidance": variables, "denoiser": others}
    return {
        kind: {network: both[network].get(kind, {}) for network in both}  # a ViT has no statistics
        for kind in ("params", "batch_stats")
    }


def init_state(method: Method, key: Array, horizon: Array | int | None = None) -> TrainState:
    """The state before the first step, as a pure function: for `eval_shape` and `jit`.

    Args:
      method: what to train.
      key: random key of the parameters.
      horizon: steps of the whole run; None: as planned.
    """
    horizon = method.optimization.horizon if horizon is None else horizon
    variables = init_variables(method, key)
    params = variables["params"]
    average = jax.tree.map(jnp.copy, variables) if method.optimization.ema else {}
    optimizers = make_optimizers(method.optimization)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state={
            network: optimizers[network].init(method.learning(network, params[network]))
            for network in params
        },
        ema_params=average.get("params", {}),
        ema_batch_stats=average.get("batch_stats", {}),
        skipped=jnp.zeros((), jnp.int32),
        horizon=jnp.asarray(horizon, jnp.int32),
    )
