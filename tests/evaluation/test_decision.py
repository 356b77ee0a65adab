"""Net benefit against counts by hand and its identities."""

from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.evaluation import decision
from diffmic_jax.evaluation.metrics import compute
from diffmic_jax.method.task import Task

P = np.array([0.9, 0.6, 0.3, 0.2, 0.1])
ACTUAL = np.array([1, 0, 1, 0, 0])


def test_net_benefit_counts_found_images_less_alarms_at_the_odds():
    found = decision.net_benefit(P, ACTUAL, np.array([0.2, 0.25, 0.5, 0.95]))
    # Acted on: 4 images of which 2 are right, at odds 1/4; 3 at 1/3; 2 at 1; none.
    expected = [2 / 5 - 2 / 5 / 4, 2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_acting_on_all_is_worth_nothing_at_the_prevalence():
    found = decision.net_benefit(np.ones(5), ACTUAL, np.array([0.1, 0.4, 0.6]))
    np.testing.assert_allclose(found, [0.4 - 0.6 / 9, 0, 0.4 - 0.6 * 1.5], atol=1e-12)


def test_the_metrics_have_it_of_each_class_at_five_thresholds():
    probabilities = np.stack([P, 1 - P], axis=1)
    found = compute(probabilities, 1 - ACTUAL, Task(class_names=("ill", "well")), bootstrap=0)
    assert list(found["net_benefit"]) == ["ill", "well"]
    own = found["net_benefit"]["ill"]
    assert list(own) == ["0.05", "0.10", "0.20", "0.30", "0.50"]
    assert own["0.20"] == pytest.approx({"model": 0.3, "all": 2 / 5 - 3 / 5 / 4})


def test_what_is_not_known_does_not_count():
    task = Task(class_names=("a", "b"), multi_label=True)
    labels = np.array([[1, -1], [0, -1], [-1, -1]])
    found = compute(np.full((3, 2), 0.7), labels, task, bootstrap=0)["net_benefit"]
    assert found["b"] is None
    assert found["a"]["0.50"] == pytest.approx({"model": 0, "all": 0})
    assert found["a"]["0.10"]["model"] == pytest.approx(0.5 - 0.5 / 9)
