"""From a workdir to a model: the only way to load a run, for every command and for the API."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.ensemble import Ensemble, read_members
from diffmic_jax.inference.model import Model
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.state import abstract_state
from diffmic_jax.training.workdir import stored_config

__all__ = ["Model", "load"]

log = logging.getLogger("diffmic_jax")

OF_TRAINING = {
    "checkpoint.every_steps": 1,
    "data.fold": 0,
    "guidance.checkpoint": "",
    "guidance.tune": "full",
    "guidance.views": 1,
    "seed": 0,
    "train.epochs": 1,
}
"""Fields in which the members of an ensemble may differ and predict by one program."""


def load(
    workdir: Path | str, changes: Mapping[str, Any] | None = None, method: Method | None = None
) -> Model:
    """The best checkpoint of a run, on this machine's devices; or the ensemble of several.

    A workdir whose `members.json` names others is the mean of these. Its temperature is of their
    own sampling, and left out with a warning where a change gives another.

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
    found = read_members(workdir)
    if found is None:
        return _load_run(workdir, changes, method)
    members: list[Model] = []
    for name in found.names:
        members.append(_load_run(workdir / name, changes, None, members))
    tempering = found.tempering
    if any(tempering) and any(_resampled(each) for each in members):
        log.warning(
            "%s: its temperature is of predictions with the sampling of the fit, and is left out",
            workdir,
        )
        tempering = Calibrations()
    return Ensemble.of(members, workdir, tempering)


def _resampled(model: Model) -> bool:
    """Whether it samples otherwise than it was trained and evaluated to."""
    own = stored_config(model.meta.get("config"), str(model.workdir))
    if not model.config.denoiser.encoder:  # then nothing is sampled, but mirrored copies count
        return model.config.sampling.flips != own.sampling.flips
    return model.config.sampling != own.sampling


def _load_run(
    workdir: Path,
    changes: Mapping[str, Any] | None,
    method: Method | None,
    others: Sequence[Model] = (),
) -> Model:
    """The run of one workdir; its compiled prediction is that of another if it is the same."""
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
        alike = (each.method for each in others if _predicts_alike(each.config, config))
        method = method or next(alike, None) or build(config, task)
        mesh = _mesh(config)
        target = abstract_state(method, mesh).variables()
        variables = checkpoints.variables(step, target, config.train.ema)
        fingerprint = checkpoints.fingerprint(step)
    return Model(
        workdir=workdir,
        config=config,
        task=task,
        method=method,
        mesh=mesh,
        step=step,
        variables=variables,
        meta=meta,
        fingerprint=fingerprint,
    )


def _predicts_alike(one: Config, other: Config) -> bool:
    """Whether two runs differ in no more than what they have learned from, and how."""
    return one.changed(OF_TRAINING) == other.changed(OF_TRAINING)


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
