from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import string
from collections import Counter
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.inference.load import Model, load
from diffmic_jax.report import checklist
from diffmic_jax.report.checklist_items import CLAIM, TRIPOD_AI
from diffmic_jax.training.workdir import config_sha256
from tests import tiny


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return load(trained)


@pytest.fixture(scope="module")
def known(model: Model) -> dict[str, str]:
    return checklist.facts(model)


def rows(text: str) -> dict[str, list[list[str]]]:
    """The cells of each checklist's table, without its header."""
    tables = {}
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        title = section.splitlines()[0]
        tables[title] = [line.strip("| ").split(" | ") for line in lines[1:]]
    return tables


def test_every_item_has_a_row_with_a_fact_or_a_task_for_the_authors(model):
    found = rows(checklist.checklist(model))
    for title, items in (("CLAIM, 2024 update", CLAIM), ("TRIPOD+AI", TRIPOD_AI)):
        assert [row[0] for row in found[title]] == [item.number for item in items]
        for row in found[title]:
            assert len(row) == 4 and (row[2] != "-" or row[3] != "-"), row


def test_the_numbers_are_those_of_the_publications():
    assert [item.number for item in CLAIM] == [str(n) for n in range(1, 45)]
    letters = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
    expected = [
        f"{n}{letter}"
        for n in range(1, 28)
        for letter in (string.ascii_lowercase[: letters[n]] if n in letters else [""])
    ]
    assert [item.number for item in TRIPOD_AI] == expected


def test_every_fact_is_used_by_an_item(known):
    used = {
        field
        for item in (*CLAIM, *TRIPOD_AI)
        for _, field, _, _ in string.Formatter().parse(item.run)
    }
    assert known.keys() - {"title"} == used - {None}


def test_the_split_is_that_of_the_run(trained, known):
    with (trained / "split.csv").open(newline="") as file:
        counts = Counter((row["split"], row["label"]) for row in csv.DictReader(file))
    for (part, name), count in counts.items():
        (line,) = (each for each in known["distribution"].split("; ") if each.startswith(part))
        assert f"{name} {count}" in line
    parts = {"train": tiny.TRAIN, "validation": tiny.VALIDATION, "test": tiny.TEST}
    assert known["images"] == ", ".join(f"{count} {part}" for part, count in parts.items())
    assert "not known" in known["disjoint"]


def test_the_results_are_those_of_the_metrics(trained, known):
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    for name in ("accuracy", "auroc_macro", "nll", "ece"):
        low, high = scores["ci95"][name]
        assert f"{name} {scores[name]:.3f} ({low:.3f}-{high:.3f})" in known["results"]
    assert f"guidance alone accuracy {scores['guidance']['accuracy']:.3f}" in known["results"]
    for name, values in scores["per_class"].items():
        assert f"{name} ({values['support']}): recall {values['recall']:.3f}" in known["per_class"]
    assert f"{scores['referral']['errors']} of {scores['n']} wrong" in known["errors"]
    calibrated = scores["calibrated"]
    assert f"with temperature {calibrated['ece']:.3f}" in known["calibration_results"]
    assert f"{calibrated['conformal']['coverage']:.3f}" in known["calibration_results"]


def test_the_settings_are_those_of_the_configuration(trained, known, model):
    config = json.loads((trained / "config.json").read_text())
    assert known["hash"] == config_sha256(model.config)
    assert f"{config['data']['image_size']} px" in known["preprocessing"]
    assert f"rotation up to {config['data']['rotation']:g} degrees" in known["augmentation"]
    sampling = config["sampling"]
    assert (
        f"mean of {sampling['num_samples']} samples of {sampling['num_steps']} ancestral steps each"
        in known["prediction"]
    )
    assert f"seed {config['seed']}, " in known["training"]
    assert f"batch {config['train']['batch_size']};" in known["training"]
    assert known["origins"] == "guidance: random; denoiser: random"


