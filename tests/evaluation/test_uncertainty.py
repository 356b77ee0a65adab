"""What calibration changes on another split, with predictions made up for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from diffmic_jax.evaluation.metrics import compute
from diffmic_jax.evaluation.uncertainty import assess
from diffmic_jax.inference import calibration
from diffmic_jax.method.task import Task
from tests.synthetic import classifier

FOUR = Task(class_names=("a", "b", "c", "d"))
SEVERAL = Task(class_names=("a", "b"), multi_label=True)
TWO = Task(class_names=("a", "b"))


def test_without_a_calibration_there_is_nothing_to_assess():
    assert assess(None, *classifier(5, 1.0, 0), FOUR) is None


def test_calibration_halves_the_ece_of_overconfident_predictions_and_keeps_the_prediction():
    fitted = calibration.fit_one(*classifier(2000, 3.0, 0), FOUR)
    probabilities, labels = classifier(2000, 3.0, 1)
    before = compute(probabilities, labels, FOUR, bootstrap=0)
    after = assess(fitted, probabilities, labels, FOUR)
    assert after["ece"] < before["ece"] / 2
    assert after["nll"] < before["nll"]
    tempered = calibration.tempered(fitted, probabilities)
    np.testing.assert_allclose(tempered.sum(axis=1), 1)
    np.testing.assert_array_equal(tempered.argmax(axis=1), probabilities.argmax(axis=1))


def test_probabilities_that_were_clipped_do_not_dominate_the_temperature():
    """One label in fifty gets exactly 0; the rest stays calibrated."""
    probabilities, labels = classifier(5000, 1.0, 0)
    clipped = np.flatnonzero(np.arange(5000) % 50 == 0)
    probabilities[clipped] = np.eye(4)[(labels[clipped] + 1) % 4]
    fitted = calibration.fit_one(probabilities, labels, FOUR)
    assert 0.01 < fitted.uniform < 1
    before = compute(probabilities, labels, FOUR, bootstrap=0)
    after = assess(fitted, probabilities, labels, FOUR)
    assert after["nll"] < before["nll"] - 0.1
    assert after["brier"] <= before["brier"]


def test_temperature_of_several_labels_is_fitted_on_every_question():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(3000, 2))
    labels = (rng.random(logits.shape) < expit(logits)).astype(int)
    fitted = calibration.fit_one(expit(2 * logits), labels, SEVERAL)
    assert fitted.temperature == pytest.approx(2, rel=0.06)
    assert fitted.scores == ()
    np.testing.assert_allclose(
        calibration.tempered(fitted, expit(2 * logits)), expit(logits), atol=0.03
    )
    assert assess(fitted, expit(2 * logits), labels, SEVERAL)["conformal"] is None


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_prediction_sets_contain_the_label_as_often_as_asked(coverage):
    fitted = calibration.fit_one(*classifier(4000, 2.0, 0), FOUR)
    found = assess(fitted, *classifier(4000, 2.0, 1), FOUR, coverage)["conformal"]
    # Validation and test are random: twice the variance of either.
    assert found["coverage"] == pytest.approx(
        coverage, abs=3 * np.sqrt(2 * coverage * (1 - coverage) / 4000)
    )
    assert 1 < found["set_size"] < 4


@pytest.mark.parametrize("count", [40, 200])
def test_the_coverage_is_where_it_is_expected_in_95_percent_of_splits(count):
    rng = np.random.default_rng(count)
    label, inside = np.zeros(150, int), []
    for _ in range(300):
        scores, own = np.sort(rng.random(count)), rng.random(150)
        fitted = calibration.Calibration(
            temperature=1.0, uniform=0.0, scores=tuple(scores), multi_label=False
        )
        p = np.stack([1 - own, own], axis=1)
        found = assess(fitted, p, label, TWO)["conformal"]
        low, high = found["expected"]
        inside.append(low <= found["coverage"] <= high)
    assert 0.92 <= np.mean(inside) <= 0.99
    # Of too few images every set has all classes.
    few = calibration.Calibration(temperature=1.0, uniform=0.0, scores=(0.5,), multi_label=False)
    assert assess(few, p, label, TWO)["conformal"]["expected"] == [1, 1]


def test_thresholds_are_chosen_for_each_label_of_validation():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 2)) < (0.1, 0.5)).astype(int)
    p = np.clip(0.1 * labels + rng.normal((0.1, 0.6), 0.02, (400, 2)), 0, 1)
    fitted = calibration.fit_one(p, labels, SEVERAL)
    np.testing.assert_allclose(fitted.thresholds, [0.15, 0.65], atol=0.02)
    single = calibration.fit_one(np.full((4, 2), 0.5), np.array([0, 1, 0, 1]), TWO)
    assert single.thresholds == ()
    at_half = compute(p, labels, SEVERAL, bootstrap=0)
    chosen = compute(p, labels, SEVERAL, bootstrap=0, thresholds=fitted.thresholds)
    assert chosen["f1_macro"] > 0.97 > 0.5 > at_half["f1_macro"]
    assert chosen["auroc_macro"] == at_half["auroc_macro"]
