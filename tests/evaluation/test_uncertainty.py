"""Temperature, prediction sets and the agreement of draws, on answers made up for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binom

from diffmic_jax.evaluation import uncertainty
from diffmic_jax.evaluation.metrics import compute
from diffmic_jax.evaluation.uncertainty import Calibration


def classifier(n: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 4] and labels that follow them, up to a sharpness that is 1 if honest."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return softmax(sharpness * logits, axis=1), np.minimum(labels, 3)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_calibration_undoes_what_was_done_to_the_logits(sharpness):
    probabilities, labels = classifier(4000, sharpness, 0)
    honest, _ = classifier(4000, 1.0, 0)
    tempered = uncertainty.tempered(uncertainty.fit(probabilities, labels), probabilities)
    assert np.abs(tempered - honest).mean() < 0.01
    assert sharpness == 1 or np.abs(probabilities - honest).mean() > 0.09


def test_calibration_halves_the_ece_of_overconfident_answers_and_keeps_the_prediction():
    fitted = uncertainty.fit(*classifier(2000, 3.0, 0))
    probabilities, labels = classifier(2000, 3.0, 1)
    before = compute(probabilities, labels, list("abcd"), bootstrap=0)
    after = uncertainty.assess(fitted, probabilities, labels)
    assert after["ece"] < before["ece"] / 2
    assert after["nll"] < before["nll"]
    tempered = uncertainty.tempered(fitted, probabilities)
    np.testing.assert_allclose(tempered.sum(axis=1), 1)
    np.testing.assert_array_equal(tempered.argmax(axis=1), probabilities.argmax(axis=1))


def test_what_knows_nothing_is_mixed_in_before_the_temperature():
    fitted = Calibration(0.5, 0.25, (), multi_label=False)
    mixed = np.array([(1 + 0.125) / 1.25, 0.125 / 1.25])
    tempered = uncertainty.tempered(fitted, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(tempered, [mixed**2 / (mixed**2).sum()])


def test_probabilities_that_were_cut_off_do_not_rule_the_temperature():
    """One label in fifty gets exactly 0; what is left is as honest as it was."""
    probabilities, labels = classifier(5000, 1.0, 0)
    cut = np.flatnonzero(np.arange(5000) % 50 == 0)
    probabilities[cut] = np.eye(4)[(labels[cut] + 1) % 4]
    fitted = uncertainty.fit(probabilities, labels)
    assert 0.01 < fitted.uniform < 1
    before = compute(probabilities, labels, list("abcd"), bootstrap=0)
    after = uncertainty.assess(fitted, probabilities, labels)
    assert after["nll"] < before["nll"] - 0.1
    assert after["brier"] <= before["brier"]


def test_temperature_of_several_labels_is_fitted_on_every_question():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(3000, 2))
    labels = (rng.random(logits.shape) < expit(logits)).astype(int)
    fitted = uncertainty.fit(expit(2 * logits), labels)
    assert fitted.temperature == pytest.approx(2, rel=0.06)
    assert fitted.scores == ()
    np.testing.assert_allclose(
        uncertainty.tempered(fitted, expit(2 * logits)), expit(logits), atol=0.03
    )
    assert uncertainty.assess(fitted, expit(2 * logits), labels)["conformal"] is None


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_prediction_sets_hold_the_label_as_often_as_promised(coverage):
    fitted = uncertainty.fit(*classifier(4000, 2.0, 0))
    found = uncertainty.assess(fitted, *classifier(4000, 2.0, 1), coverage)["conformal"]
    # Validation and test are random: twice the variance of either.
    assert found["coverage"] == pytest.approx(
        coverage, abs=3 * np.sqrt(2 * coverage * (1 - coverage) / 4000)
    )
    assert 1 < found["set_size"] < 4
    assert found["expected"] == pytest.approx(np.array(binom.interval(0.95, 4000, coverage)) / 4000)


def test_the_threshold_by_hand():
    fitted = Calibration(1.0, 0.0, (0.1, 0.2, 0.3, 0.4), False)
    # ceil(5 * .6) = 3; ceil(5 * .8) = 4; five images would be needed for more.
    assert [uncertainty.threshold(fitted, c) for c in (0.6, 0.8, 0.81)] == [0.3, 0.4, np.inf]
    probabilities = np.array([[0.75, 0.25], [0.6, 0.4], [0.9, 0.1]])
    np.testing.assert_array_equal(
        uncertainty.prediction_sets(fitted, probabilities, 0.6),
        [[True, False], [False, False], [True, False]],
    )
    assert uncertainty.prediction_sets(fitted, probabilities, 0.99).all()


def test_draws_vote_and_an_undecided_one_splits_its_vote():
    draws = np.array([[[0.6, 0.4], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8]]])
    np.testing.assert_allclose(uncertainty.vote_share(draws), [[1.5 / 4, 2.5 / 4]])
    np.testing.assert_allclose(uncertainty.vote_share(draws, True), [[2 / 4, 3 / 4]])


def test_the_interval_leaves_five_percent_of_the_draws_on_either_side():
    draws = np.linspace(0, 1, 101)[None, :, None]
    low, high = uncertainty.draw_interval(draws)
    np.testing.assert_allclose([low, high], [[[0.05]], [[0.95]]])


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.9], [0, 0, 1, 1], 0.25),
        ([0.4, 0.3, 0.2, 0.1], [0, 1, 0, 0], 0.25),
        ([0.1, 0.2], [1, 1], 0.1),
        ([0.7, 0.8], [0, 0], 0.5),
    ],
)
def test_a_label_is_predicted_from_where_f1_is_best(p, y, expected):
    assert uncertainty.best_threshold(np.array(p), np.array(y)) == pytest.approx(expected)


def test_thresholds_are_chosen_for_each_label_of_validation():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 2)) < (0.1, 0.5)).astype(int)
    p = np.clip(0.1 * labels + rng.normal((0.1, 0.6), 0.02, (400, 2)), 0, 1)
    fitted = uncertainty.fit(p, labels)
    np.testing.assert_allclose(fitted.thresholds, [0.15, 0.65], atol=0.02)
    assert uncertainty.fit(np.full((4, 2), 0.5), np.array([0, 1, 0, 1])).thresholds == ()
    at_half = compute(p, labels, ("a", "b"), bootstrap=0)
    chosen = compute(p, labels, ("a", "b"), bootstrap=0, thresholds=fitted.thresholds)
    assert chosen["f1_macro"] > 0.97 > 0.5 > at_half["f1_macro"]
    assert chosen["auroc_macro"] == at_half["auroc_macro"]
