"""The one training loop: steps, logs, validation, checkpoints, and a clean stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffmic_jax.errors import Interrupted
from diffmic_jax.method.build import Phase, Recipe
from diffmic_jax.method.train_step import train_step
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.guards import FiniteCheck, StopRequest, Watchdog, skipping
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.state import TrainState, inherit
from diffmic_jax.types import Array, Batch

messages = logging.getLogger("diffmic_jax")

Metrics = Mapping[str, float]
_norm = jax.jit(optax.tree.norm)  # leaf by leaf it takes longer than a save


@dataclasses.dataclass(frozen=True)
class Guards:
    """What may stop a run before its end."""

    stop: StopRequest
    watchdog: Watchdog
    skip: bool
    """Skip a step whose result is not finite, rather than stop."""


def _progress(values: Mapping[str, float], batch_size: int, bar: tqdm) -> str:
    """What the progress bar says beside the step and the time left."""
    rate = bar.format_dict["rate"] or 0.0
    shown = [f"{name} {values[name]:.3f}" for name in ("loss", "guidance_loss") if name in values]
    return ", ".join([*shown, f"{rate * batch_size:.0f} images/s"])


class _Compiled:
    """The training step, compiled once per phase."""

    def __init__(self, recipe: Recipe, mesh: Mesh, skip: bool) -> None:
        self._recipe, self._mesh, self._skip = recipe, mesh, skip
        self._steps: dict[Phase, Callable] = {}

    def __call__(self, phase: Phase, state: TrainState) -> Callable:
        if phase not in self._steps:
            plain = partial(train_step, self._recipe.in_phase(phase))
            step = skipping(plain) if self._skip else plain
            self._steps[phase] = parallel.jit_train(self._mesh, step, state)
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
    patience: int,
    guards: Guards,
) -> TrainState:
    """Train from the state's step to the recipe's end, or until validation has long been worse.

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
      patience: training ends when this many checkpoints in a row are worse on validation than the
        best; 0: never. The checkpoints are all the memory that this needs.
      guards: who may ask to stop, and what to do about a loss that is not finite.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLossError: on a NaN or infinite loss that is not skipped; nothing is saved after it.
      StorageError: if a checkpoint or the log cannot be written.
      Interrupted: when a stop was asked for, on any process, and the current step is saved.
    """
    compiled, check = _Compiled(recipe, mesh, guards.skip), FiniteCheck(guards.skip)
    vote, watchdog = parallel.voting(mesh), guards.watchdog
    step = int(state.step)
    bar = tqdm(
        total=recipe.num_steps,
        initial=step,
        unit="step",
        disable=None if parallel.is_main_process() else True,
    )
    watchdog.at(f"reads the batch of step {step + 1}")
    with (
        guards.stop.listening(),
        watchdog,
        bar,
        logging_redirect_tqdm(),
        contextlib.closing(batches),
    ):
        for batch in batches:
            if patience and checkpoints.since_best(step) >= patience * save_every:
                messages.info("training ends early: best at step %d", checkpoints.best_step)
                break
            began = time.monotonic()
            phase = recipe.phase_at(step)
            watchdog.at(f"computes step {step + 1} ({phase.name})")
            if recipe.inherits and step == recipe.warmup_steps:
                state = inherit(state)
            state, scalars = compiled(phase, state)(state, batch, key)
            step += 1
            values = check(step, scalars)
            # Looked at once, and together: a signal may come at any time, to any process.
            stopping = vote(guards.stop.asked)
            seconds = time.monotonic() - began
            bar.set_postfix_str(_progress(values, len(batch.label), bar), refresh=False)
            bar.update()
            due = step % save_every == 0 or step == recipe.num_steps
            if (due or stopping) and not guards.skip:
                # The loss tells of a bad update only one step later.
                check(step, {"parameters": _norm(state.params)})
            validate = evaluate if due and phase is recipe.phases[-1] else None
            watchdog.at(f"validates after step {step}")
            metrics = validate(state) if validate else None
            log.add(step, phase.name, values, seconds, metrics, skipped=int(state.skipped))
            watchdog.at(f"saves after step {step}")
            if due or stopping:
                checkpoints.save(step, state, meta, metrics)
            if stopping and step < recipe.num_steps:
                raise Interrupted(f"stopped after step {step} of {recipe.num_steps} and saved")
            watchdog.at(f"reads the batch of step {step + 1}")
    jax.block_until_ready(state)
    return state
