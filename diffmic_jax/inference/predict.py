"""Prediction for many images: every image once, whatever the batch size and the devices."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from tqdm import tqdm

from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import fold, predict_step
from diffmic_jax.method.train_step import guide
from diffmic_jax.nn.folded import Folded
from diffmic_jax.training import parallel
from diffmic_jax.training.progress import EVERY
from diffmic_jax.types import Array, Batch, Guidance, Variables

log = logging.getLogger("diffmic_jax")

Predictor = Callable[[Batch, Array], Outputs]
"""From a batch on the host and the random key of the samples to the outputs for its real rows."""


def prediction_program(method: Method, mesh: Mesh) -> Callable[..., tuple[Array, ...]]:
    """The jitted prediction step, which returns only what an evaluation needs.

    Returns:
      A function ((variables, what `fold` makes of them), batch, key) -> the outputs on the devices.
    """

    def step(ready: tuple[Variables, Folded | None], batch: Batch, key: Array) -> tuple[Array, ...]:
        variables, denoiser = ready
        found = predict_step(method, variables, batch, key, denoiser)
        guidance = method.task.link.activate(found.guidance.fused)
        samples = jax.vmap(lambda y0_hat: method.sampling.readout(y0_hat[None]), 0, 1)(found.y0_hat)
        features = _look(found.guidance)
        return found.probabilities, found.spread, guidance, samples, features

    return parallel.jit_predict(mesh, step)


@lru_cache(maxsize=8)
def make_predictor(method: Method, mesh: Mesh) -> Callable[[Variables], Predictor]:
    """`prediction_program`, made ready for variables.

    One that was made already is returned again: what is compiled in training serves the evaluation.

    Returns:
      A function that prepares parameters and statistics, once for all batches.
    """
    compiled, prepare = prediction_program(method, mesh), jax.jit(partial(fold, method))

    def predictor(variables: Variables) -> Predictor:
        ready = variables, prepare(variables)

        def predict(batch: Batch, key: Array) -> Outputs:
            real = np.asarray(batch.mask) > 0
            *parts, samples, features = compiled(ready, parallel.from_all_rows(mesh, batch), key)
            columns = (*parts, batch.label, samples, features)
            return Outputs(*(np.asarray(column)[real] for column in columns))

        return predict

    return predictor


@dataclasses.dataclass(kw_only=True)
class Timed:
    """A predictor that measures itself; the first batch, which compiles, does not count."""

    predictor: Predictor
    _seconds: list[float] = dataclasses.field(default_factory=list, init=False)
    """Per image, CPU time of all threads of this process."""

    def __call__(self, batch: Batch, key: Array) -> Outputs:
        """As the predictor."""
        began = time.process_time()
        outputs = self.predictor(batch, key)
        self._seconds.append((time.process_time() - began) / len(batch.label))
        return outputs

    @property
    def cpu_seconds(self) -> float | None:
        """Median over the batches; None if there was only one, or another device computes."""
        if jax.default_backend() != "cpu" or len(self._seconds) < 2:
            return None
        return statistics.median(self._seconds[1:])


@lru_cache(maxsize=8)
def _trunk_features(method: Method, mesh: Mesh) -> Callable[[Variables, Batch, Array], Array]:
    """A compiled function (variables, batch, key) -> features."""

    def step(variables: Variables, batch: Batch, key: Array) -> Array:
        del key
        image = method.preprocess.normalise(batch.image)
        return _look(guide(method, variables, batch._replace(image=image)))

    return parallel.jit_predict(mesh, step)


def _look(guidance: Guidance) -> Array:
    """[B, S]; where features take the images' place it is these, and nobody asks."""
    found = guidance.pooled if guidance.look is None else guidance.look
    assert found is not None, "every guidance has features"
    return found


def trunk_features(
    method: Method, mesh: Mesh, variables: Variables, batches: Iterable[Batch]
) -> Float[np.ndarray, "n f"]:
    """What the guidance trunk sees of images, [N, S], as `Guidance.look`, without a prediction.

    Args:
      method: static under `jit`.
      mesh: the devices.
      variables: parameters and statistics.
      batches: on the host, perhaps padded.
    """

    compiled, key = _trunk_features(method, mesh), jax.random.key(0)
    return np.concatenate(
        [
            np.asarray(compiled(variables, parallel.from_all_rows(mesh, batch), key))[
                np.asarray(batch.mask) > 0
            ]
            for batch in batches
        ]
    )


def predict_batches(
    predictor: Predictor, batches: Iterable[Batch], key: Array, title: str = ""
) -> Outputs:
    """Run a predictor over padded batches and join the outputs for the real rows, in order.

    Args:
      predictor: what `make_predictor` returns, given the variables.
      batches: on the host.
      key: random key of the samples.
      title: of a progress bar; empty: none.
    """
    show = None if title and parallel.is_main_process() else True
    bar = tqdm(batches, desc=title, unit="batch", leave=False, disable=show)
    parts, told = [], time.monotonic()
    for batch in bar:
        parts.append(predictor(batch, key))
        if title and not show and time.monotonic() - told > EVERY:
            told = time.monotonic()
            log.info("%s: %d images so far", title, sum(len(part.label) for part in parts))
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
