"""The package as its docstring shows it: fit, load, predict, evaluate, report and export."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import diffmic_jax
from diffmic_jax import api
from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.inference.classify import Predictions
from tests import tiny
from tests.data.dicoms import dicom, dump

pytestmark = pytest.mark.whole

PER_CLASS = 20
CHANGES = (
    tiny.TINY | tiny.DIFFUSING | {"guidance.warmup_epochs": 0, "data.validation_fraction": 0.3}
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of images for each class, without a split."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    tiny.write_images(folder, PER_CLASS)
    return folder


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory) -> diffmic_jax.Classifier:
    workdir = tmp_path_factory.mktemp("fit") / "run"
    return diffmic_jax.fit(photos, config="default:v1", workdir=workdir, changes=CHANGES)


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Images of a size of their own: colour and gray PNGs."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (40, 33, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    return [str(tmp_path / "colour.png"), str(tmp_path / "gray.png")]


def test_fit_leaves_a_workdir_that_load_takes(fitted, photos):
    assert fitted.class_names == tiny.CLASSES
    assert fitted.config.data.root == str(photos)
    assert (fitted.config.recipe, fitted.config.data.image_size) == ("v1", 32)
    again = diffmic_jax.load(fitted.workdir)
    assert isinstance(again, diffmic_jax.Classifier)
    assert (again.workdir, again.config) == (fitted.workdir, fitted.config)
    scores = json.loads((fitted.workdir / "eval/test/metrics.json").read_text())
    assert scores["n"] == round(0.2 * 3 * PER_CLASS)
    assert (fitted.workdir / "MODEL_CARD.md").exists()
    assert not (fitted.workdir / "CHECKLIST.md").exists()


def test_predictions_of_files_and_arrays(fitted, files):
    arrays = [np.asarray(Image.open(path)) for path in files]
    found = fitted.predict([*files, *arrays, Path(files[0])])
    assert found.ids == [*files, "image_2", "image_3", f"{files[0]}#4"]
    assert found.class_names == tiny.CLASSES
    assert found.probabilities.shape == found.std.shape == (5, 3)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (found.std >= 0).all()
    assert found.std.any()
    assert found.labels == [tiny.CLASSES[best] for best in found.probabilities.argmax(axis=1)]
    assert found.sets is not None
    assert len(found.sets) == 5
    assert {name for members in found.sets for name in members} <= set(tiny.CLASSES)
    assert found.in_distribution is None


def test_an_array_is_classified_as_its_file_is(fitted, files):
    for file in files:
        ours, theirs = (fitted.predict(x) for x in (np.asarray(Image.open(file)), file))
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(ours.std, theirs.std)
        assert (ours.ids, theirs.ids) == (["image_0"], [file])


def test_a_dicom_file_is_classified_as_its_pixels_are(fitted, tmp_path):
    pytest.importorskip("pydicom")
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40), np.uint8)
    pixels[0, :2] = 0, 255  # without a window, from the darkest to the brightest
    (tmp_path / "a.dcm").write_bytes(dump(dicom(pixels)))
    ours, theirs = (fitted.predict(x) for x in (tmp_path / "a.dcm", pixels))
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_the_place_in_the_list_does_not_matter(fitted, files):
    first, second, third = fitted.predict([files[0], files[0], files[1]]).probabilities
    again = fitted.predict([files[1], files[0]]).probabilities
    np.testing.assert_allclose([first, second, third], again[[1, 1, 0]], atol=1e-5)


def test_the_coverage_of_the_sets_can_be_chosen(fitted, photos):
    paths = sorted(photos.rglob("*.png"))
    sizes = [
        sum(map(len, fitted.predict(paths, coverage=share).sets)) for share in (0.1, 0.5, 0.99)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


SOME = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (SOME / 255, "image_0: is float64[8, 8, 3]; give uint8 [height, width, 3], or "),
        (SOME[..., :2], "image_0: is uint8[8, 8, 2]; give uint8 [height, width, 3], or "),
        (SOME[None], "image_0: is uint8[1, 8, 8, 3]; give uint8 [height, width, 3], or "),
        (SOME[0, 0], "image_0: is uint8[3]; give uint8 [height, width, 3], or [height, width]"),
        (SOME[:0], "image_0: is uint8[0, 8, 3]; give uint8 [height, width, 3], or [height, width]"),
        ([SOME, SOME + 0.5], "image_1: is float64[8, 8, 3]; give uint8 "),
        ([SOME, None], "image_1: is object[]; give uint8 "),
        ("no/where.png", "no/where.png: cannot be read ("),
        ([SOME, Path("no/where.png")], "no/where.png: cannot be read ("),
        ([], "predict: there are no images; name some"),
    ],
)
@pytest.mark.parametrize("kind", ["workdir", "exported"])
def test_an_image_that_cannot_be_used_is_one_line(fitted, exported, kind, image, message):
    classifier = {"workdir": fitted, "exported": exported}[kind]
    with pytest.raises(InputError) as error:
        classifier.predict(image)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_evaluation_has_its_metrics_and_is_written(fitted, tmp_path):
    found = fitted.evaluate("test")
    scores = json.loads((fitted.workdir / "eval/test/metrics.json").read_text())
    assert found.metrics["accuracy"] == scores["accuracy"]
    with (fitted.workdir / "eval/test/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert found.ids == [row["id"] for row in rows]
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == scores["accuracy"]
    other = fitted.evaluate("validation", folder=tmp_path)
    assert other.metrics["n"] == json.loads((tmp_path / "metrics.json").read_text())["n"]
    assert not (fitted.workdir / "eval/validation").exists()


def test_an_evaluation_agrees_with_predict(fitted, photos):
    found = fitted.evaluate("test")
    ours = fitted.predict([photos / name for name in found.ids])
    np.testing.assert_allclose(ours.probabilities, found.outputs.probabilities, atol=2e-5)


def test_data_that_has_moved_is_named_by_its_new_root(fitted, tmp_path):
    tiny.write_images(tmp_path / "moved", PER_CLASS)
    ours = fitted.evaluate(folder=tmp_path / "out", root=tmp_path / "moved")
    assert ours.metrics["accuracy"] == fitted.evaluate("test").metrics["accuracy"]
    with pytest.raises(InputError, match="config.data.root='no/where' is not there"):
        fitted.evaluate(root="no/where")


def test_a_report_is_one_file(fitted, tmp_path):
    out = fitted.report(tmp_path / "report.html")
    assert out == tmp_path / "report.html"
    assert "<html" in out.read_text()
    assert fitted.report() == fitted.workdir / "report.html"
    with pytest.raises(InputError, match=f"{tmp_path}: is a folder; name a file, as "):
        fitted.report(tmp_path, split="validation")


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory) -> api.ExportedClassifier:
    out = tmp_path_factory.mktemp("export") / "model.stablehlo"
    assert fitted.export(out) == out
    loaded = diffmic_jax.load(out)
    assert isinstance(loaded, api.ExportedClassifier)
    return loaded


def test_an_exported_classifier_predicts_the_same(fitted, exported, files):
    images = [*files, np.asarray(Image.open(files[0]))]
    ours, theirs = fitted.predict(images), exported.predict(images)
    assert exported.class_names == fitted.class_names
    assert (ours.ids, ours.labels) == (theirs.ids, theirs.labels)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
    np.testing.assert_allclose(theirs.std, ours.std, rtol=1e-5, atol=1e-5)
    assert theirs.sets is None


def test_an_export_of_one_batch_size_takes_any_number_of_images(fitted, files, tmp_path):
    small = diffmic_jax.load(fitted.export(tmp_path / "two.stablehlo", batch_size=2))
    images = [*files, files[0]]
    ours, theirs = (each.predict(images) for each in (small, fitted))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}/none holds no checkpoint; train there f"):
        diffmic_jax.load(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=f"^{tmp_path}/file.json: cannot be read "):
        diffmic_jax.load(tmp_path / "file")


class Started(Exception):
    """Raised in the place of a training."""


@pytest.fixture
def started(monkeypatch) -> list[tuple[Config, Path]]:
    """The configurations and workdirs that `fit` trains."""
    found: list[tuple[Config, Path]] = []

    def train(config: Config, workdir: Path, minutes: float | None) -> None:
        assert minutes is None  # as nobody gives any
        found.append((config, workdir))
        raise Started

    monkeypatch.setattr(api, "train", train)
    return found


def test_fit_takes_a_table_a_name_or_what_the_configuration_has(started, photos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\n")
    own = Config(recipe="own", seed=7)
    for options in (
        {"data": table, "config": "default"},
        {"data": "phantom", "config": "quickstart:v2"},
        {"config": "ham10000:classifier", "changes": {"train.epochs": 3}},
        {"data": str(photos), "config": own, "workdir": tmp_path / "w"},
    ):
        with pytest.raises(Started):
            diffmic_jax.fit(**options)
    (csv_, _), (phantom, place), (ham, where), (last, workdir) = started
    assert (csv_.data.name, csv_.data.root) == ("images", str(tmp_path))
    assert csv_.data.labels == "labels.csv"
    assert (phantom.data.name, phantom.recipe) == ("phantom", "v2")
    assert place == Path("runs/quickstart-v2")
    assert (ham.data.name, ham.recipe, ham.train.epochs) == ("ham10000", "classifier", 3)
    assert where == Path("runs/ham10000-classifier")
    assert last == own.changed({"data.root": str(photos)})
    assert workdir == tmp_path / "w"


AS_IS = {"config": "default"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "no/where"}, "no/where: no such folder or CSV, and not one of the data sets ph"),
        ({"config": "nothing"}, "--config=nothing: no such file; give one of your own, or one of"),
        ({"config": "default:v9"}, "recipe 'v9' is unknown; choose one of "),
        (
            {"config": "default", "changes": {"train.epoch": 3}},
            "config.train.epoch: there is no such field; did you ",
        ),
        (
            {"config": "default", "changes": {"guidance.width": 3}},
            "config.guidance.width is now config.model.width",
        ),
        (
            {"config": "default", "changes": {"train.epochs": "3"}},
            "config.train.epochs='3' is of the wrong type; give",
        ),
        (
            {"config": "default", "changes": {"train.epochs": None}},
            "config.train.epochs=None is of the wrong type; g",
        ),
        ({}, "fit: name a folder, a CSV or a data set"),
        (
            {"config": "default"},
            "config.data.root='' is not there; put a folder of images for each class there",
        ),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        diffmic_jax.fit(**options, workdir=tmp_path / "run")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# The package itself.


def test_importing_the_package_does_not_import_jax():
    code = """
