"""What lands on disk, read back."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffmic_jax.data.files import write_json, write_predictions
from diffmic_jax.errors import InputError

PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)
SPREAD = np.array([[0.1, 0.2], [0.3, 0.4], [1 / 3, 0.0]])
IDS = ["one.png", "two, with comma.png", "tri.png"]


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions(tmp_path):
    path = tmp_path / "eval" / "test" / "predictions.csv"
    write_predictions(path, IDS, np.array([1, 1, 0]), ["mel", "nv"], PROBABILITIES, SPREAD)
    header = "id,label,prediction,prob_mel,prob_nv,confidence,entropy,sample_std\n"
    assert path.read_text().startswith(header)
    assert read(path)[1:] == [
        ["one.png", "nv", "nv", "0.25", "0.75", "0.75", "0.562335", "0.2"],
        ["two, with comma.png", "nv", "mel", "0.5", "0.5", "0.5", "0.693147", "0.3"],
        ["tri.png", "mel", "mel", "1", "0", "1", "0", "0.333333"],
    ]


def test_predictions_without_labels(tmp_path):
    write_predictions(tmp_path / "p.csv", IDS, None, ["mel", "nv"], PROBABILITIES, SPREAD)
    header, first, *_ = read(tmp_path / "p.csv")
    assert header[:3] == ["id", "prediction", "prob_mel"]
    assert first == ["one.png", "nv", "0.25", "0.75", "0.75", "0.562335", "0.2"]


def test_json_is_sorted_and_replaces_the_old(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    write_json(path, {"b": [0.1, None], "a": 1})
    text = path.read_text()
    assert json.loads(text) == {"a": 1, "b": [0.1, None]}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/metrics.json: cannot be written"):
        write_json(tmp_path / "file" / "metrics.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written"):
        write_json(tmp_path / "folder", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_label_can_have_a_threshold_of_its_own(tmp_path):
    p = np.array([[0.3, 0.6], [0.1, 0.2]])
    write_predictions(
        tmp_path / "p.csv", ["x", "y"], None, "ab", p, p, multi_label=True, thresholds=(0.2, 0.7)
    )
    rows = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["a", ""]
