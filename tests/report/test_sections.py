"""Sections of synthetic results; the whole page is in test_build."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diffmic_jax.evaluation import evaluate, results
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.inference.calibration import Calibration, Calibrations
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task
from diffmic_jax.report import figures, gallery, page, sections
from diffmic_jax.report.collect import Results, predicted, read_results

TASK = Task(class_names=("a<b>", "c"), multi_label=True)


@pytest.fixture
def multi_label(tmp_path) -> Results:
    """Results of 40 images with any of two labels, written and read back."""
    rng = np.random.default_rng(0)
    label = (rng.random((40, 2)) < 0.4).astype(int)
    samples = np.clip(0.5 * label[:, None] + 0.5 * rng.random((40, 3, 2)), 0, 1)
    p = samples.mean(axis=1)
    outputs = Outputs(p, samples.std(axis=1), p[::-1], label, samples, p)
    scores = evaluate.score(outputs, TASK, bootstrap=10)
    metrics = results.add_calibrated(scores, outputs, TASK, Calibrations())
    ids = [f"{i}.png" for i in range(40)]
    found = Evaluation(task=TASK, ids=ids, outputs=outputs, metrics=metrics)
    results.write(tmp_path / "eval/test", found)
    return read_results(tmp_path, "test")


def test_several_labels_per_image_have_their_curves_and_no_confusion(multi_label):
    text = sections.classes(multi_label)
    assert 'id="confusion"' not in text
    assert text.count("<svg") == 2
    assert "a&lt;b&gt;" in text and "<b>" not in text
    assert "Not calibrated" in sections.reliability(multi_label)
    assert "Only for images with one label" in sections.referral(multi_label)
    assert "has no training log" in sections.training(multi_label)


def test_without_diffusion_there_is_one_classifier(multi_label):
    alone = dataclasses.replace(multi_label, diffuses=False)
    for section in (sections.classes, sections.reliability):
        assert "guidance" in section(multi_label) and "diffusion" in section(multi_label)
        text = section(alone)
        assert "guidance" not in text and "diffusion" not in text
        assert text.count("<path") < section(multi_label).count("<path")


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


def test_a_row_of_a_stacked_table_keeps_its_titles():
    text = page.table(("", "a<b"), [("x", 1)], kind="stack")
    assert '<td data-title="a&lt;b">1</td>' in text
    assert "data-title" not in page.table(("a",), [(1,)])


def test_long_class_names_are_not_cut():
    long = "a very long name of a class " * 3
    states = np.zeros((3, 3, 2))
    assert "\u2026" in figures.trajectory("t", np.array([5, 1]), states, (long, "b"))
    assert long.split()[0] in figures.roc_and_pr(0, long, np.eye(4)[0], {"diffusion": np.eye(4)[1]})


def test_images_without_labels_are_shown_as_an_evaluation_shows_them():
    samples = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.0, 1.0]]])
    p = samples.mean(axis=1)
    outputs = Outputs(p, samples.std(axis=1), p, np.zeros(2, int), samples, p)
    task = Task(class_names=("x", "y"))
    fitted = Calibration(temperature=1.0, uniform=1e-7, scores=(0.1, 0.4), multi_label=False)
    found = predicted(["a", "b"], outputs, task, fitted, 0.5)
    assert found.label is None
    assert found.prediction == ["x", "y"]
    np.testing.assert_allclose(found.vote, [[0.75, 0.25], [0, 1]])
    np.testing.assert_allclose(found.low[0], [0.52, 0.12])
    # The 2nd smallest score, .4: a class is in the set from a probability of .6.
    assert found.sets == ["x", "y"]
    assert predicted(["a", "b"], outputs, task, None, 0.5).sets is None


def test_names_of_classes_are_text_in_figures_and_on_the_page():
    names = ["$x^$", "_x", "<script>", "a\r\nb", "\udce9", "=cmd", "a|b", '"', ".."]
    states = np.linspace(0, 1, 3 * 4 * len(names)).reshape(3, 4, len(names))
    svg = figures.trajectory("t", np.array([9, 5, 1]), states, names)
    assert "<script>" not in svg
    (svg + page.text("\udce9<b>")).encode()
    last = figures.trajectory("t", np.array([9, 5, 1]), states[..., :2], names[:2])
    assert "$x^$" in last and "_x" in last
    p = np.array([0.1, 0.5, 0.9])
    roc = figures.roc_and_pr(0, "$x^$", np.array([0, 1, 1]), {"diffusion": p, "guidance": p})
    assert "$x^$ (2 of 3)" in roc


def test_what_is_not_known_of_an_image_makes_no_error(multi_label):
    label, p = multi_label.label.copy(), multi_label.probabilities.copy()
    label[:3] = [[1, -1], [-1, 1], [0, -1]]
    p[:3] = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]
    found = dataclasses.replace(multi_label, label=label, probabilities=p)
    assert found.right[:3].all()
    assert not {0, 1, 2} & {*gallery.most_confident_mistakes(found).tolist()}


def test_errors_of_several_labels_are_by_the_thresholds_of_the_predictions(multi_label):
    label, p = multi_label.label.copy(), multi_label.probabilities.copy()
    label[:2], p[:2] = [[1, 0], [0, 0]], [[0.3, 0.1], [0.45, 0.1]]
    per_class = {name: {"threshold": 0.2} for name in TASK.class_names}
    scores = multi_label.scores | {"per_class": per_class}
    found = dataclasses.replace(multi_label, label=label, probabilities=p, scores=scores)
    assert found.thresholds == (0.2, 0.2)
    assert found.right[:2].tolist() == [True, False]
    assert found.right.sum() < len(label)
    # A file has its classes in the order of the alphabet.
    swapped = dataclasses.replace(TASK, class_names=("c", "a<b>"))
    own = {"a<b>": {"threshold": 0.7}, "c": {"threshold": 0.2}}
    scores = multi_label.scores | {"per_class": own}
    assert dataclasses.replace(found, task=swapped, scores=scores).thresholds == (0.2, 0.7)


def test_the_temperature_of_an_answer_and_one_on_top_of_it_are_told_apart(tmp_path):
    label = np.arange(60) % 2
    p = np.where(label[:, None] == np.arange(2), 0.8, 0.2)
    task = Task(class_names=("x", "y"))
    outputs = Outputs(p, 0 * p, p, label, p[:, None], p)
    fitted = Calibration(
        temperature=1.5, uniform=1e-7, scores=tuple(np.linspace(0, 1, 40)), multi_label=False
    )
    scores = evaluate.score(outputs, task, bootstrap=5)
    metrics = results.add_calibrated(scores, outputs, task, Calibrations(fitted, fitted))
    ids = [f"{i}.png" for i in range(60)]
    found = Evaluation(task=task, ids=ids, outputs=outputs, metrics=metrics)
    results.write(tmp_path / "eval/test", found)
    alone = read_results(tmp_path, "test")
    text = sections.reliability(alone)
    assert "The temperature 1.500 was fitted on the validation part" in text
    assert "95% of splits of these sizes" in text
    whole = dataclasses.replace(
        alone, tempering="temperature 1.2", held_out="on what the members hold out", careful=True
    )
    text = sections.reliability(whole)
    assert "The answer itself has a temperature 1.2, fitted on what the members hold out" in text
    assert "a second one of 1.500" in text
    assert "95% of splits" not in text
