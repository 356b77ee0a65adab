"""Predictions for many images, and the two tables that hold them.

`predictions.csv` has the predicted class of each image and its probabilities. `uncertainty.csv` has
a row per image and for each class a column `calibrated_`, `vote_`, `low_`, `high_` and `guidance_`:
the probability after temperature scaling, the share of the samples in which the class is the most
probable one, the 5th and 95th percentile of the samples, and the probability of the guidance
prediction. `set` names the classes of the conformal prediction set. Without a calibration `set` and
`calibrated_` are left out, and with several labels per image `set` is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from diffmic_jax.data.files import write_table, write_text
from diffmic_jax.method.task import Task

SUMMARY = ("confidence", "entropy", "sample_std")
"""The last columns of `prediction_rows`."""


class Outputs(NamedTuple):
    """The classifier's outputs for N images, as NumPy arrays."""

    probabilities: np.ndarray
    """[N, C]."""
    std: np.ndarray
    """[N, C] standard deviation of the samples, before the readout."""
    guidance: np.ndarray
    """[N, C] probabilities of the guidance prediction."""
    label: np.ndarray
    """[N] class indices, or with several labels [N, C] zeros and ones."""
    samples: np.ndarray
    """[N, S, C] probabilities of each sample by itself, read out as their mean is."""
    features: np.ndarray
    """[N, S] what the guidance trunk sees of the image itself, as `Guidance.look`."""


class Calibrated(NamedTuple):
    """What a calibration makes of the probabilities of N images."""

    probabilities: np.ndarray
    """[N, C] after temperature scaling."""
    sets: np.ndarray | None
    """[N, C] bool, the conformal prediction sets; None with several labels per image."""


def vote_share(samples: Float[np.ndarray, "n s c"], task: Task) -> np.ndarray:
    """Share of the samples that vote for each class, [N, C].

    A sample votes for its most probable class, in equal parts if there are several; with several
    labels per image, for every class of p >= 0.5.

    Args:
      samples: [N, S, C] probabilities.
      task: what the classes are.
    """
    if task.multi_label:
        return (samples >= 0.5).mean(axis=1)
    best = samples == samples.max(axis=2, keepdims=True)
    return (best / best.sum(axis=2, keepdims=True)).mean(axis=1)


