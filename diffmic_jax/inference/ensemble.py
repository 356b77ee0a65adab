"""Several runs as one classifier, by the mean of their probabilities, with a temperature.

The mean is the deep ensemble of Lakshminarayanan et al. (2017), the simplest use of a second
training. It is less confident than its members: images that none has learned from tell by how much
(`calibration`), and what was fitted on these is part of the classifier.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffmic_jax.config import Data
from diffmic_jax.data.files import believed, read_json, write_json
from diffmic_jax.errors import InputError
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import Calibrations, tempered
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

    @property
    def by_fold(self) -> tuple[Model, ...]:
        """For each part of the images that some members hold out, the ensemble of these."""
        if not self.config.data.folds:
            return (self,)
        found: dict[int, list[Model]] = {}
        for each in self.averaged:
            found.setdefault(each.config.data.fold, []).append(each)
        return tuple(Ensemble.of(own, own[0].workdir, self.tempering) for own in found.values())

    @classmethod
    def of(
        cls, members: Sequence[Model], workdir: Path, tempering: Calibrations | None = None
    ) -> Ensemble:
        """The ensemble of some models.

        Args:
          members: at least one, for the same images and classes; each may have learned from
            another part of the images.
          workdir: where the ensemble's own calibration lies.
          tempering: of the mean probabilities; None: they stay as they are.

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
        tempering = tempering or Calibrations()
        own["fingerprint"] = digest(
            {"members": [each.fingerprint for each in members], **_as_json(tempering)}
        )
        own["tempering"] = tempering
        return cls(**own, averaged=tuple(members))

    @cached_property
    def predictor(self) -> Predictor:
        """Classifies batches by all members, one after the other."""
        predictors = [each.predictor for each in self.members]
        own, alone = self.tempering

        def predict(batch: Batch, key: Array) -> Outputs:
            found = mean([predictor(batch, key) for predictor in predictors])
            if own:
                samples = tempered(own, found.samples)
                p, std = tempered(own, found.probabilities), samples.std(axis=1)
                found = found._replace(probabilities=p, samples=samples, std=std)
            if alone:
                found = found._replace(guidance=tempered(alone, found.guidance))
            return found

        return predict

    @cached_property
    def parameters_sha256(self) -> str:
        """SHA-256 over those of the members."""
        text = " ".join(each.parameters_sha256 for each in self.members)
        return hashlib.sha256(text.encode()).hexdigest()


def _data(model: Model) -> Data:
    """A model's data set, whichever part of it is held out."""
    return dataclasses.replace(model.config.data, fold=0)


class Members(NamedTuple):
    """What `members.json` says."""

    names: tuple[str, ...]
    """Of the runs' workdirs, inside that of the whole; '.' is itself."""
    tempering: Calibrations = Calibrations()


def read_members(workdir: Path) -> Members | None:
    """The runs that a workdir averages; None where it is a run by itself.

    Raises:
      InputError: its list is damaged, or leads out of it.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    with believed(path, "restore it"):
        stored = read_json(path)
        names = tuple(stored["members"])
        places = tuple((workdir / name).resolve() for name in names)
        fitted = [
            stored[name] and calibration.of_json(stored[name]) for name in Calibrations._fields
        ]
    if not places or not all(place.is_relative_to(workdir.resolve()) for place in places):
        raise InputError(f"{path}: the members lie outside of {workdir}; restore the file")
    return Members(names, Calibrations(*fitted))


def keep_members(workdir: Path, members: Members) -> None:
    """Make a workdir the mean of several runs.

    Raises:
      InputError: the file cannot be written.
    """
    write_json(workdir / FILE, {"members": list(members.names), **_as_json(members.tempering)})


def _as_json(tempering: Calibrations) -> dict[str, Any]:
    """Of each its temperature, and what belongs to it; no more is done to probabilities."""
    names = ("temperature", "uniform", "multi_label")
    parts = tempering._asdict().items()
    return {part: each and {name: getattr(each, name) for name in names} for part, each in parts}


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
