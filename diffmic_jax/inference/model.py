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
from diffmic_jax.inference import calibration, ood
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.ood import Detector
from diffmic_jax.inference.predict import Predictor, make_predictor
from diffmic_jax.method.build import Method
from diffmic_jax.method.task import Task
from diffmic_jax.training.state import Purpose, run_key
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
    def members(self) -> tuple[Model, ...]:
        """The models whose probabilities are averaged: this one alone."""
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
