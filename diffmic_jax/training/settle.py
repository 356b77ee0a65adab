"""Statistics of batch normalisation that go with the parameters which predict.

Running statistics are of parameters that have changed since, and of augmented images. Those of
averaged parameters are no average of them either (Izmailov et al. 2018, section 3.2). So they are
computed anew: the mean over batches of training images, as they are, of each batch's own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples
from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.training import parallel
from diffmic_jax.types import Array, Batch, Variables

IMAGES = 512
"""Of training that the statistics are of, as whole batches."""


def settles(config: Config, method: Method) -> bool:
    """Whether there are statistics to settle: a head that learns alone has none."""
    alone = method.on_features or method.optimization.tuning.keeps_statistics
    return config.guidance.statistics == "settled" and not alone


def settler(
    config: Config, method: Method, mesh: Mesh, examples: Examples
) -> Callable[[TrainState], TrainState] | None:
    """What gives a state statistics that go with its averaged parameters, if it has these.

    Where a denoiser learns from the guidance's predictions, those are by the latest parameters, and
    get theirs too.

    Args:
      config: of the training.
      method: what is trained.
      mesh: the devices.
      examples: images of training.

    Returns:
      A function of the state; None where statistics are not to be settled.
    """
    if not settles(config, method):
        return None
    statistics = partial(_statistics, method, mesh, examples, config.train.batch_size)

    def settle(state: TrainState) -> TrainState:
        if state.ema_params:
            found = statistics(state.variables(average=True))
            state = state.replace(ema_batch_stats=state.ema_batch_stats | {"guidance": found})
        if method.denoiser or not state.ema_params:
            found = statistics(state.variables())
            state = state.replace(batch_stats=state.batch_stats | {"guidance": found})
        return state

    return settle


def _statistics(
    method: Method, mesh: Mesh, examples: Examples, batch_size: int, variables: Variables
) -> Variables:
    """Means of the batches' statistics, of the guidance."""
    if not variables["batch_stats"]["guidance"]:
        return {}  # a ViT
    count = min(math.ceil(IMAGES / batch_size), len(examples) // batch_size)
    batching = loader.Batching(batch_size=batch_size)
    record = _recorder(method, mesh)
    before = variables["batch_stats"]["guidance"]
    found: list[Variables] = []
    with contextlib.closing(
        loader.train_batches(examples, batching, seed=0, num_steps=count)
    ) as batches:
        for number, batch in enumerate(batches):
            placed = parallel.from_all_rows(mesh, batch)
            found.append(record(variables, placed, (np.float32(0), np.int32(number))))
    # How much of a running statistic is left after a batch: what is left of one that is added.
    shifted = record(variables, placed, (np.float32(1), np.int32(number)))
    left = jax.tree.map(lambda high, low: (high - low).mean(), shifted, found[-1])

    def mean(old: Array, kept: Array, *each: Array) -> Array:
        return (sum(each) / count - kept * old) / (1 - kept)

    return jax.tree.map(mean, before, left, *found)


@lru_cache(maxsize=1)
def _recorder(method: Method, mesh: Mesh) -> Callable[..., Variables]:
    """The guidance's running statistics after a batch, with an amount added to all before it.

    The last argument is that amount and the batch's number: each has masks of its own in stochastic
    depth and dropout.
    """

    def record(variables: Variables, batch: Batch, counts: tuple[Array, Array]) -> Variables:
        added, number = counts
        own = of_network(variables, "guidance")
        higher = jax.tree.map(lambda each: each + added, own["batch_stats"])
        key = jax.random.fold_in(jax.random.key(0), number)
        keys = dict.fromkeys(("drop_path", "dropout"), key)
        _, updates = method.guidance.apply(
            own | {"batch_stats": higher},
            method.preprocess.normalise(batch.image),
            True,
            mutable=["batch_stats"],
            rngs=keys,
        )
        recorded: Variables = updates["batch_stats"]
        return recorded

    return parallel.jit_predict(mesh, record)
