"""Write the tables of docs/results.md from the files in docs/results/.

python scripts/write_results.py

A table stands between two comments, and is what the script makes of the first one:

    <!-- means strong-busi: accuracy f1_macro calibrated.nll -->
    <!-- differences equal-busi: f1_macro calibrated.nll -->
    <!-- across calibrated.nll: equal-busi equal-eyepacs -->
    <!-- end -->

`means` reads docs/results/NAME.csv, `differences` NAME-comparisons.csv, as a study writes them, and
`across` the differences of one metric in the files of several names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmic_jax.inference.card import table
from diffmic_jax.study.differences import mean_and_interval

DOCS = Path(__file__).parents[1] / "docs"
FILE = DOCS / "results.md"
TITLES = {
    "f1_macro": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC",
    "average_precision": "average precision",
    "kappa_quadratic": "quadratic kappa",
    "nll": "NLL",
    "rps": "RPS",
    "ece": "ECE",
    "calibrated.nll": "NLL, calibrated",
    "calibrated.rps": "RPS, calibrated",
    "calibrated.joint_nll": "joint NLL",
    "400.last": "TV, 400 steps",
    "4000.last": "TV, 4,000 steps",
    "1000_of_1000.chosen": "TV, 1,000 examples",
    "train_cpu_seconds": "CPU minutes to train",
    "predict_cpu_seconds": "CPU ms an image",
}
FEWEST = 3
"""Seeds from which their interval is shown, in a difference if it is wider than that over images;
of fewer every value, and intervals over images."""
FACTORS = {"train_cpu_seconds": 1 / 60, "predict_cpu_seconds": 1000}
"""Columns that are costs: the mean alone is shown, times this."""
_START = r"<!-- (means|differences|across) ([\w.-]+): ([\w.-]+(?: [\w.-]+)*) -->\n"
_BLOCK = re.compile(rf"({_START}).*?(<!-- end -->)", re.S)


def text(page: str, folder: Path) -> str:
    """A page with its tables written anew from the files in a folder."""
    makers = {"means": means, "differences": differences, "across": across}

    def made(block: re.Match[str]) -> str:
        start, kind, name, columns, end = block.groups()
        return f"{start}\n{table(makers[kind](folder, name, columns.split()))}\n{end}"

    return _BLOCK.sub(made, page)


def means(folder: Path, name: str, columns: Sequence[str]) -> list[Sequence[str]]:
    """A row of the table for each row of a study: means over its seeds, with intervals."""
    lines = [line for line in _read(folder / f"{name}.csv") if line["split"] == "test"]
    rows: list[Sequence[str]] = [("row", "seeds", *(TITLES.get(each, each) for each in columns))]
    for row in dict.fromkeys(line["row"] for line in lines):
        own = [line for line in lines if line["row"] == row and line["status"] == "done"]
        cells = [_cell([float(x[each]) for x in own if x.get(each)], each) for each in columns]
        rows.append((f"`{row}`", str(len(own)), *cells))
    return rows


def _cell(values: Sequence[float], column: str) -> str:
    if not values:
        return ""
    mean, interval = mean_and_interval(values)
    if column in FACTORS:
        return _short(mean * FACTORS[column])
    if interval is None:
        return _short(mean)
    if len(values) < FEWEST:  # an interval of two has no meaning
        return f"{_short(mean)} ({', '.join(map(_short, values))})"
    return f"{_short(mean)} ({_short(interval[0])} to {_short(interval[1])})"


def differences(folder: Path, name: str, columns: Sequence[str]) -> list[Sequence[str]]:
    """A row for each row of a study: its differences from the first, and p by Holm's method."""
    lines = _read(folder / f"{name}-comparisons.csv")
    found = {(line["row"], line["metric"]): line for line in lines}
    titles = [f"{TITLES.get(each, each)}{p}" for each in columns for p in ("", ", p")]
    rows: list[Sequence[str]] = [(f"row, less `{lines[0]['minus']}`", *titles)]
    for row in dict.fromkeys(line["row"] for line in lines):
        cells = [cell for each in columns for cell in _difference(found.get((row, each)))]
        rows.append((f"`{row}`", *cells))
    # No p where it would be of fewer seeds.
    shown = [i for i, column in enumerate(zip(*rows[1:], strict=True)) if any(column)]
    return [[cells[i] for i in shown] for cells in rows]


def across(folder: Path, metric: str, names: Sequence[str]) -> list[Sequence[str]]:
    """A row for each row of several studies: its difference in one metric in each."""
    found: dict[str, dict[str, str]] = {}
    rivals = set()
    for name in names:
        for line in _read(folder / f"{name}-comparisons.csv"):
            rivals.add(line["minus"])
            if line["metric"] == metric:
                found.setdefault(line["row"], {})[name] = _difference(line)[0]
    (minus,) = rivals  # else the numbers of a row are not of the same kind
    head = f"{TITLES.get(metric, metric)}, less `{minus}`"
    rows: list[Sequence[str]] = [(head, *(name.partition("-")[2] for name in names))]
    rows += [(f"`{row}`", *(own.get(name, "") for name in names)) for row, own in found.items()]
    return rows


def _difference(line: dict[str, str] | None) -> tuple[str, str]:
    if line is None:
        return "", ""
    few = len(line["seeds"].split()) < FEWEST
    # Of the seeds and of the images, both of which could be drawn again, the one that tells less.
    kinds = ["ci95_images", *["ci95"] * (not few)]
    ends = [[line[f"{kind}.{end}"] for end in ("low", "high")] for kind in kinds]
    found = [[float(each) for each in pair] for pair in ends if all(pair)]
    cell = _short(float(line["difference"]), "+")
    if found:
        low, high = max(found, key=lambda pair: pair[1] - pair[0])
        cell += f" ({_short(low, '+')} to {_short(high, '+')})"
    return cell, f"{float(line['p_holm']):.3f}" if line["p_holm"] and not few else ""


def _short(value: float, sign: str = "") -> str:
    """Three digits, without the zero before the point."""
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{np.round(value, digits):{sign}.{digits}f}")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    FILE.write_text(text(FILE.read_text(), DOCS / "results"))
