"""Sections from answers made up for the purpose; the whole page is in test_build."""

from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.evaluation import evaluate, results
from diffmic_jax.inference import calibration
from diffmic_jax.report import figures, gallery, page, sections
from diffmic_jax.report.collect import Results, read_results

NAMES = ("a<b>", "c")


@pytest.fixture
def multi_label(tmp_path) -> Results:
    """Results of 40 images with any of two labels, written and read back."""
    rng = np.random.default_rng(0)
    label = (rng.random((40, 2)) < 0.4).astype(int)
    draws = np.clip(0.5 * label[:, None] + 0.5 * rng.random((40, 3, 2)), 0, 1)
    p = draws.mean(axis=1)
    answers = evaluate.Answers(p, draws.std(axis=1), p[::-1], label, draws)
    scores = evaluate.score(answers, NAMES, bootstrap=10)
    none = calibration.Calibrations()
    results.add_calibrated(scores, answers, none, 0.9)
    ids = [f"{i}.png" for i in range(40)]
    results.write(tmp_path / "eval/test", scores, answers, ids, NAMES, none, 0.9)
    return read_results(tmp_path, "test")


def test_several_labels_per_image_have_their_curves_and_no_confusion(multi_label):
    text = sections.classes(multi_label)
    assert 'id="confusion"' not in text
    assert text.count("<svg") == 2
    assert "a&lt;b&gt;" in text and "<b>" not in text
    assert "Not calibrated" in sections.reliability(multi_label)
    assert "Only for images with one label" in sections.referral(multi_label)
    assert "has no log" in sections.training(multi_label)


def test_mistakes_and_cases_of_several_labels(multi_label):
    wrong = np.abs(multi_label.probabilities - multi_label.label).max(axis=1)
    found = gallery.most_confident_mistakes(multi_label)
    assert (wrong[found] > 0.5).all()
    assert (np.diff(wrong[found]) <= 0).all()
    first = gallery.first_of_each_class(multi_label)
    assert first[0] == np.flatnonzero(multi_label.label[:, 0])[0]
    assert len(first) == len(set(first.tolist()))


def test_bins_are_open_below_and_closed_above():
    third = 5 / 15
    share, mean, hits = figures.bins(np.array([third, third + 1e-9, 1.0]), np.array([1, 0, 1])).T
    assert [*np.flatnonzero(share)] == [4, 5, 14]
    np.testing.assert_allclose(mean[[4, 5, 14]], [third, third, 1])
    np.testing.assert_allclose(hits[[4, 5, 14]], [1, 0, 1])


def test_what_is_undefined_is_a_dash():
    assert page.with_interval(None, None) == "-"
    assert page.with_interval(0.25, None) == "0.250"
    assert page.with_interval(0.25, [0.1, 0.4]) == "0.250 <small>(0.100 to 0.400)</small>"
