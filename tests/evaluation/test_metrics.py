"""Metrics against the reference's numbers, scikit-learn, and values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import resampling
from diffmic_jax.evaluation.metrics import bootstrap_scalars, compute
from diffmic_jax.evaluation.ranking import SPECIFICITIES
from diffmic_jax.inference.joint import NLL_PROBABILITY_FLOOR
from diffmic_jax.method.task import SCALARS, Task

FIVE = Task(class_names=("a", "b", "c", "d", "e"))
TWO = Task(class_names=("x", "y"))
THREE = Task(class_names=("x", "y", "z"))


@pytest.fixture
def split():
    """200 images of five uneven classes, probabilities with ties."""
    rng = np.random.default_rng(3)
    labels = rng.choice(5, 200, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    probabilities = rng.dirichlet(np.ones(5), 200) + 0.6 * np.eye(5)[labels]
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).round(2)
    return probabilities, labels


@pytest.mark.parametrize("case", ["a", "absent", "gap"])
def test_agrees_with_the_reference(golden, case):
    arrays = golden("metrics")
    probabilities = softmax(arrays[f"{case}_scores"].astype(np.float64), axis=1)
    found = compute(probabilities, arrays[f"{case}_labels"], FIVE, bootstrap=0)
    np.testing.assert_allclose(found["f1_macro"], arrays[f"{case}_f1_macro"], rtol=2e-7)
    np.testing.assert_allclose(100 * found["accuracy"], arrays[f"{case}_acc_all"], rtol=2e-7)
    if case == "a":
        np.testing.assert_allclose(found["kappa_quadratic"], arrays["a_kappa_all"], rtol=2e-7)


def test_ties_go_to_the_first_class(golden):
    arrays = golden("metrics")
    found = compute(arrays["tie_scores"], arrays["tie_argmax_pred"], FIVE, bootstrap=0)
    assert found["accuracy"] == 1.0


def test_the_interval_of_a_mean_is_of_the_classes_of_the_split():
    """Two classes and a third with a single image, which is wrong."""
    labels = np.repeat([0, 1, 2], [60, 39, 1])
    predicted = np.where(np.arange(100) % 10 == 0, 1 - labels.clip(0, 1), labels)
    predicted[-1] = 0
    found = compute(0.8 * np.eye(3)[predicted] + 0.1, labels, THREE, bootstrap=1000)
    low, high = found["ci95"]["balanced_accuracy"]
    # Without the third class it would be about .9.
    assert low < found["balanced_accuracy"] < high < 0.7
    # Predicted for others, a class has an F1 of 0 where it is not.
    predicted[:3], predicted[-1] = 2, 2
    scalars = bootstrap_scalars(
        0.8 * np.eye(3)[predicted] + 0.1, labels, THREE, groups=np.arange(100), bootstrap=1000
    )
    assert np.isnan(scalars["f1_macro"]).mean() == pytest.approx(0.99**100, abs=0.05)
    labels = np.arange(30)
    many = Task(class_names=tuple(f"c{i}" for i in range(30)))
    found = compute(np.eye(30)[labels] * 0.7 + 0.01, labels, many, bootstrap=100)
    assert found["ci95"]["balanced_accuracy"] is None


def test_agrees_with_scikit_learn(split):
    probabilities, labels = split
    found = compute(probabilities, labels, FIVE, bootstrap=0)
    predicted = probabilities.argmax(axis=1)
    aurocs = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(5)]
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1_macro": sk.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "auroc_macro": np.mean(aurocs),
        "f1_weighted": sk.f1_score(labels, predicted, average="weighted"),
        "average_precision": np.mean(
            [sk.average_precision_score(labels == c, probabilities[:, c]) for c in range(5)]
        ),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "kappa_quadratic": sk.cohen_kappa_score(labels, predicted, weights="quadratic"),
        "brier": np.mean(np.sum((probabilities - np.eye(5)[labels]) ** 2, axis=1)),
        "rps": np.mean(
            [
                [np.square(p[: k + 1].sum() - (label <= k)) for k in range(4)]
                for p, label in zip(probabilities, labels, strict=True)
            ]
        ),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    report = sk.classification_report(
        labels, predicted, target_names=FIVE.class_names, output_dict=True
    )
    for name, auroc in zip(FIVE.class_names, aurocs, strict=True):
        row = found["per_class"][name]
        assert row["auroc"] == pytest.approx(auroc, abs=1e-12)
        assert row["f1"] == pytest.approx(report[name]["f1-score"], abs=1e-12)
        assert row["precision"] == pytest.approx(report[name]["precision"], abs=1e-12)
        assert row["recall"] == pytest.approx(report[name]["recall"], abs=1e-12)
        assert row["support"] == report[name]["support"]


def test_nll_agrees_with_scikit_learn_in_float32(split):
    probabilities = softmax(8 * split[0], axis=1).astype(np.float32)
    found = compute(probabilities, split[1], FIVE, bootstrap=0)
    assert found["nll"] == pytest.approx(sk.log_loss(split[1], probabilities), rel=1e-6)


def test_values_worked_out_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    found = compute(probabilities, np.array([0, 2, 0, 1]), THREE, bootstrap=0)
    assert found["n"] == 4
    assert found["accuracy"] == 0.5
    assert found["confusion"] == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found["f1_macro"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)
    # x: positives .7 .2, negatives .1 1 -> 2 of 4; y: 0 of 3; z: 3 of 3.
    assert found["auroc_macro"] == pytest.approx((0.5 + 0 + 1) / 3)
    nll = -np.log([0.7, 0.6, 0.2, NLL_PROBABILITY_FLOOR]).mean()
    assert found["nll"] == pytest.approx(nll)
    assert found["brier"] == pytest.approx((0.14 + 0.26 + 0.98 + 2.0) / 4)
    # Four bins with one image each: 1-.7, 1-.6, .5-0 and 1-0.
    assert found["ece"] == pytest.approx((0.3 + 0.4 + 0.5 + 1.0) / 4)
    # Squared distances 0 0 1 1; margins (2,1,1) and (2,1,1): chance (2+8+2+1+8+1)/4 = 5.5.
    assert found["kappa_quadratic"] == pytest.approx(1 - 2 / 5.5)


def test_ece_pools_the_images_of_a_bin():
    probabilities = np.array([[0.90, 0.10], [0.88, 0.12]])
    found = compute(probabilities, np.array([0, 1]), TWO, bootstrap=0)
    assert found["ece"] == pytest.approx(0.89 - 0.5)


def test_kappa_counts_absent_classes():
    """Labels 0, 2, 4 keep their distances; ranking the present ones would give 0, 1, 2."""
    labels, predicted = np.array([0, 2, 4, 4, 0]), np.array([0, 4, 4, 2, 1])
    found = compute(np.eye(5)[predicted], labels, FIVE, bootstrap=0)
    expected = sk.cohen_kappa_score(labels, predicted, labels=range(5), weights="quadratic")
    assert found["kappa_quadratic"] == pytest.approx(expected)


def test_undefined_is_none():
    found = compute(np.eye(3)[[2, 2]], np.array([2, 2]), THREE, bootstrap=20)
    assert found["kappa_quadratic"] is None
    assert found["auroc_macro"] is None
    assert found["ci95"]["auroc_macro"] is None
    assert found["f1_macro"] == 1.0
    assert found["per_class"]["x"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "auroc": None,
        "average_precision": None,
        "support": 0,
    }
    assert found["per_class"]["z"]["auroc"] is None
    json.dumps(found, allow_nan=False)


def test_multi_label():
    rng = np.random.default_rng(5)
    labels = (rng.random((60, 3)) < 0.3).astype(int)
    labels[:, 2] = 0
    probabilities = np.clip(0.6 * labels + rng.random((60, 3)) * 0.5, 0, 1)
    task = Task(class_names=("x", "y", "z"), multi_label=True)
    found = compute(probabilities, labels, task, bootstrap=50)
    two = slice(0, 2)
    expected = sk.roc_auc_score(labels[:, two], probabilities[:, two], average="macro")
    assert found["auroc_macro"] == pytest.approx(expected)
    predicted = probabilities[:, two] >= 0.5
    assert found["f1_macro"] == pytest.approx(
        sk.f1_score(labels[:, two], predicted, average="macro")
    )
    of_outcome = np.where(labels == 1, probabilities, 1 - probabilities)
    assert found["nll"] == pytest.approx(
        -np.log(np.maximum(of_outcome, NLL_PROBABILITY_FLOOR)).mean()
    )
    assert found["brier"] == pytest.approx(np.square(probabilities - labels).mean())
    assert 0 < found["ece"] < 1
    for name in ("accuracy", "balanced_accuracy", "kappa_quadratic"):
        assert found[name] is None
        assert found["ci95"][name] is None
    assert found["confusion"] is None
    assert found["per_class"]["z"]["auroc"] is None
    json.dumps(found, allow_nan=False)


def test_multi_label_ece_by_hand():
    """Bins (.2, .266] and (.733, .8]: gaps of .25 - 0 and .75 - .5, half the questions each."""
    task = Task(class_names=("x", "y"), multi_label=True)
    found = compute(
        np.array([[0.25, 0.75], [0.25, 0.75]]), np.array([[0, 1], [0, 0]]), task, bootstrap=0
    )
    assert found["ece"] == pytest.approx(0.25)


def test_labels_that_are_not_known_count_nowhere():
    rng = np.random.default_rng(6)
    labels = (rng.random((80, 2)) < 0.4).astype(int)
    probabilities = np.clip(0.4 * labels + rng.random((80, 2)) * 0.6, 0, 1)
    known = rng.random((80, 2)) < 0.7
    task = Task(class_names=("x", "y"), multi_label=True)
    found = compute(probabilities, np.where(known, labels, -1), task, bootstrap=0)
    for c, name in enumerate(task.class_names):
        k = known[:, c]
        own = found["per_class"][name]
        assert own["support"] == labels[k, c].sum()
        assert own["auroc"] == pytest.approx(sk.roc_auc_score(labels[k, c], probabilities[k, c]))
        assert own["f1"] == pytest.approx(sk.f1_score(labels[k, c], probabilities[k, c] >= 0.5))
    error = np.square(probabilities - labels)[known]
    assert found["brier"] == pytest.approx(error.mean())
    assert found["nll"] == pytest.approx(sk.log_loss(labels[known], probabilities[known]))
    none = compute(probabilities, np.full((80, 2), -1), task, bootstrap=5)
    assert none["auroc_macro"] is None
    json.dumps(none, allow_nan=False)


def test_means_say_over_how_many_classes_they_are():
    labels = np.array([0, 1, 0, 1])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]])
    found = compute(probabilities, labels, THREE, bootstrap=0)
    expected = {"f1_macro": 2, "balanced_accuracy": 2, "auroc_macro": 2, "average_precision": 2}
    assert found["classes_in_mean"] == expected


def test_classes_without_an_order_have_no_ordinal_metrics(split):
    task = Task(class_names=FIVE.class_names, ordered=False)
    found = compute(split[0], split[1], task, bootstrap=5)
    assert found["kappa_quadratic"] is found["rps"] is None
    assert found["ci95"]["rps"] is None
    assert found["accuracy"] == compute(split[0], split[1], FIVE, bootstrap=0)["accuracy"]


def test_intervals_surround_the_value_and_shrink_with_the_split(split):
    small = compute(split[0], split[1], FIVE, bootstrap=300)
    large = compute(np.tile(split[0], (9, 1)), np.tile(split[1], 9), FIVE, bootstrap=300)
    for name in SCALARS:
        low, high = small["ci95"][name]
        # ECE and Brier are not negative, so resampling noise pushes the ECE up.
        assert low < high and (name == "ece" or low < small[name] < high), name
    width = np.diff(small["ci95"]["accuracy"]) / np.diff(large["ci95"]["accuracy"])
    assert width == pytest.approx(3, rel=0.25)


def test_interval_of_accuracy_is_the_binomial_one(split):
    found = compute(split[0], split[1], FIVE, bootstrap=2000)
    p = found["accuracy"]
    half = 1.96 * np.sqrt(p * (1 - p) / 200)
    assert found["ci95"]["accuracy"] == pytest.approx([p - half, p + half], abs=0.015)


def test_groups_are_resampled_as_a_whole(split):
    """Nine copies of each image are worth one image, not nine."""
    probabilities, labels = np.repeat(split[0], 9, axis=0), np.repeat(split[1], 9)
    groups = np.repeat([f"lesion {i:03}" for i in range(200)], 9)
    found = compute(probabilities, labels, FIVE, groups=groups, bootstrap=200)
    once = compute(split[0], split[1], FIVE, bootstrap=200)
    assert found["ci95"]["accuracy"] == once["ci95"]["accuracy"]


def test_same_seed_same_bytes(split, monkeypatch):
    found = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(resampling, "SEED", seed)
        found.append(json.dumps(compute(split[0], split[1], FIVE, bootstrap=50)))
    first, again, other = found
    assert first == again != other


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no image"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "labels run from 0 to 2; they must be in 0..1"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]), "image 1 are not numbers"),
    ],
)
def test_bad_input_is_named(probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        compute(probabilities, labels, TWO)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="do not belong"):
        compute(np.full((2, 2), 0.5), np.array([0, 1]), THREE)


def test_sensitivities_at_operating_points_are_those_of_the_roc_curve(split):
    probabilities, labels = split
    found = compute(probabilities, labels, FIVE, bootstrap=0)
    for c, name in enumerate(FIVE.class_names):
        fpr, tpr, _ = sk.roc_curve(labels == c, probabilities[:, c], drop_intermediate=False)
        for level in SPECIFICITIES:
            expected = tpr[1 - fpr >= level - 1e-12].max()
            assert found["operating_points"][name][f"sensitivity_at_{level:.2f}"] == (
                pytest.approx(expected)
            )


def test_intervals_of_the_classes_surround_their_values(split):
    found = compute(split[0], split[1], FIVE, bootstrap=300)
    for name in FIVE.class_names:
        values = found["per_class"][name] | found["operating_points"][name]
        intervals = found["ci95_per_class"][name]
        assert len([*filter(None, intervals.values())]) > 3
        for metric, (low, high) in ((m, each) for m, each in intervals.items() if each):
            assert low <= values[metric] <= high, (name, metric)
        low, high = found["ci95_per_class"][name]["f1"]
        assert low < high


def test_equal_seeds_resample_two_classifiers_alike(split):
    probabilities, labels = split
    alike = {"groups": np.arange(len(labels)), "bootstrap": 50}
    one = bootstrap_scalars(probabilities, labels, FIVE, **alike)
    same = bootstrap_scalars(probabilities**2, labels, FIVE, **alike)
    # Squaring changes no prediction, but every probability.
    np.testing.assert_array_equal(one["accuracy"], same["accuracy"])
    assert (one["brier"] != same["brier"]).all()
    interval = compute(probabilities, labels, FIVE, bootstrap=50)["ci95"]["accuracy"]
    assert interval == np.percentile(one["accuracy"], [2.5, 97.5]).tolist()


def test_images_with_few_known_labels_weigh_less_in_a_resample_too():
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((60, 6)) < rng.random((60, 1)), 1, -1)
    labels[:, 0] = 1
    several = Task(class_names=tuple("abcdef"), multi_label=True)
    # Every known answer has the same loss, so that its mean is the same in every resample.
    found = bootstrap_scalars(
        np.full((60, 6), 0.7), labels, several, groups=np.arange(60), bootstrap=20
    )
    np.testing.assert_allclose(found["nll"], -np.log(0.7), rtol=1e-12)
    np.testing.assert_allclose(found["brier"], 0.09, rtol=1e-12)
    np.testing.assert_allclose(found["ece"], 0.3, rtol=1e-12)


def test_what_is_the_same_in_every_resample_has_no_interval_but_the_accuracy_has():
    labels = np.arange(20) % 2
    found = compute(np.eye(2)[labels], labels, Task(class_names=("a", "b")), bootstrap=50)
    low, high = found["ci95"]["accuracy"]
    assert (low, high) == (pytest.approx(20 / 23.84, abs=0.001), pytest.approx(1))  # Wilson's
    assert found["ci95"]["auroc_macro"] is None
    assert found["ci95_per_class"]["a"]["recall"] is None
    # All images are of one patient.
    half = np.eye(2)[np.arange(20) // 2 % 2]
    one = compute(half, labels, Task(class_names=("a", "b")), groups=np.zeros(20), bootstrap=50)
    low, high = one["ci95"]["accuracy"]  # half of what the one witness says
    assert high - low > 0.5 and low + high == pytest.approx(1)
