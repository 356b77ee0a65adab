"""A run from configuration to results: wires data, recipe, training and evaluation together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.data import loader, sources, transforms
from diffmic_jax.data.cache import Cached, cached
from diffmic_jax.data.files import write_json, write_table, write_text
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import evaluate as evaluation
from diffmic_jax.evaluation import metrics, results
from diffmic_jax.evaluation.uncertainty import COVERAGE
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import stored_config
from diffmic_jax.method.build import Recipe, make_recipe
from diffmic_jax.method.train_step import train_step
from diffmic_jax.report.checklist import write_documents
from diffmic_jax.settings import check_choice, resolve
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints, placed
from diffmic_jax.training.guards import StopRequest, Watchdog
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.loop import Guards, fit
from diffmic_jax.training.panels import with_panel
from diffmic_jax.training.pretrained import with_pretrained
from diffmic_jax.training.state import Purpose, TrainState, fresh_state, init_state, run_key
from diffmic_jax.training.workdir import (
    as_json,
    check_same_run,
    check_workdir,
    check_writable,
    config_sha256,
    skipped_images,
)
from diffmic_jax.types import Array, Batch

log = logging.getLogger("diffmic_jax")


def open_data(config: ml_collections.ConfigDict) -> sources.Source:
    """The data that `config.data` describes.

    Raises:
      InputError: if it is not there or not as described.
    """
    data = config.data
    return sources.open_source(
        data.name,
        data.root,
        labels=data.labels,
        train_list=data.train_list,
        test_list=data.test_list,
        groups=data.groups,
        split=data.split,
        class_names=[name for each in data.class_names for name in str(each).split(",")],
        multi_label=data.multi_label,
        protocol=data.protocol,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        seed=data.split_seed,
        image_size=data.image_size,
        max_pixels=data.max_pixels,
    )


def decode_data(source: sources.Source, config: ml_collections.ConfigDict) -> Cached:
    """The source's images at the run's size, from the cache where they are in it.

    Raises:
      InputError: for a bad image, unless those are skipped; or for a cache that cannot be written.
    """
    data = config.data
    folder = Path(data.cache_dir) if data.cache_dir else None
    decoded = cached(source, data.image_size, folder, on_bad_image=data.on_bad_image)
    for reason in list(decoded.skipped.values())[:10]:
        log.warning("skipped %s", reason)
    if decoded.skipped:
        log.warning("%d images skipped, all listed in skipped.csv", len(decoded.skipped))
    return decoded


class Experiment:
    """One configuration over its data, ready to train or to evaluate."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path) -> None:
        """Resolve the configuration and open the data; nothing is written to the workdir.

        Raises:
          InputError: for a configuration or data that cannot work.
        """
        self._began = time.monotonic()
        self.config, self.workdir = resolve(config), workdir
        self.mesh: Mesh = parallel.make_mesh(self.config.train.model_shards)
        self.source = open_data(self.config)
        self._check_metric()
        self.data = decode_data(self.source, self.config)
        self._check_parts()
        self.steps_per_epoch = loader.steps_per_epoch(
            self.data.examples["train"], self.config.train.batch_size
        )
        self.recipe: Recipe = make_recipe(
            self.config,
            len(self.source.class_names),
            self.steps_per_epoch,
            self.source.multi_label,
            self._class_counts(),
        )
        self._predict = evaluation.make_predictor(self.recipe, self.mesh)

    def _class_counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        label = self.data.examples["train"].label
        if label.ndim == 2:
            return tuple(label.sum(axis=0).astype(int).tolist())
        return tuple(np.bincount(label, minlength=len(self.source.class_names)).tolist())

    def _check_metric(self) -> None:
        """Refuse a metric for choosing the best checkpoint that this data does not have."""
        undefined = metrics.SINGLE_LABEL_ONLY if self.source.multi_label else ()
        known = [name for name in metrics.SCALARS if name not in undefined]
        check_choice("checkpoint.metric", self.config.checkpoint.metric, known)

    def _check_split(self) -> None:
        """Refuse a workdir whose run had another split: its test images may be trained on by now.

        Raises:
          InputError: naming the workdir's record of the split.
        """
        path = self.workdir / "split.csv"
        if not path.exists():
            return
        split = path.read_text(encoding="utf-8", errors="surrogateescape")
        if split != sources.write_split(self.source) or skipped_images(self.workdir) != [
            *self.data.skipped
        ]:
            raise InputError(
                f"{path}: the data or its split has changed since this run began; restore it, "
                "or choose another --workdir"
            )

    def _check_parts(self) -> None:
        """Refuse data of which a part is gone with its bad images.

        Raises:
          InputError: naming the part.
        """
        for part, records in self.source.splits.items():
            examples = self.data.examples[part]
            if records and not len(examples):
                raise InputError(f"data: no image of the {part} part can be read; mend some")
            before, after = (
                {sources.label_text(self.source, record) for record in each}
                for each in (records, examples.records)
            )
            if part == "train" and before - after and not self.source.multi_label:
                lost = ", ".join(sorted(before - after))
                log.warning("no training image of %s can be read", lost)

    def key(self, purpose: Purpose) -> Array:
        """The run's random key of one purpose."""
        return run_key(self.config.seed, purpose)

    def initial_state(self) -> tuple[TrainState, dict[str, str]]:
        """Fresh parameters, on the mesh, with the pretrained trunks that are asked for.

        Returns:
          The state, and where each network's trunks come from.

        Raises:
          InputError: if these cannot be had or do not fit.
        """
        abstract = self._abstract_state
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = fresh_state(self.recipe, self.key(Purpose.INIT), shardings)
        return with_pretrained(state, self.recipe, self.config)

    @cached_property
    def _abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        abstract = jax.eval_shape(partial(init_state, self.recipe), self.key(Purpose.INIT))
        wide = self.config.denoiser.feature_dim
        return placed(abstract, parallel.state_shardings(self.mesh, abstract, wide))

    def restored(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint, on the mesh.

        Raises:
          InputError: if it was trained on other classes than the data has, or is of other networks.
          DamagedCheckpointError: if it is not what was saved.
        """
        names = checkpoints.meta(step)["class_names"]
        if tuple(names) != self.source.class_names:
            raise InputError(
                f"{self.workdir} was trained on the classes {','.join(names)}, not "
                f"{','.join(self.source.class_names)}; choose another --workdir or data.root"
            )
        return checkpoints.restore(step, self._abstract_state)

    def _checked(self, checkpoints: Checkpoints, meta: dict[str, Any], step: int) -> TrainState:
        """`restored`, to train on: only a run of the same configuration may."""
        theirs = checkpoints.meta(step)
        if theirs["config_sha256"] != meta["config_sha256"]:
            where = str(checkpoints.folder / str(step))
            check_same_run(where, theirs["config"], meta["config"])
        return self.restored(checkpoints, step)

    def _answers(self, state: TrainState, split: str, title: str = "") -> evaluation.Answers:
        batches = loader.eval_batches(
            self.data.examples[split],
            batch_size=parallel.padded_batch_size(self.mesh, self.config.eval.batch_size),
            num_workers=self.config.data.num_workers,
        )
        variables = state.variables(average=self.config.train.ema)
        return evaluation.answer(
            self._predict(variables), batches, self.key(Purpose.SAMPLING), title=title
        )

    def validate(self, state: TrainState) -> dict[str, float]:
        """The defined headline metrics of a state on the validation part."""
        scores = evaluation.score(self._answers(state, "validation"), self.source.class_names)
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    def _write_facts(self, meta: dict[str, Any]) -> None:
        """What the run is, and what it works on."""
        if not parallel.is_main_process():
            return
        write_json(self.workdir / "config.json", meta["config"])
        write_text(self.workdir / "split.csv", sources.write_split(self.source))
        if self.data.skipped:
            skipped = self.data.skipped.items()
            write_table(self.workdir / "skipped.csv", ("image", "reason"), skipped)
        write_documents(self.workdir, meta)

    def _train_batches(self, start: int) -> Generator[Batch, None, None]:
        """The batches from step `start` on, augmented on the devices."""
        data = self.config.data
        batches = loader.train_batches(
            self.data.examples["train"],
            batch_size=self.config.train.batch_size,
            seed=self.config.seed,
            start_step=start,
            num_steps=self.recipe.num_steps,
            num_workers=data.num_workers,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
        )
        augment = partial(
            transforms.augment,
            horizontal_flip=data.horizontal_flip,
            vertical_flip=data.vertical_flip,
            rotation=data.rotation,
        )
        return parallel.augmented(self.mesh, batches, augment, self.key(Purpose.AUGMENT), start)

    def _log(self, state: TrainState) -> TrainingLog:
        """The run's log, going on from a state."""
        image = (self.config.train.batch_size, *(self.config.data.image_size,) * 2, 3)
        rows = np.zeros(image[0], np.int32)
        label = self.data.examples["train"].label[: len(rows)]
        batch = Batch(np.zeros(image, np.uint8), label, rows)
        _, scalars = jax.eval_shape(
            partial(train_step, self.recipe), state, batch, self.key(Purpose.TRAIN)
        )
        return TrainingLog(
            self.workdir if parallel.is_main_process() else None,
            sorted(scalars),
            batch_size=self.config.train.batch_size,
            every_steps=self.config.train.log_every,
            num_steps=self.recipe.num_steps,
            start_step=int(state.step),
        )

    def _guards(self) -> Guards:
        train = self.config.train
        limit = 60 * train.max_minutes or math.inf
        return Guards(
            StopRequest(self._began + limit), Watchdog(train.hang_minutes), train.on_nan == "skip"
        )

    def train(self) -> None:
        """Train to the end, from the latest checkpoint if there is one.

        Raises:
          InputError: for a batch that the devices cannot share, or an image that cannot be read.
          NonFiniteLossError, StorageError, Interrupted: as `fit` does.
        """
        config = self.config
        parallel.check_batch_size(self.mesh, config.train.batch_size, "train.batch_size")
        meta: dict[str, Any] = {
            "config": as_json(config),
            "config_sha256": config_sha256(as_json(config)),
            "class_names": list(self.source.class_names),
            "multi_label": self.source.multi_label,
        }
        self._check_split()
        with Checkpoints(self.workdir, config.checkpoint.metric) as checkpoints:
            resumed = checkpoints.resume(partial(self._checked, checkpoints, meta))
            if resumed is None:
                state, meta["origins"] = self.initial_state()
            else:
                state = resumed
                meta["origins"] = checkpoints.meta(int(state.step)).get("origins", {})
            self._write_facts(meta)
            start = int(state.step)
            log.info("training from step %d to %d", start, self.recipe.num_steps)
            shown = self.data.examples["validation"]
            with self._log(state) as training_log:
                training_log.networks(state.params, start)
                validate = with_panel(self.validate, self.recipe, shown, training_log)
                fit(
                    self.recipe,
                    state,
                    self._train_batches(start),
                    validate,
                    mesh=self.mesh,
                    key=self.key(Purpose.TRAIN),
                    checkpoints=checkpoints,
                    meta=meta,
                    log=training_log,
                    save_every=config.checkpoint.every_steps or self.steps_per_epoch,
                    patience=config.train.patience,
                    guards=self._guards(),
                )

    def best_state(self) -> TrainState:
        """The state of the best checkpoint.

        Raises:
          InputError: if there is none, or the run had other classes or another split.
        """
        metric = self.config.checkpoint.metric
        with Checkpoints(self.workdir, metric, read_only=True) as checkpoints:
            state = self.restored(checkpoints, checkpoints.best_step)
        self._check_split()
        return state

    def _meta(self) -> dict[str, Any]:
        """What the best checkpoint says of the run."""
        metric = self.config.checkpoint.metric
        with Checkpoints(self.workdir, metric, read_only=True) as checkpoints:
            return checkpoints.meta(checkpoints.best_step)

    def calibrate(self) -> None:
        """Fit temperature and prediction sets on the validation part, if there is one.

        Raises:
          InputError: as `best_state` does.
        """
        if not len(self.data.examples["validation"]):
            return
        state = self.best_state()
        found = calibration.fit(self._answers(state, "validation", "calibrate"))
        if parallel.is_main_process():
            calibration.write(self.workdir, found, int(state.step), self.config.sampling)

    def evaluate(
        self, split: str = "test", folder: Path | None = None, coverage: float = COVERAGE
    ) -> dict[str, Any]:
        """Evaluate the best checkpoint on a part of the data.

        Where the test part leaks, its clean part is evaluated with it, from the same answers.

        Args:
          split: a part of the data.
          folder: where the results go, those for the clean part into `test_clean` in it; default
            `eval/<split>`.
          coverage: of the conformal prediction sets.

        Raises:
          InputError: if there is no such part; and as `best_state` does.
        """
        examples = self.data.examples
        if not len(examples.get(split, ())):
            known = ", ".join(name for name, part in examples.items() if len(part))
            raise InputError(f"the data has no {split} split; it has {known}")
        state = self.best_state()
        whole = "test" if split == CLEAN else split
        answers = self._answers(state, whole, title=split)
        report = partial(self._report, state, whole=whole, answers=answers, coverage=coverage)
        if split == "test" and CLEAN in examples:
            report(CLEAN, folder=(folder or self.workdir / "eval") / CLEAN)
        scores = report(split, folder=folder or self.workdir / "eval" / split)
        meta = self._meta()  # every process opens the checkpoints, or none
        if folder is None and parallel.is_main_process():
            write_documents(self.workdir, meta)
        return scores

    def _report(
        self,
        state: TrainState,
        split: str,
        *,
        whole: str,
        answers: evaluation.Answers,
        coverage: float,
        folder: Path,
    ) -> dict[str, Any]:
        """Score, write and print the answers for a part, out of those for a larger one."""
        records = self.data.examples[split].records
        wanted = {record.id for record in records}
        inside = np.array([r.id in wanted for r in self.data.examples[whole].records])
        answers = evaluation.Answers(*(column[inside] for column in answers))
        names = self.source.class_names
        groups = np.array([record.group or record.id for record in records])
        fitted = calibration.read(self.workdir, int(state.step), self.config.sampling)
        scores = evaluation.score(
            answers,
            names,
            groups=groups,
            bootstrap=self.config.eval.bootstrap,
            thresholds=fitted.thresholds,
        )
        results.add_calibrated(scores, answers, fitted, coverage)
        ids = [record.id for record in records]
        results.write(folder, scores, answers, ids, names, fitted, coverage)
        if parallel.is_main_process():
            table = evaluation.table(scores, diffuses=self.recipe.denoiser is not None)
            print(f"\n{split}, checkpoint of step {int(state.step)}\n{table}")
            print(f"written to {folder}")
        return scores


def run(config: ml_collections.ConfigDict, workdir: Path, mode: str) -> None:
    """What main.py does: train (or go on training) and evaluate, or evaluate only."""
    config = resolve(config)
    check_workdir(workdir, config)  # first: decoding the images may take long
    if mode == "train":
        check_writable(workdir)
    experiment = Experiment(config, workdir)
    if mode == "train":
        experiment.train()
        experiment.calibrate()
    experiment.evaluate()


def evaluate_workdir(
    workdir: Path,
    split: str,
    folder: Path | None = None,
    sampling: dict[str, object] | None = None,
    root: str | None = None,
    coverage: float = COVERAGE,
) -> dict[str, Any]:
    """Evaluate a finished run by the configuration in its checkpoint.

    Arguments are those of `Experiment.evaluate` and `open_run`.
    """
    return open_run(workdir, sampling, root).evaluate(split, folder, coverage)


def open_run(
    workdir: Path, sampling: dict[str, object] | None = None, root: str | None = None
) -> Experiment:
    """A finished run by the configuration in its checkpoint.

    Args:
      workdir: the run's folder.
      sampling: fields of `config.sampling` to change; values of None change nothing.
      root: where the data is now, if it has moved.
    """
    config = stored_config(workdir, sampling)
    if root is not None:
        config.data.root = root
    return Experiment(config, workdir)
