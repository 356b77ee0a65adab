from __future__ import annotations

import dataclasses
import json

import jax

from diffmic_jax.inference.load import load
from diffmic_jax.report.info import describe
from tests import tiny


def test_a_run_is_described_by_its_checkpoint_and_its_evaluations(trained, tmp_path):
    model = load(trained)
    found = describe(model)
    assert found["classes"] == list(tiny.CLASSES)
    assert (found["recipe"], found["step"], found["image_size"]) == ("v1", model.step, 32)
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(model.variables["params"]))
    assert found["parameters_sha256"] == model.parameters_sha256
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    assert found["test_accuracy"] == scores["accuracy"]
    assert found["test_f1_macro"] == scores["f1_macro"]
    assert "test_accuracy" not in describe(dataclasses.replace(model, workdir=tmp_path))
