from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from diffmic_jax.data import archives, npz
from diffmic_jax.errors import InputError
from tests.data import native
from tests.data.opened import open_source


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("num_classes", [7, 9])
def test_medmnist_comes_with_its_own_split(tmp_path, compress, num_classes):
    name = {7: "dermamnist", 9: "pathmnist"}[num_classes]
    path = tmp_path / f"{name}.npz"
    native.write_medmnist(path, num_classes, compress=compress)
    source = open_source(name, tmp_path, image_size=28)
    assert {part: len(source.splits[part]) for part in ("train", "validation", "test")} == {
        "train": 32,
        "validation": 10,
        "test": 14,
    }
    assert len(source.task.class_names) == num_classes
    read = pickle.loads(pickle.dumps(source.read))
    with np.load(path) as arrays:
        for part, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
            for i, record in enumerate(source.splits[part]):
                pixels, mode, *_ = read(record)
                image = arrays[f"{theirs}_images"][i]
                assert record.label == arrays[f"{theirs}_labels"][i, 0]
                expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
                np.testing.assert_array_equal(pixels, expected)
                assert mode == ("RGB" if num_classes == 7 else "L")


def test_an_uncompressed_file_is_not_loaded_whole(tmp_path):
    native.write_medmnist(tmp_path / "dermamnist.npz", 7, compress=False)
    array = npz.read_array(tmp_path / "dermamnist.npz", "val_images", mapped=True)
    assert isinstance(array, np.memmap)
    with np.load(tmp_path / "dermamnist.npz") as arrays:
        np.testing.assert_array_equal(array, arrays["val_images"])


@pytest.mark.parametrize(("wanted", "found"), [(28, 28), (32, 64), (64, 64), (224, 128)])
def test_the_size_follows_the_image_size(tmp_path, wanted, found):
    for size in (28, 64, 128):
        suffix = f"_{size}" if size > 28 else ""
        native.write_medmnist(tmp_path / f"dermamnist{suffix}.npz", 7, size=size)
    source = open_source("dermamnist", tmp_path, image_size=wanted)
    assert source.read(source.records[0]).pixels.shape == (found, found, 3)
    named = open_source("dermamnist", tmp_path / "dermamnist_64.npz", image_size=wanted)
    assert named.read(named.records[0]).pixels.shape == (64, 64, 3)


def test_any_file_of_that_kind_can_be_named(tmp_path):
    native.write_medmnist(tmp_path / "mine.npz", 3)
    source = open_source("mine", tmp_path / "mine.npz")
    assert source.task.class_names == ("0", "1", "2")
    named = open_source("mine", tmp_path / "mine.npz", class_names=("a", "b", "c"))
    assert named.task.class_names == ("a", "b", "c")


def test_many_labels_are_zeros_and_ones(tmp_path):
    native.write_medmnist(tmp_path / "chestmnist.npz", 14, multi_label=True)
    source = open_source("chestmnist", tmp_path)
    assert source.task.multi_label
    with np.load(tmp_path / "chestmnist.npz") as arrays:
        labels = [record.label for record in source.splits["test"]]
        np.testing.assert_array_equal(labels, arrays["test_labels"])


def without_test(arrays):
    del arrays["test_labels"]


def volumes(arrays):
    arrays["train_images"] = np.zeros((32, 28, 28, 28), np.uint8)


def floats(arrays):
    arrays["val_images"] = arrays["val_images"].astype(np.float32)


def short(arrays):
    arrays["val_labels"] = arrays["val_labels"][:-1]


def negative(arrays):
    arrays["test_labels"] = arrays["test_labels"].astype(np.int64) - 1


def empty(arrays):
    arrays["val_images"] = np.zeros((10, 0, 0, 3), np.uint8)


@pytest.mark.parametrize("spoil", [without_test, volumes, floats, short, negative, empty])
def test_a_file_that_is_not_medmnist_is_refused(tmp_path, spoil):
    path = tmp_path / "dermamnist.npz"
    native.write_medmnist(path, 7)
    with np.load(path) as file:
        arrays = dict(file)
    spoil(arrays)
    np.savez(path, **arrays)
    with pytest.raises(
        InputError, match=r"dermamnist\.npz: not a MedMNIST file .*download it again"
    ):
        open_source("dermamnist", tmp_path)


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "dermamnist.npz"
    with pytest.raises(InputError, match=r"no dermamnist\*\.npz in .*; download dermamnist\.npz"):
        open_source("dermamnist", tmp_path)
    native.write_medmnist(path, 7)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"dermamnist\.npz: not a MedMNIST file"):
        open_source("dermamnist", tmp_path)


