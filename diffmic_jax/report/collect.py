"""What a run's folder says of a split, read for the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffmic_jax.evaluation.compare import read_answered, read_rows


class Results(NamedTuple):
    """The files of `eval/<split>` and the training log."""

    scores: dict[str, Any]
    """`metrics.json`."""
    ids: list[str]
    class_names: tuple[str, ...]
    label: Any
    """[N] class indices, or [N, C] multi-hot; None where nobody knows."""
    prediction: list[str]
    """What each image was called, as 'a|b' if that are several classes."""
    probabilities: np.ndarray
    """[N, C] of the diffusion."""
    guidance: np.ndarray
    """[N, C] of the guidance."""
    spread: np.ndarray
    """[N] standard deviation between the draws, `sample_std`."""
    vote: np.ndarray
    """[N, C] share of the draws."""
    low: np.ndarray
    """[N, C] 5th percentile of the draws."""
    high: np.ndarray
    """[N, C] 95th percentile."""
    calibrated: np.ndarray | None
    """[N, C] after temperature; None without a calibration."""
    sets: list[str] | None
    """The prediction set of each image, as 'a|b'."""
    log: list[dict[str, str]]
    """`metrics.csv`, a row per logged step."""
    multi_label: bool
    """Any number of classes applies to an image."""


FILES = ("metrics.json", "predictions.csv", "uncertainty.csv")


def read_results(workdir: Path, split: str) -> Results:
    """Read what an evaluation left.

    Raises:
      InputError: a file is missing or empty.
    """
    folder = workdir / "eval" / split
    answered = read_answered(folder / FILES[1])
    predictions, uncertain = read_rows(folder / FILES[1]), read_rows(folder / FILES[2])
    names = answered.class_names

    def columns(kind: str) -> np.ndarray:
        return np.array([[float(row[f"{kind}_{name}"]) for name in names] for row in uncertain])

    first = uncertain[0]
    return Results(
        json.loads((folder / FILES[0]).read_text()),
        answered.ids,
        names,
        answered.label,
        [row["prediction"] for row in predictions],
        answered.probabilities,
        columns("guidance"),
        np.array([float(row["sample_std"]) for row in predictions]),
        columns("vote"),
        columns("low"),
        columns("high"),
        columns("calibrated") if f"calibrated_{names[0]}" in first else None,
        [row["set"] for row in uncertain] if "set" in first else None,
        _log(workdir / "metrics.csv"),
        answered.label.ndim == 2,
    )


def _log(path: Path) -> list[dict[str, str]]:
    """The rows of the training log; none for a run that was converted, not trained."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
