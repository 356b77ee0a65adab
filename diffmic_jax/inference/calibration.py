"""The calibration of a run, `calibration.json` in its workdir.

It belongs to one checkpoint and, for the diffusion, to one way of sampling: another number of
draws, say, spreads the probabilities otherwise. So it is looked up by both, and nothing is
calibrated by one that does not fit.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from diffmic_jax.data.files import write_json
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import uncertainty
from diffmic_jax.evaluation.evaluate import Answers
from diffmic_jax.evaluation.uncertainty import Calibration
from diffmic_jax.training.workdir import as_json

FILE = "calibration.json"


class Calibrations(NamedTuple):
    """Of the two classifiers in a run; None where there is none that fits."""

    diffusion: Calibration | None = None
    guidance: Calibration | None = None

    @property
    def thresholds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of the classes, by the diffusion and by the guidance; empty without any."""
        first, second = (each.thresholds if each else () for each in self)
        return first, second


def fit(validation: Answers) -> Calibrations:
    """Calibrate both on the answers for the validation part."""
    return Calibrations(
        uncertainty.fit(validation.probabilities, validation.label),
        uncertainty.fit(validation.guidance, validation.label),
    )


def write(
    workdir: Path, found: Calibrations, step: int, sampling: ml_collections.ConfigDict
) -> None:
    """Keep what was fitted for the checkpoint of a step, drawn from by `config.sampling`."""
    parts = {name: each and dataclasses.asdict(each) for name, each in found._asdict().items()}
    write_json(workdir / FILE, parts | {"step": step, "sampling": as_json(sampling)})


def read(workdir: Path, step: int, sampling: ml_collections.ConfigDict) -> Calibrations:
    """What there is for a checkpoint and a sampling.

    Raises:
      InputError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return Calibrations()
    try:
        stored = json.loads(path.read_text())
        if stored["step"] != step:
            return Calibrations()
        same = stored["sampling"] == as_json(sampling)
        return Calibrations(
            _calibration(stored["diffusion"]) if same else None, _calibration(stored["guidance"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is no calibration ({error}); delete it and run main.py again"
        ) from error


def _calibration(stored: dict[str, Any]) -> Calibration:
    lists = {name: tuple(stored[name]) for name in ("scores", "thresholds")}
    return Calibration(**stored | lists)
