"""Several runs as one classifier, by the mean of their probabilities.

That is the deep ensemble of Lakshminarayanan et al. (2017), the simplest use of a second training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from diffmic_jax.config import Data
from diffmic_jax.data.files import write_json
from diffmic_jax.errors import InputError
from diffmic_jax.inference.model import Model
from diffmic_jax.inference.predict import Predictor
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.training.checksum import digest
from diffmic_jax.types import Array, Batch

FILE = "members.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble(Model):
    """A model whose predictions are the means of its members'; all else is the first member's."""

    averaged: tuple[Model, ...]

    @property
    def members(self) -> tuple[Model, ...]:
        """The models whose probabilities are averaged."""
        return self.averaged

    @classmethod
    def of(cls, members: Sequence[Model], workdir: Path) -> Ensemble:
        """The ensemble of some models.

        Args:
          members: at least one, for the same images and classes; each may have learned from
            another part of the images.
          workdir: where the ensemble's own calibration lies.

        Raises:
          InputError: the members are of other data or classes.
        """
        first = members[0]
        for each in members[1:]:
            if (each.task, _data(each)) != (first.task, _data(first)):
                raise InputError(
                    f"{each.workdir} has other classes or data than {first.workdir}; average runs "
                    "on the same data"
                )
        own = {field.name: getattr(first, field.name) for field in dataclasses.fields(Model)}
        own["workdir"] = workdir
        own["fingerprint"] = digest({"members": [each.fingerprint for each in members]})
        return cls(**own, averaged=tuple(members))

    @cached_property
    def predictor(self) -> Predictor:
        """Classifies batches by all members, one after the other."""
        predictors = [each.predictor for each in self.members]

        def predict(batch: Batch, key: Array) -> Outputs:
            return mean([predictor(batch, key) for predictor in predictors])

        return predict

    @cached_property
    def parameters_sha256(self) -> str:
        """SHA-256 over those of the members."""
        text = " ".join(each.parameters_sha256 for each in self.members)
        return hashlib.sha256(text.encode()).hexdigest()


def _data(model: Model) -> Data:
    """A model's data set, whichever part of it is held out."""
    return dataclasses.replace(model.config.data, fold=0)


def member_workdirs(workdir: Path) -> tuple[Path, ...]:
    """The workdirs of the runs that a workdir averages; itself alone where it names none.

    Raises:
      InputError: its list is damaged, or leads out of it.
    """
    path = workdir / FILE
    if not path.exists():
        return (workdir,)
    try:
        names = json.loads(path.read_text())["members"]
        places = tuple((workdir / name).resolve() for name in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no list of members ({error}); restore it") from error
    if not places or not all(place.is_relative_to(workdir.resolve()) for place in places):
        raise InputError(f"{path}: the members lie outside of {workdir}; restore the file")
    return tuple(workdir / name for name in names)


def keep_members(workdir: Path, names: Sequence[str]) -> None:
    """Make a workdir the mean of several runs.

    Args:
      workdir: of the whole.
      names: of the runs' workdirs, inside it; '.' is itself.

    Raises:
      InputError: the file cannot be written.
    """
    write_json(workdir / FILE, {"members": list(names)})


def mean(outputs: Sequence[Outputs]) -> Outputs:
    """One classifier's outputs for some images from those of several.

    The samples are those of all, one after the other, and `std` is over them as they are read out.
    The features are the first one's.
    """
    samples = np.concatenate([each.samples for each in outputs], axis=1)
    return Outputs(
        probabilities=np.mean([each.probabilities for each in outputs], axis=0),
        std=samples.std(axis=1),
        guidance=np.mean([each.guidance for each in outputs], axis=0),
        label=outputs[0].label,
        samples=samples,
        features=outputs[0].features,
    )
