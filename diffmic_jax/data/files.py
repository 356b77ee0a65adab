"""Results on disk: predictions as CSV, metrics as JSON. A file is there whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from diffmic_jax.errors import InputError


def write_predictions(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"] | None,
    class_names: Sequence[str],
    probabilities: Float[np.ndarray, "n c"],
    spread: Float[np.ndarray, "n c"],
    *,
    multi_label: bool = False,
    thresholds: Sequence[float] = (),
) -> None:
    """Writes one row per image: id,label,prediction,prob_<class>...,confidence,entropy,sample_std.

    Args:
      path: the CSV file; its folder is made when absent.
      ids: N names of the images.
      labels: [N] class indices or [N, C] zeros and ones; None, where nobody knows them, leaves the
        column out.
      class_names: the C names; label and prediction are written as these, several as 'a|b'.
      probabilities: [N, C]; the prediction is the most probable class, the first on ties.
      spread: [N, C] standard deviation between the draws; sample_std is the predicted class's.
      multi_label: every class is a question of its own; confidence, entropy and sample_std are
        then means over the classes.
      thresholds: multi-label, of each class: the probability from which it is predicted; default
        0.5.

    The entropy is in nats; numbers have six significant digits.

    Raises:
      InputError: the file cannot be written.
    """
    header, rows = prediction_rows(
        ids,
        labels,
        class_names,
        probabilities,
        spread,
        multi_label=multi_label,
        thresholds=thresholds,
    )
    write_table(path, header, rows)


def prediction_rows(
    ids: Sequence[str],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"] | None,
    class_names: Sequence[str],
    probabilities: Float[np.ndarray, "n c"],
    spread: Float[np.ndarray, "n c"],
    *,
    multi_label: bool = False,
    thresholds: Sequence[float] = (),
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of that table; arguments as above."""
    probabilities = np.asarray(probabilities, np.float64)
    spread = np.asarray(spread, np.float64)
    known = [] if labels is None else ["label"]
    header = ["id", *known, "prediction", *(f"prob_{name}" for name in class_names)]
    said = called(class_names, probabilities, multi_label=multi_label, thresholds=thresholds)
    sure = _sure_multi_label if multi_label else _sure
    rows = []
    for i, (p, std) in enumerate(zip(probabilities, spread, strict=True)):
        label = [] if labels is None else [joined(class_names, labels[i])]
        cells = [f"{number:.6g}" for number in (*p, *sure(p, std))]
        rows.append([ids[i], *label, said[i], *cells])
    return [*header, "confidence", "entropy", "sample_std"], rows


def called(
    class_names: Sequence[str],
    probabilities: Float[np.ndarray, "n c"],
    *,
    multi_label: bool = False,
    thresholds: Sequence[float] = (),
) -> list[str]:
    """What each image is called, [N]; several classes as 'a|b'. Arguments as above."""
    if multi_label:
        return [joined(class_names, row) for row in probabilities >= (thresholds or 0.5)]
    return [joined(class_names, top) for top in probabilities.argmax(axis=1)]


def joined(class_names: Sequence[str], label: int | np.ndarray) -> str:
    """A class index as its name, zeros and ones [C] as names in a row."""
    if isinstance(label, np.ndarray) and label.ndim:
        return "|".join(n for n, holds in zip(class_names, label, strict=True) if holds)
    return class_names[int(label)]


def _sure(p: np.ndarray, std: np.ndarray) -> tuple[float, float, float]:
    """Confidence, entropy and spread of the predicted class of one image [C]."""
    top = int(p.argmax())
    return p[top], entr(p).sum(), std[top]


def _sure_multi_label(p: np.ndarray, std: np.ndarray) -> tuple[float, float, float]:
    """The same, means over C yes-or-no questions."""
    return np.maximum(p, 1 - p).mean(), (entr(p) + entr(1 - p)).mean(), std.mean()


def write_table(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV.

    Raises:
      InputError: the file cannot be written.
    """
    write_text(path, table_text(header, rows))


def table_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Writes `values` with sorted keys; equal values give equal bytes.

    Raises:
      InputError: the file cannot be written.
      ValueError: a value is NaN or infinite, which JSON has no word for.
    """
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8. Arguments and errors as in `write_bytes`."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_bytes(path: str | os.PathLike[str], content: bytes | bytearray) -> None:
    """Writes beside `path`, then renames: a reader never sees half a file.

    Raises:
      InputError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
