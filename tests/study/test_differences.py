"""Means, intervals and differences over seeds, and what leaked images change."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from diffmic_jax.study import differences as study_differences
from diffmic_jax.study import runs as study_runs
from diffmic_jax.study import tables as study_tables
from diffmic_jax.study.definition import Row, Study
from tests.study.specs import outcome, write_scores


def test_an_interval_over_seeds_ends_where_the_metric_does():
    runs = [SimpleNamespace(values={"accuracy": x, "nll": x - 0.9}) for x in (0.9, 1.0)]
    assert study_tables._interval(runs, "accuracy")[1] == (pytest.approx(0.315, abs=1e-3), 1)
    assert study_tables._interval(runs, "nll")[1] == (0, pytest.approx(0.685, abs=1e-3))


def test_the_mean_of_seeds_has_students_interval():
    values = [0.70, 0.74, 0.78]
    mean, interval = study_differences.mean_and_interval(values)
    half = 4.302653 * 0.04 / np.sqrt(3)
    assert mean == pytest.approx(0.74)
    assert interval == pytest.approx((0.74 - half, 0.74 + half))
    assert study_differences.mean_and_interval([0.5]) == (0.5, None)


def test_differences_are_paired_by_seed():
    first = np.array([0.5, 0.6, 0.7])
    found = study_differences.paired(first, first + [0.01, 0.02, 0.03])
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert found["difference"] == pytest.approx(0.02)
    assert found["ci95"] == pytest.approx((0.02 - half, 0.02 + half))
    assert found["p"] == pytest.approx(0.0742, abs=1e-4)
    assert study_differences.paired([0.5, 0.6], [0.5, 0.6])["p"] is None
    # One image of 234 more for every seed: the same difference, up to rounding.
    gaps = np.array([100, 120, 143]) / 234, np.array([101, 121, 144]) / 234
    assert np.ptp(gaps[1] - gaps[0]) > 0
    assert study_differences.paired(*gaps)["p"] is None


def test_p_is_corrected_for_the_number_of_rows():
    """Of three rows the smallest p counts three times, the next twice, and none less than those."""
    gaps = {
        (row, "nll"): {"p": p, "p_images": images}
        for row, p, images in (
            ("a", 0.04, 0.5),
            ("b", 0.01, 0.5),
            ("c", None, 0.021),  # of one seed
            ("d", None, None),
        )
    }
    gaps["a", "ece"] = {"p": 0.04, "p_images": None}
    found = study_differences._corrected(gaps)
    assert {key: gap["p_holm"] for key, gap in found.items()} == {
        ("a", "nll"): pytest.approx(0.042),
        ("b", "nll"): pytest.approx(0.03),
        ("c", "nll"): pytest.approx(0.042),
        ("d", "nll"): None,
        ("a", "ece"): pytest.approx(0.04),
    }


def test_leaked_images_are_those_outside_of_the_clean_part(tmp_path):
    run = tmp_path / "runs/v1-0/eval"
    write_scores(run / "test", [[16, 4], [2, 8]])
    write_scores(run / "test_clean", [[10, 4], [2, 4]])
    values, _ = study_runs._measured(run / "test", run / "test_clean", guidance=False)
    found = [outcome("v1", run / "test", run, values=values, clean=run / "test_clean")]
    wanted = Study("Leaks", (Row("v1", "c.py"),), against=None)
    text = study_tables.write_tables(wanted, tmp_path, found)
    # Six leaked images of one class and four of the other; clean recalls are 10/14 and 4/6.
    assert "| v1 | 1.000 | 0.700 | 0.695 | +0.305 |" in text
    with (tmp_path / "study.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [(line["split"], line["accuracy"]) for line in lines] == [
        ("test", "0.8"),
        ("test_clean", "0.7"),
    ]
    assert [line["accuracy_leaked"] for line in lines] == ["1.0", ""]


def test_classes_that_the_clean_part_lacks_cannot_be_matched(tmp_path):
    write_scores(tmp_path / "test", [[16, 4], [2, 8]])
    write_scores(tmp_path / "test_clean", [[10, 4], [0, 0]])
    values, _ = study_runs._measured(tmp_path / "test", tmp_path / "test_clean", guidance=False)
    assert values[study_runs.LEAKED] == pytest.approx(14 / 16)
    assert study_runs.CLEAN_MATCHED not in values
