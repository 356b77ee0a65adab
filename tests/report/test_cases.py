from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.api import open_run
from diffmic_jax.report import cases
from diffmic_jax.training.state import Purpose
from tests import tiny


@pytest.fixture(scope="module")
def run(trained):
    """Recipe, variables, test images and key of the trained run."""
    found = open_run(trained)
    variables = found.best_state().variables()
    return found.recipe, variables, found.data.examples["test"], found.key(Purpose.SAMPLING)


def test_a_case_ends_in_the_answer_of_the_evaluation(run, trained):
    recipe, variables, examples, key = run
    stored = tiny.read_predictions(trained / "eval/test")
    look = cases.make_look(recipe)
    for position in (2, 7):
        case = look(variables, cases.batch_of(examples, np.array([position])), key)
        mean = np.clip(case.states[1, -1], 0, 1)
        expected = stored[examples.records[position].id]
        np.testing.assert_allclose(mean / mean.sum(), expected, atol=1e-4)
        assert (case.states[0] <= case.states[2]).all()
        assert case.saliency.min() == 0 and case.saliency.max() == 1
        assert case.attention.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(case.image, examples.images(np.array([position]))[0])


def test_embeddings_are_of_every_image_and_step(run):
    recipe, variables, examples, key = run
    args = (recipe, variables, examples)
    at = np.array([0, 2])
    both = cases.embeddings(*args, np.array([4, 1]), key, at)
    assert both.shape == (2, 2, 16)
    alone = cases.embeddings(*args, np.array([1]), key, at)
    np.testing.assert_allclose(both[:, 1], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(both[:, 0] - both[:, 1]).max() > 1e-3
    assert (both > 0).all()  # a softplus
