"""A training run: a method over a data set in a workdir, begun or gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.data import loader, sources, transforms
from diffmic_jax.data.cache import Examples
from diffmic_jax.data.dataset import Dataset
from diffmic_jax.data.files import write_json, write_table, write_text
from diffmic_jax.data.findings import check_conflicts, findings
from diffmic_jax.data.places import user_cache
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.content import (
    CONTENT,
    SPLIT,
    changed_pixels,
    check_split,
    content_sha256,
    content_text,
)
from diffmic_jax.training.features import CachedPixels, FeatureCache, of_random_views
from diffmic_jax.training.guards import StopRequest, Watchdog
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.loop import Guards, Loop, Metrics
from diffmic_jax.training.pace import Limit, Pace, last_step
from diffmic_jax.training.panels import Panel
from diffmic_jax.training.pretrained import initial_state
from diffmic_jax.training.progress import Progress
from diffmic_jax.training.settle import settler
from diffmic_jax.training.state import Purpose, abstract_state, run_key
from diffmic_jax.training.steps import step_of
from diffmic_jax.training.workdir import check_same_run, config_sha256
from diffmic_jax.types import Array, Batch, Variables

log = logging.getLogger("diffmic_jax")

ENDLESS = 2**31 - 1
"""Steps that no training takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A method over a data set in a workdir; nothing is written before `train`."""

    config: Config
    workdir: Path
    dataset: Dataset
    method: Method
    mesh: Mesh
    guidance: Callable[[], Variables | None] = lambda: None
    """Loads the variables of the run that the guidance starts with, if there is one; not called
    where training goes on."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When the time of `train.max_minutes` and of the limit began."""
    limit: Limit | None = None
    """The time that the run may take; None: its configuration says how long it is."""
    _features: dict[str, Examples] = dataclasses.field(default_factory=dict, init=False)
    """By part, what `inputs` has found."""

    @classmethod
    def open(cls, config: Config, workdir: Path, dataset: Dataset, mesh: Mesh) -> TrainingRun:
        """The run of a configuration on a data set.

        Raises:
          InputError: the configuration does not go with the data or the devices, the workdir's
            run had another split, or a picture has two labels and that is to stop it.
        """
        check_split(workdir, dataset)
        if config.data.on_conflict == "error":
            check_conflicts(dataset)
        parallel.check_batch_size(mesh, config.train.batch_size, "train.batch_size")
        steps = loader.steps_per_epoch(dataset.examples["train"], config.train.batch_size)
        method = build(config, dataset.task, steps_per_epoch=steps, counts=dataset.counts)
        return cls(
            config=config,
            workdir=workdir,
            dataset=dataset,
            method=method,
            mesh=mesh,
        )

    def key(self, purpose: Purpose) -> Array:
        """The run's random key of one purpose."""
        return run_key(self.config.seed, purpose)

    def meta(self) -> dict[str, Any]:
        """What a checkpoint records beside the state."""
        config = {"config": self.config.to_dict(), "config_sha256": config_sha256(self.config)}
        facts = self.dataset.task.for_checkpoint() | {"gray_bits": self.dataset.gray_bits}
        return config | facts | {"content_sha256": content_sha256(self.dataset)}

    def train(self, validate: Callable[[TrainState], Metrics]) -> None:
        """Train to the end, from the latest checkpoint if there is one.

        Args:
          validate: metrics of a state on the validation part; not called where that is empty.

        Raises:
          InputError: for an image that cannot be read, weights that cannot be had, or a workdir of
            another run.
          NonFiniteLossError, StorageError, Interrupted: as `Loop.run` does.
        """
        with Checkpoints(self.workdir, self.config.checkpoint.metric) as checkpoints:
            state, meta = self._start(checkpoints)
            self._write_facts()
            for finding in findings(self.dataset):
                level = logging.WARNING if finding.serious else logging.INFO
                log.log(level, "data: %s", finding.text)
            start, seen = int(state.step), self._seen(state)
            log.info("training from step %d to %d", start, self._end(state))
            with (
                self._log(state, seen["train"]) as training_log,
                self._progress(training_log, self._end(state)),
            ):
                training_log.networks(state.params, start)
                loop = self._loop(checkpoints, meta, training_log, self._pace(checkpoints, start))
                images = self.dataset.examples["validation"]
                panel = Panel.of(self.method, images, training_log)
                look = panel.before(validate) if panel else validate
                loop.run(state, self.batches(start, seen["train"]), look if images else None)

    def _seen(self, state: TrainState) -> dict[str, Examples]:
        """The `inputs` of the parts that training sees, before its clock starts."""
        if int(state.step) >= self._end(state):  # nothing will be read
            return dict(self.dataset.examples)
        parts = ("train", "validation")
        return {part: self.inputs(part, state) for part in parts if self.dataset.examples[part]}

    def initial_state(self) -> tuple[TrainState, dict[str, str]]:
        """The state before the first step, and where each network's trunks come from."""
        return initial_state(self.method, self.config, self.mesh, self.guidance())

    def _start(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """The state to go on from, and what its checkpoints record."""
        meta = self.meta()
        state = checkpoints.resume(partial(self._restored, checkpoints))
        if state is None:
            state, meta["origins"] = self.initial_state()
        else:
            meta["origins"] = checkpoints.meta(int(state.step)).get("origins", {})
        return state, meta

    def _restored(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint, on the mesh: only a run of the same configuration goes on."""
        theirs = checkpoints.meta(step)
        if theirs["config_sha256"] != config_sha256(self.config):
            check_same_run(str(checkpoints.folder / str(step)), theirs["config"], self.config)
        check_classes(self.workdir, theirs, self.dataset)
        if changed := changed_pixels(self.workdir, self.dataset, theirs.get("content_sha256")):
            raise InputError(
                f"{self.workdir}: the data has changed since this run began: {changed}; restore "
                "it, or choose another --workdir"
            )
        state = checkpoints.restore(step, abstract_state(self.method, self.mesh))
        if theirs["config"]["train"]["epochs"] == self.config.train.epochs:
            return state
        planned = np.int32(self.method.optimization.horizon)  # the run is longer now
        return state.replace(horizon=jax.device_put(planned, parallel.replicated(self.mesh)))

    def _write_facts(self) -> None:
        """The configuration, the split, and the images that are left out."""
        if not parallel.is_main_process():
            return
        write_json(self.workdir / "config.json", self.config.to_dict())
        write_text(self.workdir / SPLIT, sources.write_split(self.dataset.source))
        write_text(self.workdir / CONTENT, content_text(self.dataset))
        if self.dataset.skipped:
            skipped = self.dataset.skipped.items()
            write_table(self.workdir / "skipped.csv", ("image", "reason"), skipped)

    def inputs(self, part: str, state: TrainState) -> Examples:
        """What a network is given of a part in training: images, or features that stand for them.

        Raises:
          InputError: the cache of features cannot be written.
        """
        images = self.dataset.examples[part]
        if not self.method.on_features:
            return images
        if part not in self._features:
            cache_dir = self.config.data.cache_dir
            cache = FeatureCache(
                config=self.config,
                method=self.method,
                folder=Path(cache_dir) if cache_dir else user_cache(),
            )
            take = cache.views if part == "train" else cache.copies
            self._features[part] = take(images, state.variables())
        return self._features[part]

    def forget_features(self) -> None:
        """Remove the files of the features: of a trunk that no other run has they are of no use."""
        for part in self._features.values():
            if isinstance(part.pixels, CachedPixels):
                part.pixels.remove()
        self._features.clear()

    def batches(self, start: int, examples: Examples) -> Generator[Batch, None, None]:
        """The batches from step `start` on, on the devices, augmented.

        Args:
          start: the first step.
          examples: of training, from `inputs`.
        """
        data = self.config.data
        batching = loader.Batching(
            batch_size=self.config.train.batch_size,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            num_workers=data.num_workers,
        )
        batches = loader.train_batches(
            examples,
            batching,
            seed=self.config.seed,
            num_steps=ENDLESS,  # the loop knows the end, which may move
            start_step=start,
            balance=data.balance,
        )
        if self.method.on_features:
            views = of_random_views(batches, batching, self.config.seed, start)
            return parallel.placed(self.mesh, views)
        augment = transforms.augmenting(data)
        return parallel.augmented(self.mesh, batches, augment, self.key(Purpose.AUGMENT), start)

    def _shapes(self, examples: Examples) -> Batch:
        """What `batches` gives, but for the values: then what is traced for it is used by it."""
        image = examples.images(np.arange(1))[0]
        if image.ndim == 2:  # the features of all its views
            image = image[0]
        row = Batch(image, examples.label[0], np.ones((), np.float32), np.zeros((), np.int32))
        return parallel.abstract_batch(self.mesh, self.config.train.batch_size, row)

    def _log(self, state: TrainState, examples: Examples) -> TrainingLog:
        """The run's log, going on from a state."""
        batch = self._shapes(examples)
        last = self.method.phases[-1]
        scalars: dict[str, Any] = {}  # the columns are the same in every phase
        for phase in [last] if last.guidance else self.method.phases:
            step = step_of(self.method, phase, skip=self.config.train.on_nan == "skip")
            scalars |= jax.eval_shape(step, state, batch, self.key(Purpose.TRAIN))[1]
        return TrainingLog(
            self.workdir if parallel.is_main_process() else None,
            sorted(scalars),
            batch_size=self.config.train.batch_size,
            every_steps=self.config.train.log_every,
            num_steps=self._end(state),
            start_step=int(state.step),
        )

    def _end(self, state: TrainState) -> int:
        """The step that training ends with, as far as is known."""
        return last_step(int(state.horizon), self.config.train.max_steps)

    @property
    def save_every(self) -> int:
        """Steps from a checkpoint to the next."""
        return self.config.checkpoint.every_steps or self.method.steps_per_epoch

    def _pace(self, checkpoints: Checkpoints, start: int) -> Pace | None:
        """What ends the training in time, if there is a limit."""
        if self.limit is None:
            return None
        spent = checkpoints.meta(start).get("seconds", 0.0) if start else 0.0
        return Pace(self.limit, began=self.began - spent, save_every=self.save_every)

    def _progress(
        self, training_log: TrainingLog, end: int
    ) -> contextlib.AbstractContextManager[Any]:
        """What tells how far the run is, told by its log; on the process that writes."""
        if not parallel.is_main_process():
            return contextlib.nullcontext()
        metric, method = self.config.checkpoint.metric, self.method
        progress = Progress(
            steps_per_epoch=method.steps_per_epoch, warmup_steps=method.warmup_steps, metric=metric
        )
        for row in training_log.history:
            if value := row.get(f"val_{metric}"):
                progress.validated(int(row["step"]), float(value))
        progress.start(end)
        training_log.progress = progress
        return progress

    def _loop(
        self,
        checkpoints: Checkpoints,
        meta: Mapping[str, Any],
        training_log: TrainingLog,
        pace: Pace | None,
    ) -> Loop:
        train = self.config.train
        limit = 60 * train.max_minutes or math.inf
        guards = Guards(
            stop=StopRequest(self.began + limit),
            watchdog=Watchdog(train.hang_minutes),
            skip=train.on_nan == "skip",
        )
        return Loop(
            method=self.method,
            mesh=self.mesh,
            key=self.key(Purpose.TRAIN),
            checkpoints=checkpoints,
            meta=meta,
            log=training_log,
            save_every=self.save_every,
            patience=train.patience,
            guards=guards,
            pace=pace,
            max_steps=train.max_steps,
            settle=settler(self.config, self.method, self.mesh, self.dataset.examples["train"]),
            steps_per_dispatch=train.steps_per_dispatch,
        )


def check_classes(workdir: Path, meta: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a checkpoint of other classes than the data has.

    Raises:
      InputError: naming both.
    """
    names = tuple(meta["class_names"])
    bits = meta.get("gray_bits", 0)
    if bits != dataset.gray_bits:
        raise InputError(
            f"{workdir} was trained on gray images of {bits} bits, not {dataset.gray_bits}; "
            "restore the data, or choose another --workdir"
        )
    if names != dataset.task.class_names:
        raise InputError(
            f"{workdir} was trained on the classes {','.join(names)}, not "
            f"{','.join(dataset.task.class_names)}; choose another --workdir or data.root"
        )
