"""How many epochs fit into given minutes on this machine: a few steps of each program are timed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import statistics
import time
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples, decoded_once
from diffmic_jax.data.files import write_json
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError
from diffmic_jax.inference.predict import make_predictor
from diffmic_jax.method.build import Phase
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.method.train_step import train_step
from diffmic_jax.nn.efficientnet import Block, Stage
from diffmic_jax.planning.rules import REFERENCE, Machine
from diffmic_jax.training import features, parallel
from diffmic_jax.training.pace import Limit
from diffmic_jax.training.progress import devices
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.settle import IMAGES, settles
from diffmic_jax.training.state import Purpose, blank_state
from diffmic_jax.types import Array, Batch, Variables

log = logging.getLogger("diffmic_jax")

STEPS = 5
"""Timed steps of each program, after one that compiles it."""
READ = 64
"""Images whose reading is timed."""
SAVING = 2.0
"""Seconds for the checkpoint and the log of an epoch."""
VIEW = 1.2
"""Time to augment an image and compute its features, over that of the features alone."""
OTHERS = 0.2
"""Time to compile what settles, saves and evaluates, over that of the programs that are timed."""
BLOCKS = 8.0
"""Time of a training step of EfficientNet-Lite0, over that of one of its blocks."""
CACHED = 0.15
"""Time to load a compiled program from the cache, over that of compiling it."""
ON_FEATURES = 10
"""Epochs at least on features that do not change: these have taken the time, not the steps."""
TOO_LONG = 1.5
"""Share of the minutes from which what comes before the training is too long for it."""
FILE = "budget.json"


class TooLongError(InputError):
    """The minutes go by before what they are for begins."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a run's parts on this machine."""

    start: float
    """To have all programs, a second time, and the features of a trunk that does not learn."""
    warmup: float
    """All epochs of the guidance alone, before the last phase."""
    epoch: float
    """One epoch of the last phase, with its share of validations and checkpoints."""
    save: float
    """A validation and its checkpoint."""
    end: float
    """Calibration and evaluation of the test part, and all programs that are not timed here."""
    features: float = 0.0
    """Of the start, to have the features of a trunk that does not learn."""

    @property
    def least(self) -> float:
        """Seconds of a run of one epoch."""
        return self.start + self.warmup + self.epoch + self.end

    def epochs(self, seconds: float) -> int:
        """Epochs of the last phase that fit into so many seconds, the last begun one included."""
        left = seconds - self.start - self.warmup - self.end
        least = ON_FEATURES if self.features else 1
        return max(least, math.ceil(left / self.epoch - 0.02))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The minutes of a run, and the epochs that they allow."""

    minutes: float
    """From the beginning until training and evaluation have ended."""
    epochs: int
    cost: Cost
    extended: bool = False
    """Whether the minutes that were to spare are among these."""

    @property
    def limit(self) -> Limit:
        """What its training may take."""
        # Steps on features are few seconds, and without them the features would be of no use.
        least = self.epochs * self.cost.epoch if self.cost.features else 0.0
        seconds = 60 * self.minutes - self.cost.end
        return Limit(seconds=seconds, save=self.cost.save, least=least)


def within(run: TrainingRun, minutes: float, most: int = 0, spare: float = 0.0) -> Budget:
    """As many epochs as fit; the training itself ends in time if the machine becomes slower.

    Args:
      run: what to train; its `train.epochs` is not used. Where its workdir has one that was begun,
        that one's budget holds.
      minutes: from `run.began` until training and evaluation have ended.
      most: epochs that are enough, though more would fit; 0: no limit.
      spare: minutes more, for a run that would not see every image without them.

    Raises:
      InputError: no time is left.
    """
    if found := begun(run.workdir):
        if not most and abs(found.minutes - minutes) > 0.01 * minutes:
            log.warning(
                "%s was begun with %.3g minutes, which hold, and not %.3g; for these name another "
                "folder, or delete it to begin anew",
                *(run.workdir, found.minutes, minutes),
            )
        return found
    taken = (time.monotonic() - run.began) / 60
    if minutes <= taken:
        raise InputError(
            f"{minutes:g} minutes went by while the data was read; give more, or start again: "
            "decoded images are kept"
        )
    cost = measure(run)
    left = 60 * minutes - (time.monotonic() - run.began)
    if not spare:
        _check_fixed(run, cost, minutes)
    lacking = bool(spare) and cost.least > left
    left += 60 * spare * lacking
    # All processes have to take the same number.
    fitting = min(cost.epochs(left), most or math.inf)
    agreed = multihost_utils.broadcast_one_to_all(np.array([fitting, lacking], np.int32))
    epochs, extended = int(agreed[0]), bool(agreed[1])
    left = min(left, cost.least + (epochs - 1) * cost.epoch)
    log.info(
        "about %d epochs of %.0f s each in %.1f minutes: the end is at %s",
        epochs,
        cost.epoch,
        max(left, 0.0) / 60,
        time.strftime("%H:%M", time.localtime(time.time() + left)),
    )
    if cost.least > 1.1 * left:
        log.warning(
            "a whole epoch takes %.1f minutes: not all images will be seen", cost.least / 60
        )
    minutes += spare * extended
    return Budget(minutes=minutes, epochs=epochs, cost=cost, extended=extended)


def _check_fixed(run: TrainingRun, cost: Cost, minutes: float) -> None:
    """Refuse a run whose minutes would go by before what they are for begins.

    Raises:
      TooLongError: it would.
    """
    for seconds, what, fix in (
        (cost.features, "the features of its images", "fewer guidance.views"),
        (cost.warmup, "the epochs of the guidance alone", "fewer guidance.warmup_epochs"),
    ):
        # All processes have to decide alike.
        if multihost_utils.broadcast_one_to_all(np.int32(seconds > TOO_LONG * 60 * minutes)):
            raise TooLongError(
                f"{run.workdir}: {what} take about {seconds / 60:.1f} minutes here, of "
                f"{minutes:.1f}; give more minutes, or {fix}"
            )


def keep(workdir: Path, budget: Budget) -> None:
    """Write a budget into a workdir, where `within` finds it when the run goes on.

    Raises:
      InputError: the file cannot be written.
    """
    write_json(workdir / FILE, dataclasses.asdict(budget))


def measure(run: TrainingRun) -> Cost:
    """Time the programs of a run on its own data, from a fresh state that is thrown away."""
    counts = {part: len(found) for part, found in run.dataset.examples.items()}
    steps, used = _training(run)
    image, compiled = _prediction(run)
    warmup, step = _of_phases(run, steps)
    validation = counts.get("validation", 0) * image
    validations, cached = validation, 0.0
    view = VIEW * image / len(MIRRORS[run.method.sampling.flips])  # of no mirrored copies
    if run.method.on_features:
        # Then it is the features that take the time, once.
        views = run.config.guidance.views * counts["train"] * view
        validations, cached = 0.0, validation + views
    save = validations + SAVING
    if settles(run.config, run.method):
        save += min(IMAGES, counts["train"]) * view
    # What was compiled here is the run's own programs; its evaluation runs that of its validation.
    keeps = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # made when run
    again = CACHED if keeps else 1
    return Cost(
        start=again * (used + compiled) + cached,
        warmup=warmup,
        epoch=run.method.steps_per_epoch * (step + save / run.save_every),
        save=save,
        end=validation + counts.get("test", 0) * image + OTHERS * (used + compiled),
        features=cached,
    )


def _of_phases(run: TrainingRun, steps: Mapping[Phase, float]) -> tuple[float, float]:
    """Seconds of the phases that have a length of their own, and of a step of those that share
    the epochs, from the seconds of a step in each phase."""
    phases = run.method.phases
    if run.config.guidance.class_weights == "deferred":  # the last phase is a part of the epochs
        return 0.0, sum(steps[p] * p.steps for p in phases) / sum(p.steps for p in phases)
    return sum(steps[p] * p.steps for p in phases[:-1]), steps[phases[-1]]


def begun(workdir: Path) -> Budget | None:
    """The budget of the run in a workdir; None if none was begun there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads((workdir / FILE).read_text())
        return Budget(**found | {"cost": Cost(**found["cost"])})
    return None


