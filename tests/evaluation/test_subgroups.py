"""Metrics by what is known of the images, and of cases with several images."""

from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.metrics import compute
from diffmic_jax.evaluation.subgroups import by_attribute, per_case, table
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task

TASK = Task(class_names=("x", "y"), ordered=False)


def outputs_of(probabilities: np.ndarray, label: np.ndarray) -> Outputs:
    samples = probabilities[:, None]
    features = np.zeros((len(label), 2))
    return Outputs(probabilities, 0 * probabilities, probabilities, label, samples, features)


@pytest.fixture
def outputs() -> Outputs:
    """80 images; those of even number are told apart, the others are not."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 80)
    certain = np.where(np.arange(80) % 2 == 0, 0.8, 0.0) * (label - 0.5) + 0.5
    noisy = np.clip(certain + rng.normal(0, 0.1, 80), 0.01, 0.99)
    return outputs_of(np.stack([1 - noisy, noisy], axis=1), label)


def test_each_group_has_the_metrics_of_its_images(outputs):
    site = ["clinic" if i % 2 == 0 else "home" for i in range(80)]
    found = by_attribute(outputs, TASK, {"site": site}, groups=np.arange(80), bootstrap=50)
    groups, worst = found["site"]["groups"], found["site"]["worst"]
    inside = np.arange(80) % 2 == 1
    alone = compute(outputs.probabilities[inside], outputs.label[inside], TASK, bootstrap=50)
    for name in ("n", "accuracy", "auroc_macro", "nll"):
        assert groups["home"][name] == alone[name]
    assert groups["home"]["ci95"] == alone["ci95"]
    assert worst["value"], worst["best"] == ("home", "clinic")
    gap = groups["clinic"]["auroc_macro"] - groups["home"]["auroc_macro"]
    assert worst["below_best"] == pytest.approx(gap)
    shown = table(found)
    assert f"worst by site: home, auroc_macro {gap:.4f} below that of clinic" in shown


def test_a_group_of_a_few_images_is_shown_and_not_called_the_worst(outputs):
    site = ["a"] * 5 + ["b"] * 40 + ["c"] * 35
    found = by_attribute(outputs, TASK, {"site": site}, groups=np.arange(80), bootstrap=5)["site"]
    assert [part["n"] for part in found["groups"].values()] == [5, 40, 35]
    assert found["worst"]["value"] in "bc"
    one = by_attribute(outputs, TASK, {"site": ["a"] * 80}, groups=np.arange(80), bootstrap=5)
    assert one["site"]["worst"] is None


def test_a_case_has_the_mean_of_its_images():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    outputs = outputs_of(probabilities, np.array([0, 1, 0]))
    found = per_case(outputs, TASK, np.array(["p2", "p1", "p2"]))
    np.testing.assert_allclose(found.probabilities, [[0.2, 0.8], [0.65, 0.35]])
    np.testing.assert_array_equal(found.label, [1, 0])
    assert found.samples.shape == (2, 1, 2)
    with pytest.raises(InputError, match="images of case p have different labels"):
        per_case(outputs, TASK, np.array(["p", "p", "q"]))


def test_groups_are_ranked_by_the_classes_that_all_of_them_have():
    three = Task(class_names=("a", "b", "c"))
    rng = np.random.default_rng(0)
    label = np.concatenate([np.arange(60) % 3, np.arange(60) % 2])
    p = np.eye(3)[label] + 0.8 * rng.random((120, 3))
    p[:60, 2] = rng.random(60)  # the first site's worst class, which the second does not have
    p /= p.sum(axis=1, keepdims=True)
    site = ["first"] * 60 + ["second"] * 60
    found = by_attribute(
        outputs_of(p, label), three, {"site": site}, groups=np.arange(120), bootstrap=5
    )["site"]
    groups, worst = found["groups"], found["worst"]
    assert [groups[name]["classes_in_mean"]["auroc_macro"] for name in groups] == [3, 2]
    assert worst["classes"] == ["a", "b"]
    parts = [compute(p[own], label[own], three, bootstrap=0) for own in (slice(60), slice(60, 120))]
    means = [np.mean([each["per_class"][name]["auroc"] for name in "ab"]) for each in parts]
    assert worst["below_best"] == pytest.approx(max(means) - min(means))
    assert "auroc_macro over 2 classes" in table({"site": found})