def test_labels_of_a_byte_do_not_wrap_around(tmp_path):
    native.write_medmnist(tmp_path / "x.npz", 3)
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    arrays["test_labels"][0] = 255
    np.savez(tmp_path / "x.npz", **arrays)
    assert len(open_source("x", tmp_path / "x.npz").task.class_names) == 256


def test_one_label_does_not_make_billions_of_classes(tmp_path):
    native.write_medmnist(tmp_path / "x.npz", 3)
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    arrays["test_labels"] = arrays["test_labels"].astype(np.int64)
    arrays["test_labels"][0] = 2**31
    np.savez(tmp_path / "x.npz", **arrays)
    for names in ((), ("a", "b", "c")):
        with pytest.raises(InputError, match=r"x\.npz: has 2147483649 classes, of at most 2000"):
            open_source("x", tmp_path / "x.npz", class_names=names)


def _npy(shape: tuple[int, ...], content: bytes, descr: str = "|u1") -> bytes:
    """An array's file whose header says what it wants to."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_npy((10**6, 10**6), b"few"), "does not have its size"),
        (_npy((2**40, 0), b""), "are not 2-D uint8 images"),
        (_npy((-5, 2), b"few"), r"shape \(-5, 2\)"),
        (_npy((1,), bytes(8), "|O"), "has type object"),
        (_npy((3 * 2**25,), bytes(3 * 2**25)), "unpacks to .* perhaps a bomb"),
        (b"\x93NUMPY\x09\x00", "not a MedMNIST file"),
    ],
    ids=["declared shape", "no size", "negative", "objects", "bomb", "version"],
)
def test_an_array_is_what_its_file_can_hold(tmp_path, kind, content, reason):
    if kind == zipfile.ZIP_STORED and len(content) > 2**20:
        content = content[: 2**20]  # a bomb needs to be packed
        reason = "does not have its size"
    native.write_medmnist(tmp_path / "good.npz", 3)
    with (
        zipfile.ZipFile(tmp_path / "good.npz") as good,
        zipfile.ZipFile(tmp_path / "x.npz", "w", kind) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, content if name == "train_images.npy" else good.read(name))
    with pytest.raises(InputError, match=reason):
        open_source("x", tmp_path / "x.npz")


def test_fields_that_would_be_ignored_are_refused(tmp_path):
    native.write_medmnist(tmp_path / "x.npz", 3)
    with pytest.raises(InputError, match=r"data\.labels: an NPZ has its own labels"):
        open_source("x", tmp_path / "x.npz", labels="labels.csv")


def test_classes_that_do_not_fit_are_refused(tmp_path):
    native.write_medmnist(tmp_path / "pneumoniamnist.npz", 5)
    with pytest.raises(InputError, match="has 5 classes, not 2"):
        open_source("pneumoniamnist", tmp_path)


FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "id": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"}
        }
    },
}
INFO = {
    "name": "ham10000",
    "fileFormat": "array_record",
    "splits": [{"name": "train", "filepathTemplate": archives._FILES}],
}


@pytest.mark.parametrize(
    ("features", "info", "what"),
    [
        ({"pythonClassName": "os.system"}, {}, "features.json: names os.system"),
        ({"python_class_name": "os.system"}, {}, "features.json: names os.system"),
        ({"featuresDict": {"x": [{"pythonClassName": "a.b"}]}}, {}, "features.json: names a.b"),
        ({"type": "os.system", "content": {}}, {}, "features.json: names"),
        ({"a": {"proto_cls": "os.system"}}, {}, "features.json: names"),
        ({}, {"name": "../../x"}, "dataset_info.json: names other files"),
        ({}, {"fileFormat": "tfrecord"}, "dataset_info.json: names other files"),
        ({}, {"splits": [{"name": "../x"}]}, "dataset_info.json: names other files"),
        ({}, {"splits": [{"name": "a", "filepathTemplate": "/etc/x"}]}, "dataset_info.json: names"),
        ({}, {"splits": None}, "dataset_info.json: damaged"),
    ],
)
def test_prepared_data_import_nothing_and_read_their_own_files(tmp_path, features, info, what):
    (tmp_path / "features.json").write_text(json.dumps(FEATURES))
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    archives.check_prepared(tmp_path)
    (tmp_path / "features.json").write_text(json.dumps(FEATURES | features))
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO | info))
    with pytest.raises(InputError, match=what):
        archives.check_prepared(tmp_path)
