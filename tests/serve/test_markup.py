"""Answers in words, of synthetic predictions."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from diffmic_jax.method.task import Task
from diffmic_jax.report.cases import Case, Original
from diffmic_jax.report.collect import Predicted
from tests.helpers import whole_scores

pytest.importorskip("starlette")

from diffmic_jax.serve import markup

TASK = Task(class_names=("No findings", "Pneumonia", "Covid-19"))
SCORES = {
    "n": 225,
    "accuracy": 0.742,
    "ci95": {"accuracy": [0.68, 0.8]},
    "per_class": {"Pneumonia": {"support": 90, "recall": 0.68, "precision": None, "auroc": None}},
    "calibrated": {"conformal": {"target": 0.9, "coverage": 0.913}},
}


@pytest.fixture
def about(tmp_path):
    """A classifier of the folder `chest`, evaluated."""
    (tmp_path / "eval/test").mkdir(parents=True)
    (tmp_path / "eval/test/metrics.json").write_text(json.dumps(whole_scores(SCORES)))
    data = SimpleNamespace(name="images", root="/somewhere/chest", image_size=64)
    sampling = SimpleNamespace(total_samples=4)
    method = SimpleNamespace(name="plus", denoiser=object(), sampling=sampling)
    config = SimpleNamespace(data=data)
    model = SimpleNamespace(home=tmp_path, config=config, task=TASK, method=method, step=7)
    model.workdir, model.fingerprint, model.provenance = tmp_path, "f", {"sampling": {}}
    model.members = (model,)
    return markup.About(model, 0.9)


def told(about, sets: str | None, familiar: bool | None = True, task: Task = TASK) -> str:
    p = np.array([[0.2, 0.71, 0.09]])
    shown = Predicted(
        task=task,
        ids=["<a>.png"],
        label=None,
        prediction=["Pneumonia"],
        probabilities=p,
        guidance=p,
        vote=p,
        low=p,
        high=p,
        sets=None if sets is None else [sets],
    )
    case = Case(
        image=np.zeros((8, 8, 3), np.uint8),
        saliency=np.zeros((2, 2)),
        corners=np.zeros((0, 2), int),
        attention=np.zeros(0),
        states=np.zeros((3, 2, 3)),
        region_size=4,
        timesteps=np.array([9]),
        samples=4,
    )
    return markup.answer(about, shown, case, Original.of(case.image), familiar)


@pytest.mark.parametrize(
    ("sets", "lead"),
    [
        ("Pneumonia", "Pneumonia <small>(90% set)"),
        ("No findings|Pneumonia", "No findings or Pneumonia <small>(90% set)"),
        ("No findings|Pneumonia|Covid-19", "no class can be ruled out <small>(90% set)"),
        ("", "no class fits <small>(90% set)"),
    ],
)
def test_the_answer_is_the_set_in_words(about, sets, lead):
    text = told(about, sets)
    assert f'<p class="lead">{lead}' in text
    assert "Most probable: Pneumonia (71%); right in 74% of 225 test images." in text
    assert "of the test images it did for 91%" in text
    assert "&lt;a&gt;.png" in text and "<a>" not in text


def test_without_a_calibration_the_answer_is_the_class(about):
    text = told(about, None)
    assert '<p class="lead">Pneumonia</p>' in text and "set)" not in text


@pytest.mark.parametrize(
    ("familiar", "message"),
    [
        (True, "Nothing tells it from the training images; that is a check"),
        (False, "does not look like"),
        (None, "is not known"),
    ],
)
def test_whether_it_looks_like_the_training_images_is_told(about, familiar, message):
    assert message in told(about, "Pneumonia", familiar)


def test_an_image_without_regions_has_no_switch_for_them(about):
    text = told(about, "Pneumonia")
    assert "show-heat" in text and "show-boxes" not in text
    assert "<table" in text and 'width="71.0%"' in text


def test_the_page_names_its_data_and_its_record(about):
    text = markup.document(about)
    assert "<span>chest</span>" in text
    assert "Tells apart: No findings, Pneumonia, Covid-19. Right in 74% of 225 test images." in text
    assert "the mean of 4 samples" in text and "68.0% to 80.0%" in text


def test_a_run_without_an_evaluation_says_so(about):
    (about.model.workdir / "eval/test/metrics.json").unlink()
    assert "how often it is right is not known" in told(about, "Pneumonia")
    assert "How often it is right is not known" in markup.document(about)


def test_of_several_labels_the_number_of_test_images_and_the_auroc_are_told(about):
    path = about.model.home / "eval/test/metrics.json"
    several = SCORES | {"accuracy": None, "auroc_macro": 0.812, "calibrated": None}
    path.write_text(json.dumps(whole_scores(several)))
    assert about.record == "evaluated on 225 test images, mean AUROC 0.81"
    path.unlink()
    assert "it has no evaluation" in markup.About(about.model, 0.9).record
