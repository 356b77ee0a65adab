from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import evaluate
from diffmic_jax.inference.load import load
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import Task
from tests import tiny


def test_probabilities_do_not_depend_on_the_batch_size(tmp_path, tiny_data, trained):
    # Late steps with little noise: from an untrained network most others are clipped.
    late = {
        "sampling__start": "truncated",
        "sampling__start_std": "matched",
        "sampling__num_steps": 5,
    }
    found = []
    for size in (4, tiny.TEST):  # the last batch of 4 is padded
        config = tiny.make_config(tiny_data, eval__batch_size=size, **late)
        api.evaluate_ensemble(config, [trained], tmp_path / str(size))
        found.append(tiny.read_predictions(tmp_path / str(size)))
    four, whole = found
    assert list(four) == list(whole)
    np.testing.assert_allclose(list(four.values()), list(whole.values()), atol=2e-5)
    assert len(set(map(tuple, four.values()))) == tiny.TEST
    assert sum(min(row) > 0 for row in four.values()) > tiny.TEST / 2


def test_every_image_counts_exactly_once(tiny_data, trained):
    files = {p.relative_to(tiny_data).as_posix() for p in (tiny_data / "test").rglob("*.png")}
    with (trained / "eval/test/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == sorted(files)
    assert all(row["label"] == row["id"].split("/")[1] for row in rows)
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    assert scores["n"] == tiny.TEST
    assert scores["accuracy"] == np.mean([row["label"] == row["prediction"] for row in rows])


def test_an_evaluation_of_another_split_is_written_beside(tmp_path, trained):
    workdir = shutil.copytree(trained, tmp_path / "run")
    api.load(workdir).evaluate("validation")
    found = tiny.read_predictions(workdir / "eval/validation")
    assert len(found) == tiny.VALIDATION
    assert all(name.startswith("validation/") for name in found)


def test_training_validates_on_the_validation_part(tmp_path, trained):
    with (trained / "metrics.csv").open(newline="") as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file)}
    model = load(trained)
    clf = api.Classifier(model)
    scores = {part: clf.evaluate(part, folder=tmp_path / part) for part in ("validation", "test")}
    found = float(logged[model.step]["val_nll"])
    assert found == pytest.approx(scores["validation"].metrics["nll"], rel=1e-4)
    assert abs(found / scores["test"].metrics["nll"] - 1) > 0.1


def test_a_split_that_is_not_there_is_named(tmp_path, trained):
    with pytest.raises(InputError, match="has no holdout split; it has train, validation, test"):
        api.load(trained).evaluate("holdout", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


TWO = Task(class_names=("a", "b"))


def outputs(probabilities: np.ndarray, label: np.ndarray) -> Outputs:
    p = probabilities
    return Outputs(p, np.zeros_like(p), p, label, p[:, None], p)


def test_the_table_shows_a_metric_that_is_undefined_as_a_dash():
    one_class = outputs(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 0]))
    table = evaluate.table(evaluate.score(one_class, TWO))
    header, diffusion, guidance, *notes = table.splitlines()
    assert "auroc_macro: over the 0 of 2 classes in which it is defined" in notes
    assert header.split()[:2] == ["accuracy", "f1_macro"]
    assert diffusion.split() == ["diffusion", "1.0000", "1.0000", "1.0000", "-", "0.4338", "0.3500"]
    assert guidance.split()[:3] == ["guidance", "alone", "1.0000"]


def test_the_guidance_is_scored_apart():
    right, wrong = np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])
    scores = evaluate.score(Outputs(wrong, wrong, right, np.array([0]), wrong[:, None], wrong), TWO)
    assert (scores["accuracy"], scores["guidance"]["accuracy"]) == (0.0, 1.0)
