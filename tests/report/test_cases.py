from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data.cache import Examples
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.inference.load import Model, load
from diffmic_jax.report import cases, gallery
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


def one_case(steps: int, samples: int) -> cases.Case:
    return cases.Case(
        image=np.zeros((8, 8, 3), np.uint8),
        saliency=np.array([[0.0, 1.0], [0.5, 0.2]]),
        corners=np.array([[2, 4]]),
        attention=np.array([1.0]),
        states=np.zeros((3, steps + 1, 2)),
        region_size=4,
        timesteps=np.arange(steps)[::-1],
        samples=samples,
    )


def test_one_step_has_no_path_and_few_samples_no_range():
    case = one_case(1, 4)
    assert not case.has_path and not case.has_spread
    assert one_case(3, 20).has_path and one_case(3, 20).has_spread
    assert not one_case(0, 20).has_spread  # no diffusion


def test_regions_lie_on_the_original_where_the_network_saw_them():
    original = cases.Original.of(np.zeros((100, 200, 3), np.uint8))
    assert original.square == (50, 0, 100)
    text = gallery.with_regions(one_case(1, 1), original)
    assert 'x="100.0" y="25.0" width="50.0"' in text
    assert 'class="square" x="50" y="0" width="100" height="100"' in text
    assert 'width="200" height="100"' in text
    assert 'x="50" y="0" width="100"' in gallery.heat_map(one_case(1, 1), original)
    large = cases.Original.of(np.zeros((900, 1800, 3), np.uint8))
    assert large.pixels.shape == (320, 640, 3)


def test_the_saliency_is_as_coarse_as_it_is():
    original = cases.Original.of(np.zeros((100, 100, 3), np.uint8))
    text = gallery.heat_map(one_case(1, 1), original)
    data = re.search(r"base64,([^\"]+)", text)[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2, 2)
