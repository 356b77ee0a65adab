"""How many epochs fit into given minutes on this machine: a few steps of each program are timed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import statistics
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffmic_jax.config import Config
from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples
from diffmic_jax.errors import InputError
from diffmic_jax.inference.predict import make_predictor
from diffmic_jax.method.build import Phase
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.method.train_step import train_step
from diffmic_jax.training import features, parallel
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.state import Purpose, fresh_state
from diffmic_jax.types import Batch

log = logging.getLogger("diffmic_jax")

STEPS = 5
"""Timed steps of each program, after one that compiles it."""
SAVING = 2.0
"""Seconds for the checkpoint and the log of an epoch."""
VIEW = 1.2
"""Time to augment an image and compute its features, over that of the features alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a run's parts on this machine."""

    start: float
    """To compile all programs."""
    warmup: float
    """All epochs of the guidance alone, before the last phase."""
    epoch: float
    """One epoch of the last phase, with its validation and checkpoint."""
    end: float
    """Calibration and evaluation of the test part."""

    def epochs(self, seconds: float) -> int:
        """Epochs of the last phase that fit into so many seconds; at least one."""
        return max(1, int((seconds - self.start - self.warmup - self.end) / self.epoch))

    def total(self, epochs: int) -> float:
        """Seconds of a run of so many epochs in its last phase."""
        return self.start + self.warmup + epochs * self.epoch + self.end


def within(run: TrainingRun, minutes: float) -> Config:
    """The configuration of a run with as many epochs as fit.

    Args:
      run: what to train; its `train.epochs` is not used. Where its workdir has one that was begun,
        that one's epochs are taken.
      minutes: from now until training and evaluation have ended.

    Raises:
      InputError: no time is left.
    """
    epochs = _begun(run.workdir)
    if epochs:
        return run.config.changed({"train.epochs": epochs})
    if minutes <= 0:
        raise InputError(f"{minutes:.1f} minutes are left to train; give more minutes")
    began = time.monotonic()
    cost = measure(run)
    spent = time.monotonic() - began
    # All processes have to take the same number.
    fitting = np.int32(cost.epochs(60 * minutes - spent))
    epochs = int(multihost_utils.broadcast_one_to_all(fitting))
    expected = (cost.total(epochs) + spent) / 60
    log.info("%d epochs in about %.1f of %.1f minutes", epochs, expected, minutes)
    if expected > 1.1 * minutes:
        log.warning("one epoch alone takes about %.1f minutes, not %.1f", expected, minutes)
    return run.config.changed({"train.epochs": epochs})


def measure(run: TrainingRun) -> Cost:
    """Time the programs of a run on its own data, from a fresh state that is thrown away."""
    counts = {part: len(found) for part, found in run.dataset.examples.items()}
    steps, used = _training(run)
    image, compiled = _prediction(run)
    last = run.method.phases[-1]
    warmup = sum(steps[phase] * phase.steps for phase in run.method.phases if phase is not last)
    validation = counts.get("validation", 0) * image
    validations, cached = validation, 0.0
    if run.method.on_features:
        # Then it is the features that take the time, once; a view is of no mirrored copies.
        view = VIEW * image / len(MIRRORS[run.method.sampling.flips])
        views = run.config.guidance.views * counts["train"] * view
        validations, cached = 0.0, validation + views
    per_epoch = run.method.steps_per_epoch * steps[last] + validations + SAVING
    # The run compiles once more what was compiled here: another number of epochs is another
    # learning rate. Its evaluation runs the program of its validation.
    return Cost(
        start=used + compiled + cached,
        warmup=warmup,
        epoch=per_epoch,
        end=validation + counts.get("test", 0) * image,
    )


def _begun(workdir: Path) -> int:
    """The epochs of the run in a workdir; 0 if none was begun."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return int(json.loads((workdir / "config.json").read_text())["train"]["epochs"])
    return 0


def _training(run: TrainingRun) -> tuple[dict[Phase, float], float]:
    """Seconds of a step of each phase, and of all compiling."""
    state = fresh_state(run.method, run.key(Purpose.INIT), run.mesh)
    found, compiling = {}, 0.0
    with contextlib.closing(_batches(run)) as batches:
        for phase in dict.fromkeys(phase for phase in run.method.phases if phase.steps):
            step = partial(train_step, run.method.in_phase(phase))
            compiled = parallel.jit_train(run.mesh, step, state)
            times = []
            for _ in range(1 + STEPS):
                began = time.monotonic()
                state, _ = compiled(state, next(batches), run.key(Purpose.TRAIN))
                jax.block_until_ready(state)
                times.append(time.monotonic() - began)
            found[phase] = statistics.median(times[1:])
            compiling += times[0] - found[phase]
    return {phase: found.get(phase, 0.0) for phase in run.method.phases}, compiling


def _batches(run: TrainingRun) -> Generator[Batch, None, None]:
    """Training batches without end, as training reads and augments them."""
    examples = _examples(run)
    while True:
        yield from run.batches(0, examples)


def _examples(run: TrainingRun) -> Examples:
    """What training reads; zeros for features, since to compute these would take long."""
    images = run.dataset.examples["train"]
    if not run.method.on_features:
        return images
    shape = (run.config.guidance.views, features.width(run.method))
    rows = np.arange(len(images))
    return dataclasses.replace(images, pixels=features.Zeros(shape), rows=rows)


def _prediction(run: TrainingRun) -> tuple[float, float]:
    """Seconds to predict an image, and to compile that."""
    size = parallel.padded_batch_size(run.mesh, run.config.eval.batch_size)
    state = fresh_state(run.method, run.key(Purpose.INIT), run.mesh)
    predictor = make_predictor(run.method, run.mesh)(state.variables())
    batching = loader.Batching(batch_size=size)
    with contextlib.closing(loader.eval_batches(run.dataset.examples["train"], batching)) as found:
        batch = next(found)
    times = []
    for _ in range(1 + STEPS):
        began = time.monotonic()
        predictor(batch, run.key(Purpose.SAMPLING))
        times.append(time.monotonic() - began)
    typical = statistics.median(times[1:])
    return typical / size, times[0] - typical
