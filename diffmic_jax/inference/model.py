"""A trained classifier: the best checkpoint of a run, and what its validation part has told."""

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
from diffmic_jax.fields import as_json
from diffmic_jax.inference import calibration, ood
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.ood import Detector
from diffmic_jax.inference.predict import Predictor, make_predictor
from diffmic_jax.method.build import Method
from diffmic_jax.method.task import Task
from diffmic_jax.training.state import Purpose, run_key
from diffmic_jax.types import Array, Variables

OTHER_SAMPLING = "sampling"
"""Folder in the workdir for the results of another sampling than the run's."""


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
    fingerprint: str = ""
    """A hash of the checkpoint's state."""
    tempering: Calibrations = Calibrations()
    """What is done to the probabilities, and to those of the guidance; None: nothing."""

    @cached_property
    def home(self) -> Path:
        """Where results of this model go: the workdir, if it samples as the run does.

        With another sampling it is a folder of its own, named after what is different, so that the
        run's results stay.
        """
        own = Config.from_dict(self.meta["config"], str(self.workdir)).sampling
        changed = [
            f"{field.name}={getattr(self.config.sampling, field.name)}"
            for field in dataclasses.fields(own)
            if getattr(self.config.sampling, field.name) != getattr(own, field.name)
        ]
        return self.workdir / OTHER_SAMPLING / ",".join(changed) if changed else self.workdir

    @property
    def provenance(self) -> dict[str, Any]:
        """What results of this model are of, as `metrics.json` keeps it."""
        sampling = as_json(dataclasses.asdict(self.config.sampling))
        return {"step": self.step, "state_sha256": self.fingerprint, "sampling": sampling}

    @cached_property
    def calibrations(self) -> Calibrations:
        """The calibration that fits this checkpoint and this sampling; empty if there is none.

        Raises:
          InputError: the file is damaged.
        """
        own = self.home if (self.home / calibration.FILE).exists() else self.workdir
        found = calibration.read(own, self.step, self.config.sampling)
        return calibration.check(found, self.task, own / calibration.FILE)

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
    def members(self) -> tuple[Model, ...]:
        """The models whose probabilities are averaged: this one alone."""
        return (self,)

    @property
    def by_fold(self) -> tuple[Model, ...]:
        """For each part of the images that was held out, the model that has not learned from it."""
        return (self,)

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
