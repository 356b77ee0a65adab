"""From a loss to the state after a step on it, for one network at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffmic_jax.method.build import Method
from diffmic_jax.method.optimizers import make_optimizers, moving_average
from diffmic_jax.method.state import TrainState
from diffmic_jax.method.tuning import merged
from diffmic_jax.types import Array, Variables

Scalars = dict[str, Array]
Loss = Callable[..., tuple[Scalars, Variables]]
"""(variables of both networks, *arrays) -> scalars, the network's new statistics."""


def updated(
    method: Method, state: TrainState, network: str, grads: Variables, stats: Variables
) -> TrainState:
    """The state after an optimizer step of one network."""
    optimizer = make_optimizers(method.optimization)[network]
    old = method.learning(network, state.params[network])
    updates, opt_state = optimizer.update(
        grads, state.opt_state[network], old, horizon=state.horizon
    )
    params = merged(state.params[network], optax.apply_updates(old, updates))
    after = state.replace(
        params=state.params | {network: params},
        batch_stats=state.batch_stats | {network: stats},
        opt_state=state.opt_state | {network: opt_state},
    )
    return _averaged(method, after, network) if state.ema_params else after


def _averaged(method: Method, state: TrainState, network: str) -> TrainState:
    """The state with one network's averages brought up to date.

    The statistics are averaged as well, as those of the latest parameters are not those of their
    average. What does not learn is its own average.
    """
    learning = partial(method.learning, network)
    k = jnp.maximum(state.step - method.warmup_steps, 0)
    old, new = state.ema_params[network], state.params[network]
    params = merged(old, moving_average(learning(old), learning(new), k))
    stats = moving_average(state.ema_batch_stats[network], state.batch_stats[network], k)
    return state.replace(
        ema_params=state.ema_params | {network: params},
        ema_batch_stats=state.ema_batch_stats | {network: stats},
    )


def of_what_learns(
    method: Method, network: str, loss: Loss, variables: Variables
) -> tuple[Loss, Variables]:
    """A loss of variables that hold only those parameters of a network that learn, and these.

    The others are constants of the loss: no backward pass goes through them, and they have no
    gradient that would count in its norm.
    """
    params = variables["params"]

    def of_part(trial: Variables, *inputs: Any) -> tuple[Scalars, Variables]:
        whole = merged(params[network], trial["params"][network])
        return loss(trial | {"params": trial["params"] | {network: whole}}, *inputs)

    part = method.learning(network, params[network])
    return of_part, variables | {"params": params | {network: part}}


def gradients(
    loss: Loss,
    objective: str,
    variables: Variables,
    network: str,
    inputs: tuple[Any, ...],
    parts: int,
) -> tuple[Variables, Scalars, Variables]:
    """Gradients of one network's parameters, with the loss's scalars and new statistics.

    Args:
      loss: what `variables` and `inputs` go into.
      objective: which of its scalars is minimised.
      variables: parameters and statistics of both networks.
      network: the one that learns.
      inputs: arrays whose first axis is the batch.
      parts: equal parts that the batch is taken in, one after the other. The gradients are the mean
        over the parts, and the statistics those after the last.
    """
    params = variables["params"]

    def of_part(stats: Variables, part: Any) -> tuple[Variables, Scalars, Variables]:
        def scalar(own: Variables) -> tuple[Array, tuple[Scalars, Variables]]:
            trial = {
                "params": params | {network: own},
                "batch_stats": variables["batch_stats"] | {network: stats},
            }
            scalars, stats_after = loss(trial, *part)
            return scalars[objective], (scalars, stats_after)

        grads, (scalars, stats) = jax.grad(scalar, has_aux=True)(params[network])
        return grads, scalars, stats

    stats = variables["batch_stats"][network]
    if parts == 1:
        grads, scalars, stats = of_part(stats, inputs)
    else:
        grads, scalars, stats = _mean_over_parts(of_part, stats, inputs, parts)
    return grads, scalars | {f"{network}_grad_norm": optax.tree.norm(grads)}, stats


def _mean_over_parts(
    of_part: Callable[..., tuple[Variables, Scalars, Variables]],
    stats: Variables,
    inputs: tuple[Any, ...],
    parts: int,
) -> tuple[Variables, Scalars, Variables]:
    """Mean gradients and scalars over the parts of a batch, and the statistics after the last."""
    # Every part has rows from the whole batch, so that devices which share it share each part.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        total, stats = carry
        *new, stats = of_part(stats, part)
        return (jax.tree.map(jnp.add, total, tuple(new)), stats), None

    shapes = jax.eval_shape(of_part, stats, jax.tree.map(lambda x: x[0], split))[:2]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (total, stats), _ = jax.lax.scan(add, (zeros, stats), split)
    grads, scalars = jax.tree.map(lambda x: x / parts, total)
    return grads, scalars, stats
