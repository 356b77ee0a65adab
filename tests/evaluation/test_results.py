"""The files of an evaluation, read back."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffmic_jax.evaluation import evaluate, results
from diffmic_jax.evaluation.uncertainty import assess
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task
from tests.synthetic import classifier

FOUR = Task(class_names=("a", "b", "c", "d"))
IDS = [f"{i}.png" for i in range(50)]


@pytest.fixture
def outputs() -> Outputs:
    """An overconfident classifier with an underconfident guidance."""
    (p, label), (guidance, _) = classifier(50, 3.0, 0), classifier(50, 0.3, 0)
    return Outputs(p, 0 * p, guidance, label, p[:, None], p)


def test_each_classifier_has_the_effect_of_its_own_calibration(outputs):
    fitted, scores = calibration.fit(outputs, FOUR), evaluate.score(outputs, FOUR)
    found = results.add_calibrated(scores, outputs, FOUR, fitted, 0.8)
    expected = assess(fitted.diffusion, outputs.probabilities, outputs.label, FOUR, 0.8)
    alone = assess(fitted.guidance, outputs.guidance, outputs.label, FOUR, 0.8)
    assert found["calibrated"] == expected
    assert found["guidance"] == scores["guidance"] | {"calibrated": alone}
    none = results.add_calibrated(scores, outputs, FOUR, Calibrations())
    assert none["calibrated"] is none["guidance"]["calibrated"] is None


def test_the_files_of_an_evaluation(tmp_path, outputs):
    fitted, scores = calibration.fit(outputs, FOUR), evaluate.score(outputs, FOUR)
    evaluation = results.Evaluation(
        task=FOUR, ids=IDS, outputs=outputs, metrics=scores, calibrations=fitted, coverage=0.5
    )
    results.write(tmp_path, evaluation)
    assert json.loads((tmp_path / "metrics.json").read_text()) == scores
    tables = {}
    for name in ("predictions", "uncertainty"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
        assert [row["id"] for row in tables[name]] == IDS
    assert [row["label"] for row in tables["predictions"]] == [
        FOUR.class_names[i] for i in outputs.label
    ]
    sets = calibration.prediction_sets(fitted.diffusion, outputs.probabilities, 0.5)
    assert [row["set"] for row in tables["uncertainty"]] == [FOUR.names_of(row) for row in sets]
    assert {len(row["set"]) for row in tables["uncertainty"]} > {1}
    np.testing.assert_allclose(
        [float(row["guidance_b"]) for row in tables["uncertainty"]],
        outputs.guidance[:, 1],
        rtol=1e-5,
    )
