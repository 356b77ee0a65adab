from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.data.cache import Examples
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.inference.load import Model, load
from diffmic_jax.report import cases
from tests import tiny


@pytest.fixture(scope="module")
def model(trained) -> Model:
    """The trained run."""
    return load(trained)


@pytest.fixture(scope="module")
def examples(model) -> Examples:
    """Its test images."""
    return open_dataset(model.config).examples["test"]


def test_a_case_ends_in_the_prediction_of_the_evaluation(model, examples, trained):
    stored = tiny.read_predictions(trained / "eval/test")
    explain = cases.make_explainer(model)
    for position in (2, 7):
        case = explain(cases.batch_of(examples, np.array([position])))
        mean = np.clip(case.states[1, -1], 0, 1)
        expected = stored[examples.records[position].id]
        np.testing.assert_allclose(mean / mean.sum(), expected, atol=1e-4)
        assert (case.states[0] <= case.states[2]).all()
        assert case.saliency.min() == 0 and case.saliency.max() == 1
        assert case.attention.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(case.image, examples.images(np.array([position]))[0])


def test_embeddings_are_of_every_image_and_step(model, examples):
    at = np.array([0, 2])
    both = cases.embeddings(model, examples, np.array([4, 1]), at)
    assert both.shape == (2, 2, 16)
    alone = cases.embeddings(model, examples, np.array([1]), at)
    np.testing.assert_allclose(both[:, 1], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(both[:, 0] - both[:, 1]).max() > 1e-3
    assert (both > 0).all()  # a softplus
