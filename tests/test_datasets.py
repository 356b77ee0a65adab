"""Every data set from the files that are distributed to an evaluated run, on tiny stand-ins.

Data is the same to every recipe, and a plain classifier compiles fastest.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import aptos2019, chestxray14, ham10000, medmnist, pmg2000
from diffmic_jax import api, configfile
from diffmic_jax.cli import main as cli
from diffmic_jax.config import Config
from diffmic_jax.data.catalog import FINDINGS
from diffmic_jax.errors import InputError
from tests import tiny
from tests.data import native

pytestmark = pytest.mark.whole

ONE_EPOCH = {"guidance__warmup_epochs": 0, "train__epochs": 1}
AUTHORS = {"data__protocol": "authors", "data__validation_fraction": 0.3}


def shrunk(config: ConfigDict, root: Path, **changes: object) -> Config:
    """A configuration file's values with tiny networks, for one epoch."""
    return tiny.shrunk(configfile.typed(config, "config"), root, **(ONE_EPOCH | changes))


def run(config: Config, workdir: Path) -> dict[str, Any]:
    """The test metrics of a run."""
    api.train(config, workdir)
    return json.loads((workdir / "eval/test/metrics.json").read_text())


def prepared(name: str, write: Callable, folder: Path, capsys: pytest.CaptureFixture) -> Path:
    """The data folder that the command makes of a data set's native files."""
    write(folder / "native")
    command = ["prepare", name, f"--manual_dir={folder}/native", f"--data_dir={folder}/data"]
    assert cli.main(command) == 0
    assert f"{name}: " in capsys.readouterr().out
    return folder / "data"


def test_chestxray14(tmp_path, capsys):
    root = prepared("chestxray14", native.write_chestxray14, tmp_path, capsys)
    config = shrunk(chestxray14.get_config(), root, data__validation_fraction=0.25)
    scores = run(config, tmp_path / "run")
    assert list(scores["per_class"]) == sorted(FINDINGS)
    for alone in (scores, scores["guidance"]):
        assert 0 <= alone["auroc_macro"] <= 1
        assert alone["accuracy"] is alone["kappa_quadratic"] is alone["confusion"] is None
        assert all(alone[name] is not None for name in ("f1_macro", "nll", "brier", "ece"))
        defined = [c["auroc"] for c in alone["per_class"].values() if c["auroc"] is not None]
        assert alone["auroc_macro"] == pytest.approx(np.mean(defined))
    assert scores["n"] == 15
    low, high = scores["ci95"]["auroc_macro"]
    assert low < high
    with (tmp_path / "run/eval/test/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = native.findings(tmp_path / "native")
    fitted = json.loads((tmp_path / "run/calibration.json").read_text())
    thresholds = dict(zip(FINDINGS, fitted["diffusion"]["thresholds"], strict=True))
    for row in rows:
        assert set(filter(None, row["label"].split("|"))) == found[row["id"]]
        likely = {n for n, least in thresholds.items() if float(row[f"prob_{n}"]) >= least}
        assert set(filter(None, row["prediction"].split("|"))) == likely
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        validated = [row["val_auroc_macro"] for row in csv.DictReader(file)]
    assert any(validated)


def test_a_multi_label_run_predicts_several_classes(tmp_path):
    native.write_medmnist(tmp_path / "chestmnist.npz", 14, multi_label=True)
    config = shrunk(medmnist.get_config("chestmnist,classifier"), tmp_path)
    scores = run(config, tmp_path / "run")
    assert scores["n"] == 14
    assert scores["auroc_macro"] is not None
    for i in range(3):
        native.picture(tmp_path / "new" / f"{i}.png", 0, i)
    out = tmp_path / "out.csv"
    command = ["predict", f"--workdir={tmp_path}/run", f"--images={tmp_path}/new", f"--out={out}"]
    assert cli.main(command) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(0 <= float(row["prob_atelectasis"]) <= 1 for row in rows)


def test_accuracy_cannot_choose_a_multi_label_checkpoint(tmp_path):
    native.write_medmnist(tmp_path / "chestmnist.npz", 14, multi_label=True)
    config = shrunk(medmnist.get_config("chestmnist"), tmp_path, checkpoint__metric="accuracy")
    with pytest.raises(InputError, match="metric='accuracy' is not defined for several labels"):
        api.train(config, tmp_path / "run")


def test_medmnist(tmp_path):
    native.write_medmnist(tmp_path / "dermamnist.npz", 7, compress=False)
    config = shrunk(medmnist.get_config("dermamnist,classifier"), tmp_path)
    scores = run(config, tmp_path / "run")
    assert scores["n"] == 14
    assert list(scores["per_class"]) == sorted(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"))


def test_ham10000_has_a_clean_part_of_the_authors_split(tmp_path, capsys):
    native.write_ham10000(tmp_path / "native")
    # Lesions have two images, seven numbers apart; the lists put one of seven pairs on each side.
    for part, numbers in (("train", range(21)), ("test", range(21, 42))):
        entries = [{"img_root": f"x/ISIC_{24306 + i:07d}.jpg", "label": i % 7} for i in numbers]
        (tmp_path / "native" / f"isic2018_{part}.pkl").write_bytes(pickle.dumps(entries))
    root = prepared("ham10000", lambda folder: None, tmp_path, capsys)
    config = shrunk(ham10000.get_config("classifier"), root, **AUTHORS)
    scores = run(config, tmp_path / "run")
    clean = json.loads((tmp_path / "run/eval/test_clean/metrics.json").read_text())
    assert (scores["n"], clean["n"]) == (21, 14)
    assert "test_clean, checkpoint of step " in capsys.readouterr().out
    out = tmp_path / "again"
    command = ["evaluate", f"--workdir={tmp_path}/run", "--split=test_clean", f"--out={out}"]
    assert cli.main(command) == 0
    again = (out / "predictions.csv").read_bytes()
    assert again == (tmp_path / "run/eval/test_clean/predictions.csv").read_bytes()
    whole = (tmp_path / "run/eval/test/predictions.csv").read_text().splitlines()
    assert set(again.decode().splitlines()) < set(whole)
    # An evaluation that goes elsewhere leaves the run's own as they are.
    before = {path: path.read_bytes() for path in (tmp_path / "run/eval").rglob("*.csv")}
    assert cli.main(["evaluate", f"--workdir={tmp_path}/run", f"--out={tmp_path}/other"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "run/eval").rglob("*.csv")} == before
    assert (tmp_path / "other/test_clean/predictions.csv").read_bytes() == again


def test_aptos2019(tmp_path, capsys):
    root = prepared("aptos2019", native.write_aptos2019, tmp_path, capsys)
    config = shrunk(aptos2019.get_config("classifier"), root)
    scores = run(config, tmp_path / "run")
    assert scores["n"] == 12
    assert scores["kappa_quadratic"] is not None


def test_pmg2000(tmp_path, capsys):
    def write(folder: Path) -> None:
        native.write_pmg2000(folder, as_lists=True)

    root = prepared("pmg2000", write, tmp_path, capsys)
    config = shrunk(pmg2000.get_config("classifier"), root, data__validation_fraction=0.3)
    scores = run(config, tmp_path / "run")
    assert scores["n"] == 8
