from __future__ import annotations

import csv
from pathlib import Path

import pytest

from scripts import write_results

PAGE = """Before.

<!-- means s: accuracy calibrated.nll train_cpu_seconds -->
an old table
<!-- end -->
Between.
<!-- differences s: accuracy f1_macro nll -->
<!-- end -->
<!-- across nll: s s-t -->
<!-- end -->
After.
"""


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path) -> Path:
    done = {"split": "test", "status": "done", "calibrated.nll": 1.234}
    write(
        tmp_path / "s.csv",
        [
            {"row": "a", "seed": 0, "accuracy": 0.5, "train_cpu_seconds": 90} | done,
            {"row": "a", "seed": 1, "accuracy": 0.7, "train_cpu_seconds": 150} | done,
            {"row": "b", "seed": 0, "accuracy": 0.8, "train_cpu_seconds": ""} | done,
            {"row": "b", "seed": 1, "accuracy": "", "train_cpu_seconds": ""}
            | done
            | {"status": "failed: x"},
            {"row": "a", "seed": 0, "accuracy": 0.1, "train_cpu_seconds": 90}
            | done
            | {"split": "test_clean"},
        ],
    )
    empty = dict.fromkeys(("ci95.low", "ci95.high", "ci95_images.low", "ci95_images.high"), "")
    first = {"row": "b", "minus": "a", "difference": 0.2, "p_holm": 0.0312, "seeds": "0 1 2"}
    write(
        tmp_path / "s-comparisons.csv",
        [
            first
            | {"metric": "accuracy"}
            | {"ci95.low": -0.01, "ci95.high": 0.41}
            | {"ci95_images.low": 0.1, "ci95_images.high": 0.3},
            first
            | {"metric": "f1_macro"}
            | {"ci95.low": 0.15, "ci95.high": 0.25}
            | {"ci95_images.low": 0.1, "ci95_images.high": 0.3},
            first
            | {"metric": "nll", "difference": -1.5, "seeds": "0 1"}
            | empty
            | {"ci95.low": -9, "ci95.high": 9}
            | {"ci95_images.low": -2, "ci95_images.high": -1},
        ],
    )
    rows = [first | {"row": row, "metric": "nll"} | empty for row in "bc"]
    write(tmp_path / "s-t-comparisons.csv", rows)
    return tmp_path


def test_tables_are_written_between_their_comments(folder):
    found = write_results.text(PAGE, folder)
    for line in (
        "| row | seeds | accuracy | NLL, calibrated | CPU minutes to train |",
        "| `a` | 2 | .600 (.500, .700) | 1.23 (1.23, 1.23) | 2.00 |",
        "| `b` | 1 | .800 | 1.23 |  |",
        "| row, less `a` | accuracy | accuracy, p | macro-F1 | macro-F1, p | NLL |",
        "| `b` | +.200 (-.010 to +.410) | 0.031 | +.200 (+.100 to +.300) | 0.031 | "
        "-1.50 (-2.00 to -1.00) |",
        "| NLL, less `a` |  | t |",
        "| `b` | -1.50 (-2.00 to -1.00) | +.200 |",
        "| `c` |  | +.200 |",
    ):
        assert line in found, found
    assert "an old table" not in found
    for kept in ("Before.\n", "Between.\n", "After.\n"):
        assert kept in found
    assert write_results.text(found, folder) == found


def test_the_tables_of_the_results_are_those_of_their_files():
    """Write them with `python scripts/write_results.py`."""
    page = write_results.FILE.read_text()
    assert write_results.text(page, write_results.DOCS / "results") == page
