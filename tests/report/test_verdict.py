"""Sentences about synthetic results."""

from __future__ import annotations

import dataclasses

import numpy as np

from diffmic_jax.evaluation import compare, evaluate, results
from diffmic_jax.evaluation.results import Evaluation
from diffmic_jax.inference.calibration import Calibrations
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task
from diffmic_jax.report.collect import Results, read_results
from diffmic_jax.report.verdict import verdict

TASK = Task(class_names=("well", "ill"))
N = 100
LABEL = np.arange(N) % 2


def probabilities(wrong: int, sure: float) -> np.ndarray:
    """[N, 2] of which the first `wrong` are, all as sure as that."""
    right = np.arange(N) >= wrong
    p = np.where(right, sure, 1 - sure)
    return np.stack([np.where(LABEL == 0, p, 1 - p), np.where(LABEL == 1, p, 1 - p)], axis=1)


def made(folder, own: np.ndarray, guidance: np.ndarray) -> Results:
    outputs = Outputs(own, np.zeros_like(own), guidance, LABEL, own[:, None], own)
    scores = evaluate.score(outputs, TASK, bootstrap=50)
    metrics = results.add_calibrated(scores, outputs, TASK, Calibrations())
    ids = [f"{i}.png" for i in range(N)]
    found = Evaluation(task=TASK, ids=ids, outputs=outputs, metrics=metrics)
    results.write(folder / "eval/test", found)
    return read_results(folder, "test", 50)


def baselines(right: int) -> dict:
    """Trees that are right in the first images, and a largest class that is in half."""
    names = [TASK.class_names[c if i < right else 1 - c] for i, c in enumerate(LABEL)]
    rows = {f"{i}.png": name for i, name in enumerate(names)}
    half = dict.fromkeys(rows, "well")
    return {
        "majority": {"predictions": half},
        "metadata": None,
        "pixels": {"predictions": rows, "auroc_macro": 0.7},
    }


def told(found: Results, guidance: np.ndarray, shortcuts: dict) -> str:
    both = (guidance, found.probabilities)
    compared = compare.compare(both, LABEL, TASK, np.arange(N), 50)
    return verdict(found, compared, shortcuts, np.arange(N))


def test_what_is_better_is_called_better(tmp_path):
    worse = probabilities(40, 0.9)
    text = told(made(tmp_path, probabilities(10, 0.9), worse), worse, baselines(60))
    assert text.startswith(
        '<div class="verdict"><p><b>The diffusion is right in 90.0% of 100 images (95% interval '
    )
    assert "It is better than the guidance alone (the network that gives a first" in text
    assert "refines): +30.0 points (+" in text
    assert (
        "better than the best shortcut, extremely randomised trees on 32 x 32 pixels (60.0%)"
        in text
    )
    assert "Its probabilities can be believed on average: it is 90.0% sure and 90.0% right." in text


def test_what_is_worse_or_the_same_is_called_so(tmp_path):
    better = probabilities(0, 0.9)
    text = told(made(tmp_path, probabilities(30, 0.99), better), better, baselines(75))
    assert "It is worse than the guidance alone" in text
    assert "not clearly better or worse than the best shortcut" in text
    assert "Its probabilities are too high: it is 99.0% sure and 70.0% right." in text
    assert "too low" in told(made(tmp_path, probabilities(0, 0.6), better), better, baselines(9))


def test_a_model_that_only_names_the_largest_class_is_found_out(tmp_path):
    own = np.tile([0.8, 0.2], (N, 1))
    text = told(made(tmp_path, own, own), own, baselines(30))
    assert "right as often as the best shortcut, always the commonest class (50.0%), in" in text


def test_probabilities_within_the_interval_may_still_be_off(tmp_path):
    own = probabilities(25, 0.81)
    assert "are perhaps too high: it is 81.0% sure and 75.0%" in told(
        made(tmp_path, own, own), own, baselines(30)
    )


def test_the_best_shortcut_may_be_the_largest_class(tmp_path):
    own = probabilities(10, 0.9)
    found = dataclasses.replace(made(tmp_path, own, own), diffuses=False)
    text = told(found, own, baselines(30))
    assert "always the commonest class (50.0%)" in text
    assert "The classifier is right" in text and "guidance" not in text


def test_a_baseline_of_other_images_is_left_out(tmp_path):
    own = probabilities(10, 0.9)
    found = made(tmp_path, own, own)
    found = dataclasses.replace(found, ids=[*found.ids[:-1], "other.png"])
    assert "shortcut" not in told(found, own, baselines(30))


def test_several_labels_are_told_by_their_auroc(tmp_path):
    own = probabilities(10, 0.9)
    task = Task(class_names=("a", "b"), multi_label=True)
    label = np.eye(2, dtype=int)[LABEL]
    outputs = Outputs(own, np.zeros_like(own), own, label, own[:, None], own)
    scores = evaluate.score(outputs, task, bootstrap=20) | {"calibrated": None}
    found = dataclasses.replace(made(tmp_path, own, own), task=task, label=label, scores=scores)
    compared = compare.compare((own, own), label, task, np.arange(N), 20)
    text = verdict(found, compared, baselines(30), np.arange(N))
    assert "has a mean AUROC of" in text and "32 x 32 pixels have 70.0%" in text
    assert "calibration error 0.0" in text


def test_leaks_are_told_in_the_verdict(tmp_path):
    found = made(tmp_path, probabilities(10, 0.9), probabilities(10, 0.9))
    both = (found.guidance, found.probabilities)
    compared = compare.compare(both, LABEL, TASK, np.arange(N), 50)
    text = verdict(found, compared, baselines(60), np.arange(N), leaked=30)
    assert "30 of these images show a lesion or patient that is in training or validation" in text
    assert "lesion" not in verdict(found, compared, baselines(60), np.arange(N))


def test_without_resamples_there_is_a_verdict_without_intervals(tmp_path):
    guidance = probabilities(40, 0.9)
    found = dataclasses.replace(made(tmp_path, probabilities(10, 0.9), guidance), resamples=0)
    compared = compare.compare((guidance, found.probabilities), LABEL, TASK, np.arange(N), 0)
    assert compared["metrics"]["accuracy"]["ci95"] is None
    assert "second" in compare.table(compared, ("a", "b"))
    assert "The diffusion is right in" in verdict(found, compared, baselines(60), np.arange(N))


def test_an_average_is_called_one(tmp_path):
    found = made(tmp_path, probabilities(10, 0.9), probabilities(20, 0.9))
    mixed = dataclasses.replace(found, who="average")
    assert "The average is right in" in told(mixed, found.guidance, baselines(60))
