"""The comparison of `fit` with PyTorch, of results that are there already."""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LABELS = ("a", "b", "b", "a", "b", "a", "a", "b")


def write(folder: Path, right: np.ndarray) -> None:
    """Predictions with a probability of the right class for each image."""
    folder.mkdir(parents=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "label", "prediction", "prob_a", "prob_b"))
        for i, (label, p) in enumerate(zip(LABELS, right, strict=True)):
            a = p if label == "a" else 1 - p
            writer.writerow((i, label, "a" if a > 0.5 else "b", a, 1 - a))


@pytest.fixture
def out(tmp_path) -> Path:
    write(tmp_path / "fit-3/eval/test", np.full(8, 0.8))
    write(tmp_path / "torch-3", np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.4, 0.4]))
    lines = [f"{i},{label},{i // 2},test" for i, label in enumerate(LABELS)]
    (tmp_path / "fit-3/split.csv").write_text("\n".join(("image,label,group,split", *lines)))
    for side, seconds in (("fit", 61.0), ("torch", 59.0)):
        (tmp_path / f"{side}-3/seconds.json").write_text(json.dumps({"seconds": seconds}))
    return tmp_path


def test_both_sides_are_measured_alike(out, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    argv = ["fit_against_torch.py", "photos", f"--out={out}", "--torch=none", "--seeds=3"]
    monkeypatch.setattr(sys, "argv", argv)
    importlib.import_module("fit_against_torch").main()
    with (out / "study.csv").open(newline="") as file:
        fit, torch = csv.DictReader(file)
    assert (fit["row"], fit["accuracy"], fit["seconds"]) == ("fit", "1.0", "61.0")
    assert float(fit["nll"]) == pytest.approx(-np.log(0.8))
    assert (torch["row"], torch["accuracy"], torch["split"]) == ("torch", "0.75", "test")
    assert float(torch["nll"]) == pytest.approx(-(6 * np.log(0.9) + 2 * np.log(0.4)) / 8)
    # Whole patients are drawn: the last one's images are both wrong.
    assert float(torch["ci95.accuracy.low"]) < 0.5
    assert "accuracy             0.7500   1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("several", [False, True])
def test_pytorch_has_the_classes_in_the_order_of_the_fit(out, monkeypatch, several):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    own = out / "fit-3/eval/test/predictions.csv"
    text = own.read_text().replace("prob_a,prob_b", "prob_b,prob_a")
    own.write_text(text.replace("0,a,a", "0,a|b,a") if several else text)
    config = {"data": {"root": "photos", "image_size": 96}}
    (out / "fit-3/config.json").write_text(json.dumps(config))
    args = argparse.Namespace(torch="python", minutes=20)
    places = {side: out / f"{side}-3" for side in ("fit", "torch")}
    found = importlib.import_module("fit_against_torch")._torch(args, "3", places)
    assert found[-3:] == ["--classes", "b", "a"]
    assert ("--several" in found) == several
    assert "--size=96" in found
