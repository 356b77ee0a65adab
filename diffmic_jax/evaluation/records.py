"""Results on disk: predictions as CSV, metrics as JSON. A file is there whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from diffmic_jax.types import InputError


def write_predictions(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    labels: Int[np.ndarray, " n"] | None,
    class_names: Sequence[str],
    probabilities: Float[np.ndarray, "n c"],
    spread: Float[np.ndarray, "n c"],
) -> None:
    """Writes one row per image: id,label,prediction,prob_<class>...,confidence,entropy,sample_std.

    Args:
      path: the CSV file; its folder is made when absent.
      ids: N names of the images.
      labels: [N] class indices; None, where nobody knows them, leaves the column out.
      class_names: the C names; label and prediction are written as these.
      probabilities: [N, C]; the prediction is the most probable class, the first on ties.
      spread: [N, C] standard deviation between the draws; sample_std is the predicted class's.

    The entropy is in nats; numbers have six significant digits.

    Raises:
      InputError: the file cannot be written.
    """
    probabilities = np.asarray(probabilities, np.float64)
    spread = np.asarray(spread, np.float64)
    known = [] if labels is None else ["label"]
    probability_columns = [f"prob_{name}" for name in class_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["id", *known, "prediction", *probability_columns, "confidence", "entropy", "sample_std"]
    )
    label_names = None if labels is None else [class_names[i] for i in labels]
    rows = _rows(class_names, probabilities, spread)
    for i, (identity, (prediction, numbers)) in enumerate(zip(ids, rows, strict=True)):
        label = [] if label_names is None else [label_names[i]]
        writer.writerow([identity, *label, prediction, *(f"{x:.6g}" for x in numbers)])
    _replace(path, text.getvalue())


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Writes `values` with sorted keys; equal values give equal bytes.

    Raises:
      InputError: the file cannot be written.
      ValueError: a value is NaN or infinite, which JSON has no word for.
    """
    _replace(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _rows(
    class_names: Sequence[str], probabilities: np.ndarray, spread: np.ndarray
) -> Iterator[tuple[str, list[float]]]:
    """Predicted class and the numbers after it, per image."""
    for p, std in zip(probabilities, spread, strict=True):
        top = int(p.argmax())
        yield class_names[top], [*p, p[top], entr(p).sum(), std[top]]


def _replace(path: str | os.PathLike[str], text: str) -> None:
    """Writes beside `path`, then renames: a reader never sees half a file."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
