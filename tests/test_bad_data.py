"""Data that cannot be used, from the command that meets it to the one line that names it."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest

from diffmic_jax import api
from tests import tiny
from tests.refusal import refused

pytestmark = pytest.mark.whole

# Each makes the data unusable; the fields to change, and how the error begins.
Spoiled = tuple[dict[str, object], str]


def truncated_image(data: Path) -> Spoiled:
    tiny.write_truncated_jpeg(data / "train/red/photo.jpg")
    return {}, f"{data}/train/red/photo.jpg: cannot be read ("


def missing_image(data: Path) -> Spoiled:
    (data / "labels.csv").write_text("image,label\ntrain/red/red_00.png,0\nnowhere.png,1\n")
    error = f"{data}/labels.csv row 3: no image 'nowhere.png' in {data}; add it or remove the row"
    return {"data__labels": "labels.csv"}, error


def label_out_of_range(data: Path) -> Spoiled:
    (data / "labels.csv").write_text("image,label\ntrain/red/red_00.png,3\n")
    changes = {"data__labels": "labels.csv", "data__class_names": tiny.CLASSES}
    error = f"{data}/labels.csv row 2: label 3 is out of range 0..2; fix it or "
    return changes, f"{error}config.data.class_names"


def empty_folder(data: Path) -> Spoiled:
    shutil.rmtree(data / "train/red")
    (data / "train/red").mkdir()
    return {}, f"{data}/train/red: no images in this folder; add some or remove it"


def hostile_pickle(data: Path) -> Spoiled:
    for name in ("a.pkl", "b.pkl"):
        (data / name).write_bytes(pickle.dumps([OrderedDict(img_root="a.png", label=0)]))
    return {"data__lists": "a.pkl,b.pkl"}, f"{data}/a.pkl: asks for collections.OrderedDict"


def missing_root(data: Path) -> Spoiled:
    return {"data__root": "no/where"}, (
        "config.data.root='no/where' is not there; put a folder of images for each class there. "
        "Another place goes into config.data.root; config.data.name=phantom needs no files"
    )


def too_few_images(data: Path) -> Spoiled:
    error = "config.train.batch_size=100 does not fit the 24 training images; choose 1 to 24"
    return {"train__batch_size": 100}, error


@pytest.mark.parametrize(
    "spoil",
    [
        missing_image,
        label_out_of_range,
        empty_folder,
        hostile_pickle,
        missing_root,
        too_few_images,
    ],
)
def test_data_that_cannot_be_used_is_named_before_anything_is_written(tmp_path, capsys, spoil):
    data = tiny.write_data(tmp_path / "data")
    changes, expected = spoil(data)
    line = refused(tiny.make_config(data, **changes), tmp_path / "run", capsys)
    assert line.startswith(expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_breaks_off_stops_training_and_the_run_goes_on_once_it_is_replaced(
    tmp_path, capsys, num_workers
):
    data = tiny.write_data(tmp_path / "data")
    config = tiny.make_config(data, train__max_steps=3, data__num_workers=num_workers)
    _, expected = truncated_image(data)
    line = refused(config, tmp_path / "run", capsys)
    assert line.startswith(expected)
    assert line.endswith("replace or remove it")
    shutil.copy(data / "train/red/red_00.png", data / "train/red/photo.jpg")
    tiny.train(config, tmp_path / "run")
    assert int(tiny.latest_state(config, tmp_path / "run").step) == 3


def test_bad_images_are_left_out_and_listed_if_that_is_asked(tmp_path):
    data = tiny.write_data(tmp_path / "data")
    config = tiny.make_config(data, train__max_steps=1, data__on_bad_image="skip")
    truncated_image(data)
    tiny.write_truncated_jpeg(data / "test/red/photo.jpg")
    api.train(config, tmp_path / "run")
    with (tmp_path / "run/skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["test/red/photo.jpg", "train/red/photo.jpg"]
    assert all(row["reason"].startswith(str(data / row["image"])) for row in rows)
    scores = json.loads((tmp_path / "run/eval/test/metrics.json").read_text())
    assert scores["n"] == tiny.TEST


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_without_readable_images_is_refused_before_training(tmp_path, capsys, part):
    data = tiny.write_data(tmp_path / "data")
    for path in (data / part).rglob("*.png"):
        path.write_bytes(b"")
    config = tiny.make_config(data, data__on_bad_image="skip")
    line = refused(config, tmp_path / "run", capsys)
    assert line == (
        f"config.data.root: no image of the {part} part can be read; replace some of them"
    )


def test_a_run_does_not_go_on_when_images_come_back(tmp_path, capsys):
    data = tiny.write_data(tmp_path / "data")
    config = tiny.make_config(data, train__max_steps=1, data__on_bad_image="skip")
    truncated_image(data)
    api.train(config, tmp_path / "run")
    shutil.copy(data / "train/red/red_00.png", data / "train/red/photo.jpg")
    line = refused(config, tmp_path / "run", capsys)
    assert "split.csv: the data or its split has changed" in line
