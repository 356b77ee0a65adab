"""Several runs as one classifier, by the mean of their probabilities.

That is the deep ensemble of Lakshminarayanan et al. (2017), the simplest use of a second training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.predict import Predictor
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.training.checksum import digest
from diffmic_jax.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble(Model):
    """A model whose predictions are the means of its members'; all else is the first member's."""

    members: tuple[Model, ...]

    @classmethod
    def of(cls, members: Sequence[Model], workdir: Path) -> Ensemble:
        """The ensemble of some models.

        Args:
          members: at least one, for the same images and classes.
          workdir: where the ensemble's own calibration lies.

        Raises:
          InputError: the members are of other data or classes.
        """
        first = members[0]
        for each in members[1:]:
            if (each.task, each.config.data) != (first.task, first.config.data):
                raise InputError(
                    f"{each.workdir} has other classes or data than {first.workdir}; average runs "
                    "on the same data"
                )
        own = {field.name: getattr(first, field.name) for field in dataclasses.fields(Model)}
        own["workdir"] = workdir
        own["fingerprint"] = digest({"members": [each.fingerprint for each in members]})
        return cls(**own, members=tuple(members))

    @cached_property
    def predictor(self) -> Predictor:
        """Classifies batches by all members, one after the other."""
        predictors = [each.predictor for each in self.members]

        def predict(batch: Batch, key: Array) -> Outputs:
            return mean([predictor(batch, key) for predictor in predictors])

        return predict


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
