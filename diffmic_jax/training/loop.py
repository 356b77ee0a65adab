"""The one training loop: steps, logs, validation, checkpoints, and a clean stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffmic_jax.recipe import Phase, Recipe
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.state import TrainState
from diffmic_jax.training.steps import train_step
from diffmic_jax.types import Array, Batch, Interrupted, NonFiniteLossError

Metrics = Mapping[str, float]


class StopRequest:
    """Set by the first SIGINT or SIGTERM; a second one acts as usual."""

    def __init__(self) -> None:
        """Not asked yet."""
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals within the block, in the main thread."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self.asked = True
            signal.signal(number, previous[signal.Signals(number)])

        for each in previous:
            signal.signal(each, note)
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)


def _check_finite(step: int, scalars: Mapping[str, Array]) -> dict[str, float]:
    """The scalars of step `step` as floats.

    Raises:
      NonFiniteLossError: if one of them is not finite.
    """
    values = {name: float(value) for name, value in scalars.items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteLossError(f"{', '.join(bad)} not finite at step {step}")
    return values


def _progress(values: Mapping[str, float], batch_size: int, bar: tqdm) -> str:
    """What the progress bar says beside the step and the time left."""
    rate = bar.format_dict["rate"] or 0.0
    shown = [f"{name} {values[name]:.3f}" for name in ("loss", "guidance_loss") if name in values]
    return ", ".join([*shown, f"{rate * batch_size:.0f} images/s"])


class _Compiled:
    """The training step, compiled once per phase."""

    def __init__(self, recipe: Recipe, mesh: Mesh) -> None:
        self._recipe, self._mesh = recipe, mesh
        self._steps: dict[Phase, Callable] = {}

    def __call__(self, phase: Phase) -> Callable:
        if phase not in self._steps:
            step = partial(train_step, self._recipe.in_phase(phase))
            self._steps[phase] = parallel.jit_train(self._mesh, step)
        return self._steps[phase]


def fit(
    recipe: Recipe,
    state: TrainState,
    batches: Generator[Batch, None, None],
    evaluate: Callable[[TrainState], Metrics] | None,
    *,
    mesh: Mesh,
    key: Array,
    checkpoints: Checkpoints,
    meta: Mapping[str, Any],
    log: TrainingLog,
    save_every: int,
) -> TrainState:
    """Train from the state's step to the recipe's end.

    Args:
      recipe: what to compute; its phases say who learns when.
      state: initial or restored state, on the mesh.
      batches: global batches on the devices, from the state's step on.
      evaluate: validation metrics of a state, or None without a validation part. Called with
        every checkpoint of the last phase.
      mesh: from `parallel.make_mesh`.
      key: random key of the run's training.
      checkpoints: where to save.
      meta: JSON saved with every checkpoint.
      log: where scalars go.
      save_every: steps between checkpoints; the last step is always saved.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLossError: on a NaN or infinite loss; nothing is saved after it.
      Interrupted: after SIGINT or SIGTERM, when the current step is saved.
    """
    compiled, stop = _Compiled(recipe, mesh), StopRequest()
    step = int(state.step)
    bar = tqdm(
        total=recipe.num_steps,
        initial=step,
        unit="step",
        disable=None if parallel.is_main_process() else True,
    )
    with stop.listening(), bar, logging_redirect_tqdm(), contextlib.closing(batches):
        for batch in batches:
            began = time.monotonic()
            phase = recipe.phase_at(step)
            state, scalars = compiled(phase)(state, batch, key)
            step += 1
            values = _check_finite(step, scalars)
            seconds = time.monotonic() - began
            bar.set_postfix_str(_progress(values, len(batch.label), bar), refresh=False)
            bar.update()
            due = step % save_every == 0 or step == recipe.num_steps
            stopping = stop.asked  # looked at once: a signal may come at any time
            if due or stopping:
                # The loss tells of a bad update only one step later.
                _check_finite(step, {"parameters": optax.tree.norm(state.params)})
            validate = evaluate if due and phase is recipe.phases[-1] else None
            metrics = validate(state) if validate else None
            log.add(step, phase.name, values, seconds, metrics)
            if due or stopping:
                checkpoints.save(step, state, meta, metrics)
            if stopping and step < recipe.num_steps:
                raise Interrupted(f"stopped after step {step} of {recipe.num_steps}")
    jax.block_until_ready(state)
    return state