def test_other_data_and_copies_than_the_published_ones_are_told(model):
    fields = {"data.crop": 0.4, "data.augmentation": "trivial", "data.balance": 0.5}
    config = model.config.changed(fields | {"sampling.flips": "both"})
    known = checklist.facts(dataclasses.replace(model, config=config))
    assert "crops of 40% of the area or more; one operation of TrivialAug" in known["augmentation"]
    assert known["imbalance"].endswith("; classes drawn as count^0.5")
    assert known["prediction"].endswith(", mean over the image and its three mirror images")
    plain = checklist.facts(model)
    assert plain["imbalance"].endswith("; no resampling") and "mirror" not in plain["prediction"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "guidance of two tiny (width 8), 2 regions of 16 px; denoiser of 16 features over tiny",
        ),
        ({"guidance.local_trunk": "shared"}, "guidance of one tiny (width 8) for the image and"),
        ({"guidance.local_trunk": "vit_s16"}, "tiny (width 8) and, for the regions, vit_s16, 2"),
        (
            {"denoiser.encoder": "guidance"},
            "16 features over the guidance's features of the image,",
        ),
    ],
)
def test_the_networks_are_named(model, changes, expected):
    changed = dataclasses.replace(model, config=model.config.changed(changes))
    assert expected in checklist.facts(changed)["model"]


def test_several_labels_per_image_have_measures_of_their_own(tmp_path, model):
    several = dataclasses.replace(model.task, multi_label=True)
    known = checklist.facts(dataclasses.replace(model, workdir=tmp_path, task=several))
    assert known["measures"].startswith("f1_macro, auroc_macro, ")
    assert "any number per image" in known["labels"] and "threshold" in known["output"]


def test_a_group_in_training_and_test_is_counted(tmp_path, model):
    lines = ["image,label,group,split", "a,blue,p1,train", "b,red,p1,test", "c,red|blue,p2,test"]
    (tmp_path / "split.csv").write_text("\n".join([*lines, ""]))
    known = checklist.facts(dataclasses.replace(model, workdir=tmp_path))
    assert "1 test images are of a group" in known["disjoint"]
    assert known["distribution"] == "train: blue 1; test: blue 1, red 2"
    assert "resamples of groups" in known["intervals"]


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("ham10000", "Dermatoscopic"),
        ("busi", "https://"),
        ("bloodmnist", "https://medmnist.com"),
        ("phantom", "no patients"),
        ("images", "data set images"),
    ],
)
def test_a_known_data_set_is_described(tmp_path, model, name, about):
    config = model.config.changed({"data.name": name})
    other = dataclasses.replace(model, workdir=tmp_path, config=config)
    assert about in checklist.facts(other)["data"]


def test_a_run_without_an_evaluation_is_marked(tmp_path, model):
    text = checklist.checklist(dataclasses.replace(model, workdir=tmp_path))
    assert "not evaluated yet" in text and "not recorded" in text
    assert "{" not in text


def test_metrics_that_are_undefined_are_left_out(tmp_path, trained, model):
    workdir = shutil.copytree(trained, tmp_path / "run")
    path = workdir / "eval/test/metrics.json"
    scores = json.loads(path.read_text()) | {"accuracy": None, "referral": None, "calibrated": None}
    path.write_text(json.dumps(scores))
    known = checklist.facts(dataclasses.replace(model, workdir=workdir))
    assert f"n = {tiny.TEST}, f1_macro " in known["results"]
    assert known["calibration_results"] == "test: none"


def test_it_is_written_only_when_asked_for(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert cli.main(["evaluate", f"--workdir={workdir}", "--split=validation"]) == 0
    assert not (workdir / checklist.FILE).exists()
    assert cli.main(["report", f"--workdir={workdir}", "--checklist"]) == 0
    assert "evaluated parts: test, validation" in (workdir / checklist.FILE).read_text()
