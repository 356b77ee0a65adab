"""The tables of predictions, read back, and the votes and intervals of the samples."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from diffmic_jax.inference.predictions import (
    Calibrated,
    Outputs,
    prediction_rows,
    printed,
    sample_interval,
    vote_share,
    write_predictions,
    write_uncertainty,
)
from diffmic_jax.method.task import Task

PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)
STD = np.array([[0.1, 0.2], [0.3, 0.4], [1 / 3, 0.0]])
OUTPUTS = Outputs(
    PROBABILITIES, STD, PROBABILITIES, np.array([1, 1, 0]), PROBABILITIES[:, None], STD
)
IDS = ["one.png", "two, with comma.png", "tri.png"]
LESIONS = Task(class_names=("mel", "nv"))
SEVERAL = Task(class_names=("a", "b"), multi_label=True)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions(tmp_path):
    path = tmp_path / "eval" / "test" / "predictions.csv"
    write_predictions(path, IDS, OUTPUTS, LESIONS)
    header = "id,label,prediction,prob_mel,prob_nv,confidence,entropy,sample_std\n"
    assert path.read_text().startswith(header)
    assert read(path)[1:] == [
        ["one.png", "nv", "nv", "0.25", "0.75", "0.75", "0.562335", "0.2"],
        ["two, with comma.png", "nv", "mel", "0.5", "0.5", "0.5", "0.693147", "0.3"],
        ["tri.png", "mel", "mel", "1", "0", "1", "0", "0.333333"],
    ]


def test_predictions_without_labels():
    header, (first, *_) = prediction_rows(IDS, None, LESIONS, PROBABILITIES, STD)
    assert header[:3] == ["id", "prediction", "prob_mel"]
    assert first == ["one.png", "nv", "0.25", "0.75", "0.75", "0.562335", "0.2"]


def test_a_label_can_have_a_threshold_of_its_own():
    p = np.array([[0.3, 0.6], [0.1, 0.2]])
    _, rows = prediction_rows(["x", "y"], None, SEVERAL, p, p, (0.2, 0.7))
    assert [row[1] for row in rows] == ["a", ""]


def test_several_labels_are_summarised_by_means_over_the_classes():
    p, std, label = np.array([[0.8, 0.5]]), np.array([[0.1, 0.3]]), np.array([[1, 1]])
    header, (row,) = prediction_rows(["x"], label, SEVERAL, p, std)
    assert header[1:3] == ["label", "prediction"]
    assert row[1:3] == ["a|b", "a|b"]
    entropy = (-0.8 * np.log(0.8) - 0.2 * np.log(0.2) + np.log(2)) / 2
    np.testing.assert_allclose(np.array(row[-3:], float), [0.65, entropy, 0.2], rtol=1e-5)


def test_samples_vote_and_an_undecided_one_splits_its_vote():
    samples = np.array([[[0.6, 0.4], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8]]])
    np.testing.assert_allclose(vote_share(samples, LESIONS), [[1.5 / 4, 2.5 / 4]])
    np.testing.assert_allclose(vote_share(samples, SEVERAL), [[2 / 4, 3 / 4]])


def test_the_interval_leaves_five_percent_of_the_samples_on_either_side():
    samples = np.linspace(0, 1, 101)[None, :, None]
    low, high = sample_interval(samples)
    np.testing.assert_allclose([low, high], [[[0.05]], [[0.95]]])


@pytest.mark.parametrize(
    ("calibrated", "columns"),
    [
        (None, {}),
        (
            Calibrated(np.array([[0.4, 0.6]]), None),
            {"calibrated_mel": "0.4", "calibrated_nv": "0.6"},
        ),
        (
            Calibrated(np.array([[0.4, 0.6]]), np.array([[True, True]])),
            {"set": "mel|nv", "calibrated_mel": "0.4", "calibrated_nv": "0.6"},
        ),
    ],
)
def test_uncertainty(tmp_path, calibrated, columns):
    samples = np.array([[[0.2, 0.8], [0.4, 0.6]]])
    p, guidance, label = samples.mean(axis=1), np.array([[0.125, 0.875]]), np.array([0])
    outputs = Outputs(p, 0 * p, guidance, label, samples, p)
    write_uncertainty(tmp_path / "new/u.csv", ["x"], outputs, LESIONS, calibrated)
    header, row = read(tmp_path / "new/u.csv")
    expected = {
        "id": "x",
        **columns,
        **{"vote_mel": "0", "vote_nv": "1", "low_mel": "0.21", "low_nv": "0.61"},
        **{"high_mel": "0.39", "high_nv": "0.79", "guidance_mel": "0.125", "guidance_nv": "0.875"},
    }
    assert header == list(expected)
    assert dict(zip(header, row, strict=True)) == expected


@pytest.mark.parametrize(
    ("extra", "lines"),
    [
        (
            False,
            [
                "image   prediction  probabilities",
                "a.png   red         red 0.700, blue 0.200",
                "bb.png  blue        blue 0.900, green 0.075",
            ],
        ),
        (
            True,
            [
                "image   prediction  in_distribution  probabilities",
                "a.png   red         yes              red 0.700, blue 0.200",
                "bb.png  blue        no               blue 0.900, green 0.075",
            ],
        ),
    ],
)
def test_a_table_to_read_has_the_most_probable_classes(extra, lines):
    header = ["id", "prediction", "prob_blue", "prob_green", "prob_red"]
    rows = [["a.png", "red", "0.2", "0.1", "0.7"], ["bb.png", "blue", "0.9", "0.075", "0.025"]]
    if extra:
        header, rows = [*header, "in_distribution"], [[*rows[0], "yes"], [*rows[1], "no"]]
    assert printed(header, rows, others=2).splitlines() == lines