def sample_interval(
    samples: Float[np.ndarray, "n s c"], level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """The central interval of the samples: low and high [N, C].

    It measures the noise of the sampler alone. The mean of S samples varies about sqrt(S) times
    less.

    Args:
      samples: [N, S, C] probabilities.
      level: share of the samples inside, 0..1.
    """
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(samples, [tail, 100 - tail], axis=1)
    return low, high


def write_predictions(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    outputs: Outputs,
    task: Task,
    *,
    thresholds: Sequence[float] = (),
) -> None:
    """Write the table of `prediction_rows` as CSV; its folder is made when absent.

    Args:
      path: the file.
      ids: names of the N images.
      outputs: of the images, with their labels.
      task: what the classes are.
      thresholds: as in `prediction_rows`.

    Raises:
      InputError: the file cannot be written.
    """
    p, std = outputs.probabilities, outputs.std
    write_table(path, *prediction_rows(ids, outputs.label, task, p, std, thresholds))


def prediction_rows(
    ids: Sequence[str],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"] | None,
    task: Task,
    probabilities: Float[np.ndarray, "n c"],
    std: Float[np.ndarray, "n c"],
    thresholds: Sequence[float] = (),
) -> tuple[list[str], list[list[str]]]:
    """One row per image: id,label,prediction,prob_<class>...,confidence,entropy,sample_std.

    Label and prediction are class names, several as 'a|b'. The confidence is the probability of
    the predicted class, `sample_std` the standard deviation of the samples for it, the entropy is
    in nats. With several labels per image every class is a yes-or-no question of its own, and
    these three are means over the classes. Numbers have six significant digits.

    Args:
      ids: names of the N images.
      labels: [N] class indices or [N, C] zeros and ones; None leaves the column out.
      task: what the classes are.
      probabilities: [N, C].
      std: [N, C] standard deviation of the samples.
      thresholds: [C] with several labels, the probability from which a class is predicted; default
        0.5.

    Returns:
      The header and the rows.
    """
    probabilities, std = (np.asarray(x, np.float64) for x in (probabilities, std))
    header = ["id", *([] if labels is None else ["label"]), "prediction"]
    header += [f"prob_{name}" for name in task.class_names]
    predicted = task.predicted(probabilities, thresholds)
    summary = _summary_multi_label if task.multi_label else _summary
    rows = []
    for i, (image, p, own) in enumerate(zip(ids, probabilities, std, strict=True)):
        label = [] if labels is None else [task.name(labels[i])]
        cells = [f"{number:.6g}" for number in (*p, *summary(p, own))]
        rows.append([image, *label, task.name(predicted[i]), *cells])
    return [*header, *SUMMARY], rows


def _summary(p: np.ndarray, std: np.ndarray) -> tuple[float, float, float]:
    """Confidence, entropy and `sample_std` of one image [C]."""
    top = int(p.argmax())
    return p[top], entr(p).sum(), std[top]


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: as JSON, a list with an object per row, where the name ends in .json; as CSV.

    Raises:
      InputError: the file cannot be written.
    """
    if path.suffix.lower() != ".json":
        write_table(path, header, rows)
        return
    number = [name.startswith("prob_") or name in SUMMARY for name in header]
    cells = ((float(x) if each else x for x, each in zip(row, number, strict=True)) for row in rows)
    records = [dict(zip(header, row, strict=True)) for row in cells]
    write_text(path, json.dumps(records, indent=2) + "\n")


def printed(header: Sequence[str], rows: Sequence[Sequence[str]], others: int = 3) -> str:
    """A table of predictions to read on a screen: each image with its most probable classes.

    Args:
      header: of `prediction_rows`, perhaps with `in_distribution`.
      rows: its rows.
      others: how many classes to show of each.
    """
    columns = {
        name.removeprefix("prob_"): i for i, name in enumerate(header) if name[:5] == "prob_"
    }
    extra = [header.index("in_distribution")] if "in_distribution" in header else []
    shown = [["image", "prediction", *(header[i] for i in extra), "probabilities"]]
    for row in rows:
        best = sorted(columns, key=lambda name: -float(row[columns[name]]))[:others]
        parts = ", ".join(f"{name} {float(row[columns[name]]):.3f}" for name in best)
        shown.append([row[0], row[1], *(row[i] for i in extra), parts])
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    padded = (map(str.ljust, row, widths) for row in shown)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _summary_multi_label(p: np.ndarray, std: np.ndarray) -> tuple[float, float, float]:
    """The same, means over C yes-or-no questions."""
    return np.maximum(p, 1 - p).mean(), (entr(p) + entr(1 - p)).mean(), std.mean()


def write_uncertainty(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    outputs: Outputs,
    task: Task,
    calibrated: Calibrated | None,
) -> None:
    """Write `uncertainty.csv`, a row per image; labels are not used.

    Args:
      path: the file; its folder is made when absent.
      ids: names of the N images.
      outputs: of the images.
      task: what the classes are.
      calibrated: what `calibration.apply` makes of them; None without a calibration.

    Raises:
      InputError: the file cannot be written.
    """
    low, high = sample_interval(outputs.samples)
    columns = {
        "vote": vote_share(outputs.samples, task),
        "low": low,
        "high": high,
        "guidance": outputs.guidance,
    }
    sets = None
    if calibrated is not None:
        columns = {"calibrated": calibrated.probabilities} | columns
        sets = calibrated.sets
    rows = []
    for i, image in enumerate(ids):
        members = [] if sets is None else [task.names_of(sets[i])]
        cells = [f"{value:.6g}" for column in columns.values() for value in column[i]]
        rows.append([image, *members, *cells])
    names = [f"{kind}_{name}" for kind in columns for name in task.class_names]
    write_table(path, ["id", *([] if sets is None else ["set"]), *names], rows)
