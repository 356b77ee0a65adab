"""Temperature, prediction sets, thresholds and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from diffmic_jax.config import Sampling
from diffmic_jax.errors import InputError
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import Calibration, Calibrations
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import UNKNOWN, Task
from tests.synthetic import classifier

FOUR = Task(class_names=("a", "b", "c", "d"))
DDIM = Sampling(sampler="ddim", clip=(0.0, 1.0))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_calibration_undoes_what_was_done_to_the_logits(sharpness):
    probabilities, labels = classifier(4000, sharpness, 0)
    calibrated, _ = classifier(4000, 1.0, 0)
    tempered = calibration.tempered(calibration.fit_one(probabilities, labels, FOUR), probabilities)
    assert np.abs(tempered - calibrated).mean() < 0.01
    assert sharpness == 1 or np.abs(probabilities - calibrated).mean() > 0.09


def test_the_uniform_distribution_is_mixed_in_before_the_temperature():
    fitted = Calibration(temperature=0.5, uniform=0.25, multi_label=False)
    mixed = np.array([(1 + 0.125) / 1.25, 0.125 / 1.25])
    tempered = calibration.tempered(fitted, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(tempered, [mixed**2 / (mixed**2).sum()])


def test_both_classifiers_are_calibrated_by_their_own_probabilities():
    (sharp, labels), (soft, _) = classifier(500, 3.0, 0), classifier(500, 0.3, 0)
    found = calibration.fit(Outputs(sharp, 0 * sharp, soft, labels, sharp[:, None], sharp), FOUR)
    assert found.diffusion == calibration.fit_one(sharp, labels, FOUR)
    assert found.guidance == calibration.fit_one(soft, labels, FOUR)
    assert found.diffusion.temperature > 1 > found.guidance.temperature


@pytest.mark.parametrize("count", [4, 8, 9])
def test_too_few_images_for_prediction_sets_are_told(count, caplog):
    p, labels = classifier(count, 1.0, 0)
    found = calibration.fit(Outputs(p, 0 * p, p, labels, p[:, None], p), FOUR)
    assert np.isfinite([found.diffusion.temperature, *found.diffusion.scores]).all()
    told = f"{count} validation images are too few for prediction sets of 90% coverage"
    assert (told in caplog.text) == (count < 9)


def test_the_threshold_by_hand():
    fitted = Calibration(
        temperature=1.0, uniform=0.0, scores=(0.1, 0.2, 0.3, 0.4), multi_label=False
    )
    # ceil(5 * .6) = 3; ceil(5 * .8) = 4; five images would be needed for more.
    assert [calibration.threshold(fitted, c) for c in (0.6, 0.8, 0.81)] == [0.3, 0.4, np.inf]
    probabilities = np.array([[0.75, 0.25], [0.6, 0.4], [0.9, 0.1]])
    np.testing.assert_array_equal(
        calibration.prediction_sets(fitted, probabilities, 0.6),
        [[True, False], [False, False], [True, False]],
    )
    assert calibration.prediction_sets(fitted, probabilities, 0.99).all()


def test_a_calibration_is_applied_or_there_is_none():
    p = np.array([[0.75, 0.25], [0.6, 0.4]])
    fitted = Calibration(temperature=2.0, uniform=0.1, scores=(0.3, 0.4), multi_label=False)
    found = calibration.apply(fitted, p, 0.5)
    np.testing.assert_array_equal(found.probabilities, calibration.tempered(fitted, p))
    np.testing.assert_array_equal(found.sets, calibration.prediction_sets(fitted, p, 0.5))
    several = dataclasses.replace(fitted, scores=(), multi_label=True)
    assert calibration.apply(several, p).sets is None
    assert calibration.apply(None, p) is None


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
    assert calibration.best_threshold(np.array(p), np.array(y)) == pytest.approx(expected)


@pytest.fixture
def both() -> Calibrations:
    """Calibrations of two classifiers."""
    one = Calibration(temperature=0.5, uniform=0.1, scores=(0.1, 0.2), multi_label=False)
    return Calibrations(one, dataclasses.replace(one, uniform=0.0))


def test_a_calibration_fits_one_checkpoint_and_one_sampling(tmp_path, both):
    assert calibration.read(tmp_path, 3, DDIM) == Calibrations()
    calibration.write(tmp_path, both, 3, DDIM)
    assert calibration.read(tmp_path, 3, DDIM) == both
    assert calibration.read(tmp_path, 4, DDIM) == Calibrations()
    other = calibration.read(tmp_path, 3, dataclasses.replace(DDIM, num_samples=7))
    # The guidance prediction is not sampled.
    assert other == Calibrations(None, both.guidance)
    # But it is averaged over mirrored copies as well.
    mirrored = dataclasses.replace(DDIM, flips="horizontal")
    assert calibration.read(tmp_path, 3, mirrored) == Calibrations()


@pytest.mark.parametrize(("coverage", "rank"), [(0.55, 55), (0.9, 90), (0.905, 91), (0.995, 100)])
def test_the_rank_is_the_smallest_that_covers(coverage, rank):
    assert calibration.rank_of(99, coverage) == rank


def test_thresholds_are_read_back(tmp_path):
    one = Calibration(temperature=1.0, uniform=0.0, multi_label=True, thresholds=(0.2, 0.7))
    both = Calibrations(one, dataclasses.replace(one, thresholds=(0.5, 0.1)))
    calibration.write(tmp_path, both, 3, DDIM)
    found = calibration.read(tmp_path, 3, DDIM)
    assert found.thresholds == ((0.2, 0.7), (0.5, 0.1))
    assert Calibrations(one).thresholds == ((0.2, 0.7), ())


SINGLE = Task(class_names=("a", "b"))
TOGETHER = Task(class_names=("a", "b"), multi_label=True)


def drawn_together(count: int, seed: int) -> Outputs:
    """Images with both classes or none, and samples that know it; their mean does not."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 2, (count, 1)), 2, axis=1)
    samples = np.repeat(rng.integers(0, 2, (count, 32, 1)), 2, axis=2).astype(float)
    half = np.full((count, 2), 0.5)
    return Outputs(half, half, half, labels, samples, half)


