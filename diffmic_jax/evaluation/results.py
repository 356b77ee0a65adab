"""The files that an evaluation leaves in its folder.

`metrics.json` has the metrics, `groups.csv` the lesion or patient of each image as far as it is
known; `inference.predictions` describes `predictions.csv` and `uncertainty.csv`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.config import Data
from diffmic_jax.data.files import write_json, write_table
from diffmic_jax.data.layouts import Record
from diffmic_jax.evaluation import uncertainty
from diffmic_jax.evaluation.compare import GROUPS
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import COVERAGE, Calibrations
from diffmic_jax.inference.predictions import Outputs, write_predictions, write_uncertainty
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A split, predicted and measured."""

    task: Task
    ids: Sequence[str]
    """Names of the N images."""
    outputs: Outputs
    """For the images."""
    metrics: dict[str, Any]
    """`metrics.json`: what `evaluate.score` and `add_calibrated` return."""
    calibrations: Calibrations = Calibrations()
    """That fit the checkpoint and the sampling."""
    coverage: float = COVERAGE
    """Of the prediction sets, 0..1."""
    cpu_seconds: float | None = None
    """To predict an image, over all threads of this process; None: not measured."""
    records: Sequence[Record] = ()
    """The images themselves, with their groups."""
    data: Data | None = None
    """Where they are from; None: not told."""
    folder: Path | None = None
    """Where the results are; None: not written."""

    @property
    def groups(self) -> np.ndarray:
        """[N] the lesion or patient of each image, or the image itself."""
        return np.array([record.group or record.id for record in self.records])


def add_calibrated(
    scores: dict[str, Any],
    outputs: Outputs,
    task: Task,
    calibrations: Calibrations,
    coverage: float = COVERAGE,
) -> dict[str, Any]:
    """The scores with the effect of the calibration under `calibrated`; None without one.

    Args:
      scores: what `evaluate.score` returns.
      outputs: that were scored.
      task: what the classes are.
      calibrations: of both classifiers.
      coverage: 0..1, the share of the prediction sets that are to contain the true class.
    """
    both = (outputs.probabilities, outputs.samples), (outputs.guidance, None)
    own, alone = (
        uncertainty.assess(fitted, probabilities, outputs.label, task, coverage, samples)
        for fitted, (probabilities, samples) in zip(calibrations, both, strict=True)
    )
    guidance = scores["guidance"] | {"calibrated": alone}
    return scores | {"calibrated": own, "guidance": guidance}


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write the four files into a folder, on the main process.

    Raises:
      InputError: a file cannot be written.
    """
    if not parallel.is_main_process():
        return
    ids, outputs, task = evaluation.ids, evaluation.outputs, evaluation.task
    fitted = evaluation.calibrations
    calibrated = calibration.apply(fitted.diffusion, outputs.probabilities, evaluation.coverage)
    write_uncertainty(folder / "uncertainty.csv", ids, outputs, task, calibrated)
    write_predictions(
        folder / "predictions.csv", ids, outputs, task, thresholds=fitted.thresholds[0]
    )
    rows = [(record.id, record.group) for record in evaluation.records]
    write_table(folder / GROUPS, ("image", "group"), rows)
    # The last one: where it is, the others are complete.
    write_json(folder / "metrics.json", evaluation.metrics)
