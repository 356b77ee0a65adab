"""From a workdir to a model: the only way to load a run, for every command and for the API."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.inference import calibration, ood
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.ood import Detector
from diffmic_jax.inference.predict import Predictor, make_predictor
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.state import Purpose, abstract_state, run_key
from diffmic_jax.training.workdir import stored_config
from diffmic_jax.types import Array, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The best checkpoint of a run: everything that classifying, evaluating or exporting needs."""

    workdir: Path
    config: Config
    task: Task
    method: Method
    mesh: Mesh
    step: int
    """Of the checkpoint."""
    variables: Variables
    meta: Mapping[str, Any]
    """What the checkpoint records beside the state."""

    @cached_property
    def calibrations(self) -> Calibrations:
        """The calibration that fits this checkpoint and this sampling; empty if there is none.

        Raises:
          InputError: the file is damaged.
        """
        return calibration.read(self.workdir, self.step, self.config.sampling)

    @cached_property
    def detector(self) -> Detector | None:
        """Of images unlike the training's, for this checkpoint; None if there is none.

        Raises:
          InputError: the file is damaged.
        """
        return ood.read(self.workdir, self.step)

    @cached_property
    def predictor(self) -> Predictor:
        """Classifies batches; compiled with the first one."""
        return make_predictor(self.method, self.mesh)(self.variables)

    @property
    def sampling_key(self) -> Array:
        """The random key of the samples."""
        return run_key(self.config.seed, Purpose.SAMPLING)

    @cached_property
    def parameters_sha256(self) -> str:
        """SHA-256 over all parameters: path, dtype, shape and bytes of each, in order of path."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables["params"]):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def load(
    workdir: Path | str, changes: Mapping[str, Any] | None = None, method: Method | None = None
) -> Model:
    """The best checkpoint of a run, on this machine's devices.

    Args:
      workdir: the run's folder.
      changes: fields of its configuration to other values, as `sampling.num_steps`; None changes
        nothing.
      method: the run's own, from its training, whose compiled prediction is used again.

    Raises:
      InputError: the folder holds no checkpoint, one of another version of this package, or a
        change cannot work.
      DamagedCheckpointError: the checkpoint is not what was saved.
    """
    workdir = Path(workdir)
    # The metric only ranks checkpoints, and the run's own is not known yet.
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        stored = checkpoints.meta(checkpoints.best_step)
    config = stored_config(stored.get("config"), str(workdir)).changed(
        {name: value for name, value in (changes or {}).items() if value is not None}
    )
    with Checkpoints(workdir, config.checkpoint.metric, read_only=True) as checkpoints:
        step = checkpoints.best_step
        meta = checkpoints.meta(step)
        # What the run found in its images; new ones are read on the same scale.
        config = config.changed({"data.gray_bits": meta.get("gray_bits", 0)})
        task = _task(meta, workdir)
        method = method or build(config, task)
        mesh = _mesh(config)
        state = checkpoints.restore(step, abstract_state(method, mesh))
    return Model(
        workdir=workdir,
        config=config,
        task=task,
        method=method,
        mesh=mesh,
        step=step,
        variables=state.variables(average=config.train.ema),
        meta=meta,
    )


def _task(meta: Mapping[str, Any], workdir: Path) -> Task:
    """What a checkpoint says of its labels.

    Raises:
      InputError: it is not what is saved there.
    """
    names, several = meta.get("class_names"), meta.get("multi_label")
    named = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    if not named or type(several) is not bool or type(meta.get("ordered", True)) is not bool:
        raise InputError(f"{workdir}: its checkpoint does not say what the classes are; train anew")
    return Task.of_checkpoint(meta)


def _mesh(config: Config) -> Mesh:
    """All devices; they share wide layers as in training where this machine's number allows it."""
    shards = config.train.model_shards
    return parallel.make_mesh(1 if jax.local_device_count() % shards else shards)
