"""The files that an evaluation leaves in its folder.

`metrics.json` and `predictions.csv` say what the classifier answers. `uncertainty.csv` says how
sure it is, a row per image and for each class a column `calibrated_`, `vote_`, `low_`, `high_` and
`guidance_`: the probability after temperature, the share of the draws that are for the class, the
5th and 95th percentile of the draws, and the guidance's own probability. `set` names the classes
of the conformal prediction set. Without a calibration `set` and `calibrated_` are left out, and
with several labels per image `set` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.data import files as records
from diffmic_jax.evaluation import uncertainty
from diffmic_jax.evaluation.evaluate import Answers
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.training import parallel


def add_calibrated(
    scores: dict[str, Any], answers: Answers, calibrations: Calibrations, coverage: float
) -> None:
    """Put what calibration changes under `calibrated`; None without one."""
    scores["calibrated"] = uncertainty.assess(
        calibrations.diffusion, answers.probabilities, answers.label, coverage
    )
    scores["guidance"]["calibrated"] = uncertainty.assess(
        calibrations.guidance, answers.guidance, answers.label, coverage
    )


def write(
    folder: Path,
    scores: dict[str, Any],
    answers: Answers,
    ids: Sequence[str],
    class_names: tuple[str, ...],
    calibrations: Calibrations,
    coverage: float,
) -> None:
    """Write the three files into a folder, on the main process."""
    if not parallel.is_main_process():
        return
    multi_label = answers.label.ndim == 2
    write_uncertainty(
        folder / "uncertainty.csv", ids, answers, class_names, multi_label, calibrations, coverage
    )
    records.write_predictions(
        folder / "predictions.csv",
        ids,
        answers.label,
        class_names,
        answers.probabilities,
        answers.spread,
        multi_label=multi_label,
        thresholds=calibrations.thresholds[0],
    )
    # The last one: where it is, the others are whole.
    records.write_json(folder / "metrics.json", scores)


def write_uncertainty(
    path: Path,
    ids: Sequence[str],
    answers: Answers,
    class_names: tuple[str, ...],
    multi_label: bool,
    calibrations: Calibrations,
    coverage: float,
) -> None:
    """Write how sure the answers are; labels are not looked at.

    Raises:
      InputError: the file cannot be written.
    """
    low, high = uncertainty.draw_interval(answers.draws)
    columns = {
        "vote": uncertainty.vote_share(answers.draws, multi_label),
        "low": low,
        "high": high,
        "guidance": answers.guidance,
    }
    sets = None
    if own := calibrations.diffusion:
        calibrated = uncertainty.tempered(own, answers.probabilities)
        columns = {"calibrated": calibrated} | columns
        if not multi_label:
            sets = uncertainty.prediction_sets(own, answers.probabilities, coverage)
    names = [f"{kind}_{name}" for kind in columns for name in class_names]
    rows = []
    for i, image in enumerate(ids):
        cells = [f"{value:.6g}" for column in columns.values() for value in column[i]]
        known = [] if sets is None else [records.joined(class_names, sets[i])]
        rows.append([image, *known, *cells])
    records.write_table(path, ["id", *(["set"] * (sets is not None)), *names], rows)