def test_samples_that_draw_labels_together_are_scored_together():
    fitted = calibration.fit(drawn_together(400, 0), TOGETHER)
    assert fitted.diffusion is not None and fitted.guidance is not None
    test = drawn_together(400, 1)
    rest = test.samples, test.label
    joint = calibration.joint_log_likelihood(fitted.diffusion, test.probabilities, *rest)
    rest = test.guidance[:, None], test.label
    alone = calibration.joint_log_likelihood(fitted.guidance, test.guidance, *rest)
    # One question of two equally likely answers, not two.
    np.testing.assert_allclose(-joint.mean(), np.log(2), atol=0.05)
    np.testing.assert_allclose(-alone.mean(), 2 * np.log(2), atol=0.01)
    assert fitted.diffusion.joint < 0.1 and fitted.diffusion.drawn > 0.9


def test_without_samples_that_tell_more_labels_are_independent_and_calibrated():
    """Too certain by a factor of two in all labels; its samples are two of its own kind."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2000, 6))
    labels = (rng.random((2000, 6)) < expit(logits)).astype(int)
    task = Task(class_names=tuple("abcdef"), multi_label=True)
    sure = expit(2 * logits)
    samples = np.stack([expit(2 * logits + d) for d in (0.3, -0.3)], axis=1)
    fitted = calibration.fit(Outputs(sure, sure, sure, labels, samples, sure), task).diffusion
    assert fitted is not None and fitted.temperature == pytest.approx(2, abs=0.15)
    p = calibration.tempered(fitted, sure)
    of_labels = -np.log(np.where(labels == 1, p, 1 - p)).sum(axis=1).mean()
    joint = -calibration.joint_log_likelihood(fitted, sure, samples, labels).mean()
    assert of_labels - 0.02 < joint <= of_labels + 1e-3
    raw = -np.log(np.where(labels == 1, sure, 1 - sure)).sum(axis=1).mean()
    assert joint < raw - 0.1


def test_samples_that_know_nothing_have_the_weight_of_the_prevalence():
    """Wrong in every image, they would have a probability of 0."""
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 2)) < [0.1, 0.3]).astype(int)
    wrong = np.repeat(1.0 - labels[:, None], 4, axis=1)
    outputs = Outputs(wrong[:, 0], wrong[:, 0], wrong[:, 0], labels, wrong, wrong[:, 0])
    fitted = calibration.fit(outputs, TOGETHER).diffusion
    assert fitted is not None and fitted.joint > 10
    np.testing.assert_allclose(fitted.prevalence, labels.mean(axis=0))
    q = (wrong[0, 0] + fitted.joint * labels.mean(axis=0)) / (1 + fitted.joint)
    expected = np.log(np.where(labels[0] == 1, q, 1 - q)).sum()
    found = calibration.joint_log_likelihood(fitted, wrong[:1, 0], wrong[:1], labels[:1])
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_unknown_labels_count_for_nothing_in_what_is_asked_together():
    known = drawn_together(200, 0)
    fitted = calibration.fit(known, TOGETHER).diffusion
    assert fitted is not None
    labels = known.label.copy()
    labels[::2, 1] = UNKNOWN
    half = calibration.fit(known._replace(label=labels), TOGETHER).diffusion
    assert half is not None
    of_first, of_second = labels[:, 0].mean(), known.label[1::2, 1].mean()
    np.testing.assert_allclose(half.prevalence, (of_first, of_second))
    samples, label = known.samples[:1], labels[:1]
    alone = dataclasses.replace(fitted, prevalence=fitted.prevalence[:1])
    found = calibration.joint_log_likelihood(fitted, samples[:, 0], samples, label)
    expected = calibration.joint_log_likelihood(
        alone, samples[:, 0, :1], samples[..., :1], label[:, :1]
    )
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 3}'])
def test_a_damaged_calibration_is_named(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="calibration.json: (damaged|not JSON|holds a)"):
        calibration.read(tmp_path, 3, DDIM)


@pytest.mark.parametrize(
    "change",
    [
        *({"temperature": x} for x in ("1", None, 0, -1, [], True, float("nan"))),
        *({"scores": x} for x in ("0.5", [None], [[0.5]], 3, [float("inf")])),
        *({"uniform": -1}, {"multi_label": 0}, {"thresholds": [""]}, {"another": 1}),
    ],
)
def test_a_calibration_holds_numbers(tmp_path, change):
    single = Calibration(temperature=2.0, uniform=0.1, scores=(0.2,), multi_label=False)
    calibration.write(tmp_path, Calibrations(single, single), 3, DDIM)
    assert calibration.read(tmp_path, 3, DDIM) == Calibrations(single, single)
    path = tmp_path / "calibration.json"
    stored = json.loads(path.read_text())
    stored["diffusion"] |= change
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="calibration.json: damaged"):
        calibration.read(tmp_path, 3, DDIM)


def test_a_calibration_of_other_classes_is_refused(tmp_path):
    facts = {"temperature": 1.0, "uniform": 0.0}
    single = Calibration(**facts, multi_label=False)
    three = Calibration(**facts, multi_label=True, thresholds=(0.5,) * 3)
    assert calibration.check(Calibrations(None, single), SINGLE, tmp_path).guidance is single
    # A file of before there was more to it.
    assert calibration.of_json({**facts, "multi_label": False}) == single
    for found, task in ((single, TOGETHER), (three, TOGETHER), (three, SINGLE)):
        with pytest.raises(InputError, match="is of other classes"):
            calibration.check(Calibrations(found, None), task, tmp_path)


def test_the_uniform_distribution_leaves_probabilities():
    p = np.array([[0.7, 0.2, 0.1]])
    mixed = np.exp(calibration._logits(p, 0.5, False))
    np.testing.assert_allclose(mixed, (p + 0.5 / 3) / 1.5)
    several = calibration._logits(p, 0.5, True)
    np.testing.assert_allclose(1 / (1 + np.exp(-several)), (p + 0.25) / 1.5)
    certain = np.array([[1.0, 0.0]])
    assert all(np.isfinite(calibration._logits(certain, 0.0, kind)).all() for kind in (True, False))
