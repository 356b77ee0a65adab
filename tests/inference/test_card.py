from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.inference import card
from diffmic_jax.inference.calibration import Calibration, Calibrations
from diffmic_jax.inference.load import load
from tests import tiny


def test_a_finished_run_has_a_card_with_its_numbers(trained):
    text = (trained / "MODEL_CARD.md").read_text()
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    low, high = scores["guidance"]["ci95"]["accuracy"]
    assert f"{scores['guidance']['accuracy']:.3f} ({low:.3f}-{high:.3f})" in text
    assert f"- classes: {', '.join(tiny.CLASSES)}\n" in text
    assert f"- images: {tiny.TRAIN} train, {tiny.VALIDATION} validation, {tiny.TEST} test\n" in text
    assert "- started from: guidance: random; denoiser: random\n" in text
    assert "Not a medical device" in text
    assert "- jax: " in text


def test_a_part_evaluated_later_joins_the_card(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert cli.main(["evaluate", f"--workdir={workdir}", "--split=validation"]) == 0
    text = (workdir / "MODEL_CARD.md").read_text()
    assert f"| validation | diffusion | {tiny.VALIDATION} |" in text


def test_a_denoiser_without_a_trunk_is_described(trained):
    model = load(trained)
    changes = {"denoiser.encoder": "guidance", "guidance.local_trunk": "vit_s16"}
    config = model.config.changed(changes)
    text = card.model_card(dataclasses.replace(model, config=config))
    assert "- guidance: tiny, 2 regions, their trunk: vit_s16\n" in text
    assert "- denoiser: on the guidance's features of the image, 16 features\n" in text


def test_undefined_metrics_are_dashes():
    assert card.cell({"accuracy": None, "ci95": {}}, "accuracy") == "-"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("a|b", "a\\|b"),
        ("[x](http://evil.example)", "\\[x\\](http://evil.example)"),
        ("c\r\n# d", "c  # d"),
        ("`code` *b* \\", "\\`code\\` \\*b\\* \\\\"),
        ("\udce9t\xe9", "?t\xe9"),
    ],
)
def test_names_are_text_in_markdown(name, text):
    assert card.markdown(name) == text


def test_names_in_the_card_are_escaped(trained):
    model = load(trained)
    task = dataclasses.replace(model.task, class_names=("<b>", "a|b", "c"))
    text = card.model_card(dataclasses.replace(model, task=task))
    assert "- classes: &lt;b&gt;, a\\|b, c\n" in text


@pytest.mark.parametrize(
    ("samples", "steps", "text"),
    [
        (4, 1, "4 samples of one step each"),
        (1, 20, "1 sample of 20 steps"),
        (2, 3, "2 samples of 3 steps each"),
    ],
)
def test_one_step_and_one_sample_are_in_the_singular(samples, steps, text):
    assert card.steps_of(samples, steps) == text
    assert card.steps_of(2, 1, "ddim") == "2 samples of one ddim step each"


def test_a_classifier_is_no_diffusion(trained):
    model = load(trained)
    alone = dataclasses.replace(model, method=dataclasses.replace(model.method, denoiser=None))
    text = card.model_card(alone)
    assert "- method: a classifier without diffusion" in text
    results = text[text.index("## Results") : text.index("## Use")]
    assert "| test | classifier |" in results
    assert "guidance alone" not in results and "diffusion" not in results


def test_means_over_fewer_classes_are_told():
    scores = {
        "per_class": dict.fromkeys("abc"),
        "classes_in_mean": {"f1_macro": 3, "auroc_macro": 2},
    }
    told = "Means over classes leave out those that are undefined: auroc_macro over 2 of 3."
    assert card.of_fewer_classes(scores) == told
    assert card.of_fewer_classes({"per_class": {"a": {}}}) == ""


def test_the_temperature_of_one_network_is_said_to_be_of_its_answer(trained):
    model = load(trained)
    assert card.answer_of(model) == ""
    own = Calibration(temperature=0.5, uniform=1.0, multi_label=False)
    tempered = dataclasses.replace(model, tempering=Calibrations(own, None))
    told = "of one network; temperature 0.5 after a share of 50% of equal probabilities"
    assert card.answer_of(tempered) == told
    assert f"- answer: {told}" in card.model_card(tempered)
