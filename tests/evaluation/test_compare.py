from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy.stats import binom

from diffmic_jax.cli import main as cli
from diffmic_jax.data.files import write_json
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import metrics
from diffmic_jax.evaluation.compare import compare, compare_workdirs, pair, read_predictions
from diffmic_jax.inference.predictions import Outputs, write_predictions
from diffmic_jax.method.task import Task
from tests import tiny

TWO = Task(class_names=("a", "b"))
SEVERAL = Task(class_names=("a", "b"), multi_label=True)


def predictions(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of images that are predicted correctly or not."""
    labels = np.arange(len(correct)) % 2
    predicted = np.where(correct, labels, 1 - labels)
    return np.eye(2)[predicted] * 0.6 + 0.2, labels


def outputs(p: np.ndarray, labels: np.ndarray) -> Outputs:
    return Outputs(p, 0 * p, p, labels, p[:, None], p)


def test_mcnemar_is_the_exact_binomial_test():
    first = np.array([True] * 12 + [False] * 8)
    second = np.array([True] * 10 + [False] * 2 + [True] * 8)
    found = compare(
        (predictions(first)[0], predictions(second)[0]), predictions(first)[1], TWO, np.arange(20)
    )
    assert found["mcnemar"] == {
        "only_first": 2,
        "only_second": 8,
        "p": pytest.approx(2 * binom.cdf(2, 10, 0.5)),
    }
    assert found["metrics"]["accuracy"]["difference"] == pytest.approx(6 / 20)


def test_images_of_one_group_are_one_witness():
    """Three of ten lesions with three images each are wrong in the second alone."""
    first = np.ones(30, bool)
    second = np.repeat(np.arange(10) >= 3, 3)
    both, groups = (predictions(first)[0], predictions(second)[0]), np.repeat(np.arange(10), 3)
    found = compare(both, predictions(first)[1], TWO, groups)["mcnemar"]
    assert found == {"only_first": 9, "only_second": 0, "p": pytest.approx(0.25)}
    # Won and lost in one group: neither.
    second[9:18] = np.tile([True, True, False], 3)
    first[9:18] = np.tile([False, True, True], 3)
    both = (predictions(first)[0], predictions(second)[0])
    found = compare(both, predictions(first)[1], TWO, groups)["mcnemar"]
    assert found == {"only_first": 12, "only_second": 3, "p": pytest.approx(0.25)}


def test_total_variation_is_half_the_l1_distance():
    first = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    second = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    task = Task(class_names=("a", "b", "c"))
    found = compare((first, second), np.array([0, 2]), task, np.arange(2), 10)
    assert found["total_variation"] == pytest.approx((0.3 + 1) / 2)
    labels = np.array([[1, 0, 1], [0, 1, 1]])
    several = Task(class_names=("a", "b", "c"), multi_label=True)
    found = compare((first, second), labels, several, np.arange(2), 10)
    assert found["total_variation"] == pytest.approx((0.6 + 2) / 6)


def test_a_classifier_does_not_differ_from_itself():
    probabilities, labels = predictions(np.arange(30) % 3 > 0)
    found = compare((probabilities, probabilities), labels, TWO, np.arange(30), 50)
    assert found["mcnemar"]["p"] == 1
    assert found["total_variation"] == 0
    for row in found["metrics"].values():
        assert (row["difference"], row["ci95"], row["p_bootstrap"]) == (0, [0, 0], 1)


def test_the_interval_is_of_the_paired_difference():
    """The first is right on one half, the second there and on a tenth more."""
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.5
    second = first | (rng.random(1000) < 0.2)
    labels = predictions(first)[1]
    both = (predictions(first)[0], predictions(second)[0])
    row = compare(both, labels, TWO, np.arange(1000), 500)["metrics"]["accuracy"]
    share = row["difference"]
    half = 1.96 * np.sqrt(share * (1 - share) / 1000)
    assert row["ci95"] == pytest.approx([share - half, share + half], abs=0.006)
    assert row["p_bootstrap"] == pytest.approx(2 / 501)


def test_groups_are_resampled_as_a_whole():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 100)) < 0.6
    nine = [np.repeat(x, 9) for x in (first, second)]
    labels = np.repeat(np.arange(100) % 2, 9)
    both = tuple(np.eye(2)[np.where(x, labels, 1 - labels)] for x in nine)
    alone, together = (
        compare(both, labels, TWO, groups, 200)["metrics"]["accuracy"]["ci95"]
        for groups in (np.arange(900), np.repeat(np.arange(100), 9))
    )
    assert np.ptp(together) == pytest.approx(3 * np.ptp(alone), rel=0.25)


def test_several_labels_are_read_back(tmp_path):
    labels = np.array([[1, 1], [0, 0], [0, 1]])
    p = np.array([[0.9, 0.8], [0.2, 0.1], [0.3, 0.7]])
    write_predictions(tmp_path / "p.csv", list("xyz"), outputs(p, labels), SEVERAL)
    found = read_predictions(tmp_path / "p.csv")
    assert found.task == SEVERAL
    np.testing.assert_array_equal(found.label, labels)
    np.testing.assert_allclose(found.probabilities, p)
    both = compare((p, p), found.label, SEVERAL, np.arange(3), 10)
    assert both["mcnemar"] is None
    assert set(both["metrics"]) == set(SEVERAL.metrics)


def test_several_labels_are_predicted_by_the_thresholds_of_their_evaluation(tmp_path):
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, (40, 2)), rng.random((40, 2))
    ids, sets = [str(i) for i in range(40)], {}
    task = Task(class_names=("z", "a"), multi_label=True)  # the file has its names in order
    for name, thresholds in (("one", (0.2, 0.7)), ("two", ())):
        folder = tmp_path / name
        folder.mkdir()
        write_predictions(folder / "predictions.csv", ids, outputs(p, labels), task)
        sets[name] = metrics.compute(p, labels, task, bootstrap=0, thresholds=thresholds)
        write_json(folder / "metrics.json", sets[name])
    assert sets["one"]["per_class"]["z"]["threshold"] == 0.2
    row = compare_workdirs(tmp_path / "one", tmp_path / "two", bootstrap=20)["metrics"]["f1_macro"]
    assert row["first"] == pytest.approx(sets["one"]["f1_macro"], abs=1e-4)
    assert row["second"] == pytest.approx(sets["two"]["f1_macro"], abs=1e-4)
    assert row["difference"] != 0
    assert row["ci95"][0] < row["difference"] < row["ci95"][1]


@pytest.fixture
def other(tmp_path, trained):
    """A copy of the trained run's evaluation, to be damaged."""
    (tmp_path / "other").mkdir()
    shutil.copy(trained / "split.csv", tmp_path / "other")
    shutil.copytree(trained / "eval", tmp_path / "other/eval")
    return tmp_path / "other"


def test_two_runs_are_compared_whatever_the_order_of_their_images(trained, other, tmp_path, capsys):
    path = other / "eval/test/predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    out = tmp_path / "out.json"
    assert cli.main(["compare", str(trained), str(other), f"--out={out}"]) == 0
    assert "McNemar p = 1" in capsys.readouterr().out
    found = json.loads(out.read_text())
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    for name in ("accuracy", "auroc_macro", "nll", "ece"):
        assert found["metrics"][name]["first"] == pytest.approx(scores[name], abs=1e-5)
        assert found["metrics"][name]["difference"] == pytest.approx(0, abs=1e-12)


def test_the_guidance_alone_can_be_compared(trained):
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    found = compare_workdirs(trained, trained, kinds=("guidance", "prob"))
    for name in ("accuracy", "auroc_macro", "nll"):
        row = found["metrics"][name]
        assert row["first"] == pytest.approx(scores["guidance"][name], abs=1e-4)
        assert row["second"] == pytest.approx(scores[name], abs=1e-4)


def test_an_evaluation_written_elsewhere_is_compared_with_its_run(trained, tmp_path):
    shutil.copytree(trained / "eval/test", tmp_path / "elsewhere")
    expected = compare_workdirs(trained, trained)
    assert compare_workdirs(trained, tmp_path / "elsewhere") == expected
    assert compare_workdirs(tmp_path / "elsewhere", trained) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prob_red", "prob_amber", "has the classes blue,green,amber, not blue,green,red"),
        ("test/red/red_00.png", "test/red/else.png", "2 images are not in both"),
        ("red_00.png,red", "red_00.png,blue", "has other labels than"),
        (",label,", ",truth,", "has no labels"),
    ],
)
def test_runs_on_other_data_are_not_compared(trained, other, old, new, message):
    path = other / "eval/test/predictions.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        compare_workdirs(trained, other)


def test_a_run_that_is_not_evaluated_is_named(trained, tmp_path, capsys):
    assert cli.main(["compare", str(trained), str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {tmp_path}/eval/test/predictions.csv: cannot be read")
    assert line.endswith("evaluate that run first")
    assert len(read_predictions(trained / "eval/test/predictions.csv").ids) == tiny.TEST


def test_evaluations_by_themselves_know_their_groups(trained, tmp_path):
    for name in ("one", "two"):
        assert cli.main(["evaluate", f"--workdir={trained}", f"--out={tmp_path / name}"]) == 0
    rows = (tmp_path / "one/groups.csv").read_text().splitlines()
    assert rows[0] == "image,group" and len(rows) == 1 + tiny.TEST
    patients = [f"{row.split(',')[0]},p{i % 2}" for i, row in enumerate(rows[1:])]
    (tmp_path / "one/groups.csv").write_text("\n".join([rows[0], *patients]))
    found = pair(tmp_path / "one", tmp_path / "two")["groups"]
    assert sorted({*found}) == ["p0", "p1"]