def _training(run: TrainingRun) -> tuple[dict[Phase, float], float]:
    """Seconds of a step of each phase, and of all compiling."""
    state = blank_state(run.method, run.mesh)
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
    state = blank_state(run.method, run.mesh)
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


def crowding() -> float:
    """How many times longer a thread takes beside the processes that want the cores now; 1 idle."""
    try:
        wanting = os.getloadavg()[0]
    except (AttributeError, OSError):  # not on every system
        return 1.0
    return max(1.0, (wanting + 1) / (os.cpu_count() or 1))


def machine(source: Source) -> Machine:
    """What there is to train on, and how fast it is now.

    One block of the trunk is timed, and the reading of some images.
    """
    block = Block(stage=Stage(size=3, stride=1, expansion=6, features=24, repeats=1), stride=1)
    image = jnp.ones((32, REFERENCE // 4, REFERENCE // 4, 24))
    variables = dict(block.init(jax.random.key(0), image, False))

    def loss(params: Variables) -> Array:
        both = variables | {"params": params}
        y, _ = block.apply(both, image, True, mutable=["batch_stats"])
        return (y**2).mean()

    step, times = jax.jit(jax.grad(loss)), []
    for _ in range(1 + STEPS):
        began = time.monotonic()
        jax.block_until_ready(step(variables["params"]))
        times.append(time.monotonic() - began)
    return Machine(
        devices=devices(),
        seconds=BLOCKS * statistics.median(times[1:]) / len(image),
        reading=_reading(source),
    )


def _reading(source: Source) -> float:
    """Seconds to read an image, where as many threads read as there are cores."""
    # By chance: neighbours may be of one size, and the first ones were looked at before.
    order = np.random.default_rng(1).permutation(len(source.records))
    some = tuple(source.records[i] for i in order[:READ])
    part = dataclasses.replace(source, splits=dict.fromkeys(PARTS, ()) | {"test": some})
    began = time.monotonic()
    decoded_once(part, REFERENCE, on_bad_image="skip")
    return (time.monotonic() - began) / len(some)
