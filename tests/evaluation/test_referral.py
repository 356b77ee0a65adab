from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.evaluation.referral import referral, referral_curve


def test_the_curve_by_hand():
    share, accuracy = referral_curve(
        np.array([0.1, 0.9, 0.5, 0.2]), np.array([True, False, False, True])
    )
    np.testing.assert_allclose(share, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(accuracy, [2 / 4, 2 / 3, 1, 1])


def test_referring_the_uncertain_helps_where_they_are_the_errors():
    # 80 certain and correct, 20 uncertain and wrong every other time.
    probabilities = np.repeat([[0.95, 0.05], [0.55, 0.45]], [80, 20], axis=0)
    labels = np.r_[np.zeros(80, int), np.arange(20) % 2]
    found = referral(probabilities, labels, groups=np.arange(100), bootstrap=200)
    assert (found["errors"], found["errors_referred"]) == (10, 10)
    assert found["accuracy_kept"] == 1.0
    assert found["gain"] == pytest.approx(0.1)
    low, high = found["gain_ci95"]
    assert 0 < low < 0.1 < high < 0.2
    # An error is less certain than 80 of the 90 correct predictions and as certain as 10 of them.
    assert found["error_auroc"] == pytest.approx((80 + 5) / 90)


def test_without_an_error_nothing_can_be_found():
    found = referral(np.eye(2), np.array([0, 1]), groups=np.arange(2), bootstrap=0)
    assert found["error_auroc"] is None
    assert found["gain_ci95"] is None
    assert found["gain"] == 0