import sys
import diffmic_jax
assert diffmic_jax.__version__
assert dir(diffmic_jax) == ["Classifier", "__version__", "fit", "load"], dir(diffmic_jax)
assert not hasattr(diffmic_jax, "nothing")
assert not {"jax", "flax", "numpy", "ml_collections"} & set(sys.modules)
from diffmic_jax import *
assert callable(fit) and callable(load) and isinstance(Classifier, type)
assert "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'diffmic_jax' has no attribute 'train'"):
        diffmic_jax.train  # noqa: B018


FOUND = Predictions(
    ids=["a", "b"],
    labels=["cat", "dog"],
    class_names=("cat", "dog"),
    probabilities=np.array([[0.75, 0.25], [0.5, 0.5]]),
    std=np.array([[0.1, 0.2], [0.3, 0.4]]),
    sets=[("cat",), ("cat", "dog")],
)


def test_a_table_without_pandas_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="^to_pandas needs pandas; pip install pandas$"):
        FOUND.to_pandas()


def test_a_table_has_a_row_for_each_image(monkeypatch):
    stand_in = ModuleType("pandas")
    stand_in.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    table = {name: list(column) for name, column in FOUND.to_pandas().items()}
    assert table == {
        "id": ["a", "b"],
        "prediction": ["cat", "dog"],
        "prob_cat": [0.75, 0.5],
        "std_cat": [0.1, 0.3],
        "prob_dog": [0.25, 0.5],
        "std_dog": [0.2, 0.4],
        "set": ["cat", "cat|dog"],
    }
    gated = dataclasses.replace(FOUND, in_distribution=np.array([True, False])).to_pandas()
    assert list(gated["in_distribution"]) == [True, False]
