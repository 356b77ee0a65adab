from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.errors import InputError
from diffmic_jax.inference import classify
from diffmic_jax.inference.load import load
from diffmic_jax.report.info import describe
from diffmic_jax.training.checksum import digest
from tests import tiny


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of 20 images without labels, one of them in a sub-folder."""
    tiny.write_images(tmp_path / "all", 7)
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / "all").rglob("*.png"))[:20]):
        path.rename(folder / ("more" if i == 3 else "") / f"{i:02d}.png")
    return folder


@pytest.fixture
def without_data(trained, tmp_path) -> Path:
    """The workdir of a run whose training data is gone."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    for path in workdir.glob("checkpoints/*/record/metadata"):
        record = json.loads(path.read_text())
        record["meta"]["config"]["data"]["root"] = str(tmp_path / "gone")
        del record["sha256"]
        path.write_text(json.dumps(record | {"sha256": digest(record)}))
    return workdir


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_csv_without_the_training_data(tmp_path, images, without_data, capsys):
    out = tmp_path / "new" / "out.csv"
    assert not Path(load(without_data).config.data.root).exists()
    status = cli.main(
        ["predict", f"--workdir={without_data}", f"--images={images}", f"--out={out}"]
    )
    assert status == 0
    assert "20 images classified" in capsys.readouterr().out
    rows = read(out)
    probabilities = [f"prob_{name}" for name in tiny.CLASSES]
    assert list(rows[0]) == [
        *("id", "prediction", *probabilities, "confidence", "entropy", "sample_std")
    ]
    assert sorted(row["id"] for row in rows) == sorted(
        path.relative_to(images).as_posix() for path in images.rglob("*.png")
    )
    for row in rows:
        values = np.array([float(row[name]) for name in probabilities])
        assert values.sum() == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == tiny.CLASSES[values.argmax()]
        assert float(row["confidence"]) == values.max()


def test_the_same_images_get_the_probabilities_of_the_evaluation(tiny_data, trained, tmp_path):
    # Late steps alone: from an untrained network, those of the whole chain are mostly clipped.
    model = load(trained, {"sampling.start": "truncated", "sampling.num_steps": 5})
    api.Classifier(model).evaluate(folder=tmp_path / "eval")
    tiny.classify_folder(model, tiny_data / "test", tmp_path / "predictions.csv")
    ours, theirs = (list(tiny.read_predictions(x).values()) for x in (tmp_path, tmp_path / "eval"))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert len(set(map(tuple, theirs))) == tiny.TEST


def test_a_prediction_leaves_no_image_behind_whenever_it_is_killed(
    tiny_data, trained, tmp_path, monkeypatch
):
    names, real = [], classify.predict_batches

    def predict(*args):
        names.extend(tmp_path.iterdir())
        return real(*args)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(classify, "predict_batches", predict)
    tiny.classify_folder(load(trained), tiny_data / "test" / "red", tmp_path / "out/one.csv")
    assert names == []


def test_the_number_of_samples_can_be_changed(tiny_data, trained, tmp_path):
    folder = tiny_data / "test" / "red"
    tiny.classify_folder(load(trained, {"sampling.num_samples": 1}), folder, tmp_path / "one.csv")
    assert all(float(row["sample_std"]) == 0 for row in read(tmp_path / "one.csv"))
    tiny.classify_folder(load(trained), folder, tmp_path / "own.csv")
    assert any(float(row["sample_std"]) > 0 for row in read(tmp_path / "own.csv"))


def test_a_second_table_holds_the_uncertainty(tiny_data, trained, tmp_path):
    out, sure = tmp_path / "out.csv", tmp_path / "sure.csv"
    argv = ["predict", f"--workdir={trained}", f"--images={tiny_data / 'test'}", f"--out={out}"]
    assert cli.main([*argv, f"--uncertainty={sure}", "--coverage=0.5"]) == 0
    for prediction, row in zip(read(out), read(sure), strict=True):
        assert prediction["id"] == row["id"]
        assert set(filter(None, row["set"].split("|"))) <= set(tiny.CLASSES)
        for kind in ("calibrated", "vote", "guidance"):
            total = sum(float(row[f"{kind}_{name}"]) for name in tiny.CLASSES)
            assert total == pytest.approx(1, abs=1e-4)
        for name in tiny.CLASSES:
            low, high = float(row[f"low_{name}"]), float(row[f"high_{name}"])
            assert 0 <= low <= high <= 1
    # With five samples instead of two it is another classifier.
    assert cli.main([*argv, f"--uncertainty={sure}", "--num_samples=5"]) == 0
    assert not {"set", "calibrated_red"} & read(sure)[0].keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--uncertainty=u.csv", "--coverage=0.5", "--num_samples=5"], "is not calibrated for"),
        (["--coverage=0.5"], "--coverage: the sets go into another table"),
    ],
)
def test_sets_that_cannot_be_made_are_refused(tiny_data, trained, tmp_path, capsys, flags, message):
    out = tmp_path / "out.csv"
    argv = ["predict", f"--workdir={trained}", f"--images={tiny_data / 'test'}", f"--out={out}"]
    assert cli.main([*argv, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_truncated_image_is_named_and_nothing_written(tmp_path, images, trained, capsys):
    broken = images / "more" / "photo.jpg"
    tiny.write_truncated_jpeg(broken)
    out = tmp_path / "out.csv"
    status = cli.main(["predict", f"--workdir={trained}", f"--images={images}", f"--out={out}"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert line.startswith(f"error: {broken}: cannot be read (")
    assert line.endswith("replace or remove it")
    assert not list(tmp_path.glob("out.csv*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1001}, r"config.sampling.num_steps=1001 is out of range; give at most 1000"),
        ({"num_samples": 0}, r"config.sampling.num_samples=0 is out of range; give at least 1"),
    ],
)
def test_a_sampling_that_cannot_work_is_named(trained, changes, message):
    with pytest.raises(InputError, match=message):
        load(trained, {f"sampling.{name}": value for name, value in changes.items()})


def test_a_workdir_describes_itself(trained, capsys):
    assert cli.main(["info", f"--workdir={trained}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"] == list(tiny.CLASSES)
    assert (facts["recipe"], facts["image_size"]) == ("v1", 32)
    assert facts["step"] in (6, 9)
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    assert facts["test_accuracy"] == scores["accuracy"]
    assert facts["parameters_sha256"] == load(trained).parameters_sha256


def test_a_copied_workdir_is_the_same_classifier(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    ours, theirs = (describe(load(workdir)) for workdir in (copy, trained))
    assert ours == theirs


@pytest.mark.parametrize(
    "other",
    [
        {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])},
        {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([4.0])},
        {"a": jnp.array([1.0]), "b": jnp.array([2.0, 4.0])},
        {"a": jnp.array([1.0, 2.0]), "c": jnp.array([4.0])},
        {"a": jnp.array([1.0, 2.0]), "b": jnp.array([4.0], jnp.bfloat16)},
    ],
)
def test_the_hash_depends_on_values_shapes_names_and_types(trained, other):
    one = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([4.0])}
    again = {"b": jnp.array([4.0]), "a": jnp.array([1.0, 2.0])}
    model = load(trained)
    hashes = [
        dataclasses.replace(model, variables={"params": tree}).parameters_sha256
        for tree in (one, again, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_bad_images_are_left_out_and_listed_if_that_is_asked(tmp_path, images, trained, capsys):
    broken, out = images / "more" / "photo.jpg", tmp_path / "out.csv"
    tiny.write_truncated_jpeg(broken)
    argv = ["predict", f"--workdir={trained}", f"--out={out}", "--on_bad_image=skip"]
    assert cli.main([*argv, f"--images={images}"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-2].startswith(f"skipped {broken}: cannot be read (")
    assert shown.err.splitlines()[-1] == "1 images skipped"
    assert "20 images classified" in shown.out
    assert "more/photo.jpg" not in {row["id"] for row in read(out)}


def test_a_gray_array_stands_for_three_equal_channels(trained):
    gray = np.random.default_rng(0).integers(0, 256, (40, 36), np.uint8)
    both = {"gray": gray, "colour": np.repeat(gray[..., None], 3, axis=-1)}
    found = classify.classify(load(trained), both)
    assert found.ids == ["gray", "colour"]
    np.testing.assert_array_equal(*found.outputs.probabilities)


def test_a_folder_of_bad_images_alone_is_refused(tmp_path, trained, capsys):
    (tmp_path / "images").mkdir()
    tiny.write_truncated_jpeg(tmp_path / "images/a.jpg")
    out = tmp_path / "out.csv"
    argv = ["predict", f"--workdir={trained}", f"--images={tmp_path}/images", f"--out={out}"]
    assert cli.main([*argv, "--on_bad_image=skip"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    first = f"{tmp_path}/images/a.jpg: cannot be read ("
    assert last.startswith(f"error: predict: no image can be read; the first one: {first}")
    assert not out.exists()
