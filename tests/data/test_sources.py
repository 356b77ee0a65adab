"""Folders, tables and lists that a data set can come as."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax.data import files as records
from diffmic_jax.data import sources
from diffmic_jax.errors import InputError
from tests.data import native
from tests.data.opened import open_source
from tests.data.written import ids, sizes, write_folders, write_image, write_table


def test_the_records_are_put_together_once():
    source = open_source("phantom")
    assert source.records is source.records  # an audit asks for each of them


def test_a_folder_per_class_is_cut_by_class(tmp_path):
    source = open_source("x", write_folders(tmp_path, 30))
    assert source.task.class_names == ("a", "b")
    assert sizes(source) == [43, 5, 12]
    assert Counter(r.label for r in source.splits["test"]) == {0: 6, 1: 6}
    assert all(r.id.startswith("ab"[r.label]) for r in source.splits["train"])
    assert source.read(source.splits["test"][0]).pixels.shape == (20, 30, 3)
    assert len(set(ids(source, "train") + ids(source, "validation") + ids(source, "test"))) == 60


@pytest.mark.parametrize("validation", ["val", "validation", None])
def test_folders_of_parts_are_the_given_split(tmp_path, validation):
    for part, count in (("train", 10), ("test", 3)) + (((validation, 2),) if validation else ()):
        write_folders(tmp_path / part, count)
    source = open_source("x", tmp_path)
    assert sizes(source) == ([20, 4, 6] if validation else [18, 2, 6])
    assert all(i.startswith("test/") for i in ids(source, "test"))


def test_class_names_order_the_labels(tmp_path):
    source = open_source("x", write_folders(tmp_path), class_names=("b", "a"))
    assert {(r.id[0], r.label) for r in source.splits["train"]} == {("b", 0), ("a", 1)}


def test_a_table_with_a_split(tmp_path):
    parts = ["train", "train", "test", "validation"]
    root = write_table(
        tmp_path, "image,label,split", [f"{i},c{i % 2},{parts[i % 4]}" for i in range(8)]
    )
    source = open_source("x", root, labels="labels.csv")
    assert source.task.class_names == ("c0", "c1")
    assert [ids(source, part) for part in sources.PARTS] == [
        ["0", "1", "4", "5"],
        ["3", "7"],
        ["2", "6"],
    ]
    assert [r.label for r in source.splits["train"]] == [0, 1, 0, 1]


def test_a_one_hot_table_keeps_the_order_of_its_columns(tmp_path):
    root = write_table(tmp_path, "image,NV,MEL", [f"{i},{i % 2},{1 - i % 2}" for i in range(20)])
    source = open_source("x", root, labels="labels.csv")
    assert source.task.class_names == ("NV", "MEL")
    assert {(int(r.id) % 2, r.label) for r in source.splits["train"]} == {(0, 1), (1, 0)}
    source = open_source("x", root, labels="labels.csv", class_names=("mel", "nv"))
    assert {(int(r.id) % 2, r.label) for r in source.splits["train"]} == {(0, 0), (1, 1)}


def test_grades_in_train_images(tmp_path):
    for i in range(10):
        write_image(tmp_path / "train_images" / f"{i:03d}.png")
    table = "\n".join(["id_code,diagnosis", *(f"{i:03d},{i % 5}" for i in range(10))])
    (tmp_path / "train.csv").write_text(table)
    source = open_source("x", tmp_path, labels="train.csv", validation_fraction=0)
    assert source.task.class_names == ("0", "1", "2", "3", "4")
    assert sizes(source) == [8, 0, 2]
    assert all(r.label == int(r.id) % 5 for r in source.splits["train"])


def test_split_lists(listed):
    source = open_source("x", listed, lists="train.pkl,test.pkl", validation_fraction=0.25)
    assert source.task.class_names == ("0", "1")
    assert sizes(source) == [6, 2, 4]
    assert ids(source, "test") == ["8.png", "9.png", "10.png", "11.png"]
    assert [r.label for r in source.splits["test"]] == [0, 1, 0, 1]
    # Labels of a list are indices even where the names are numbers.
    named = open_source("x", listed, lists="train.pkl", class_names=("1", "2"))
    assert {(int(r.id[:-4]) % 2, r.label) for r in named.splits["train"]} == {(0, 0), (1, 1)}


def test_a_folder_stands_for_the_known_lists_in_it(tmp_path):
    native.write_aptos2019(tmp_path / "data", count=10)
    codes = [path.stem for path in sorted((tmp_path / "data/train_images").iterdir())]
    (tmp_path / "lists").mkdir()
    for name, part in (("train", codes[:6]), ("test", codes[6:])):
        entries = [{"img_root": f"his/{code}.png", "label": 1} for code in part]
        (tmp_path / "lists" / f"aptos_{name}.pkl").write_bytes(pickle.dumps(entries))
    lists = str(tmp_path / "lists")
    for protocol in ("given", "authors"):
        source = open_source("aptos2019", tmp_path / "data", lists=lists, protocol=protocol)
        assert sorted(Path(i).stem for i in ids(source, "test")) == codes[6:]
        # By the authors' protocol the lists give the parts, and the table gives the labels.
        assert ({r.label for r in source.records} == {1}) == (protocol == "given")
    one = str(tmp_path / "lists/aptos_train.pkl")
    with pytest.raises(InputError, match=r"^config\.data\.lists=.* is one list, but .*needs both"):
        open_source("aptos2019", tmp_path / "data", lists=one, protocol="authors")


def test_split_lists_may_name_paths_under_the_root(tmp_path):
    write_folders(tmp_path)
    entries = [
        {"img_root": f"{c}/{i}.png", "label": "ab".index(c)} for c in "ab" for i in range(10)
    ]
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(entries))
    source = open_source("x", tmp_path, lists="train.pkl")
    assert all(r.id.startswith("ab"[r.label]) for r in source.splits["train"])
    assert sizes(source) == [14, 2, 4]


def test_the_phantom_needs_no_files():
    source = open_source("phantom", validation_fraction=0.1)
    assert len(source.task.class_names) == 4
    assert sum(sizes(source)) == 2098
    image, mode, *_ = source.read(source.splits["train"][0])
    assert mode == "L"
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize(
    ("train", "validation", "test"), [("Training", "Valid", "Testing"), ("TRAIN", "val", "Test")]
)
def test_folders_of_parts_go_by_many_names(tmp_path, train, validation, test):
    for part, count in ((train, 10), (validation, 2), (test, 3)):
        write_folders(tmp_path / part, count)
    source = open_source("x", tmp_path)
    assert source.task.class_names == ("a", "b")
    assert sizes(source) == [20, 4, 6]


def test_a_folder_beside_the_parts_is_not_left_out_silently(tmp_path):
    for part in ("train", "test", "holdout"):
        write_folders(tmp_path / part)
    with pytest.raises(InputError, match=r"/holdout: is not one of train, training, valid"):
        open_source("x", tmp_path)


def test_a_folder_of_masks_beside_the_classes_is_none(tmp_path, caplog):
    for i in range(12):
        for name in ("x", "y", "masks"):
            write_image(tmp_path / name / f"{i}.png")
    assert open_source("x", tmp_path).task.class_names == ("x", "y")
    assert f"{tmp_path / 'masks'} is left out, since it is named as masks" in caplog.text
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(InputError, match="fewer than two class folders"):
        open_source("x", tmp_path)


def test_classes_inside_of_other_folders_are_told(tmp_path, caplog):
    for i in range(12):
        write_image(tmp_path / "patients/benign" / str(i % 3) / f"{i}.png")
        write_image(tmp_path / "patients/malignant" / str(i % 4 + 3) / f"{i}.png")
        for site in ("a", "b"):
            for name in ("benign", "malignant"):
                write_image(tmp_path / "sites" / site / name / f"{i}.png")
    open_source("x", tmp_path / "patients")
    assert "holds folders" not in caplog.text
    open_source("x", tmp_path / "sites")
    assert "each class folder holds folders, as benign, malignant" in caplog.text


def test_masks_beside_their_images_are_left_out(tmp_path, caplog):
    write_folders(tmp_path)
    open_source("x", tmp_path)
    assert "masks" not in caplog.text
    for name in ("0_mask", "0_mask_1", "1-Segmentation", "other_mask"):
        write_image(tmp_path / "a" / f"{name}.png")
    assert sum(sizes(open_source("x", tmp_path))) == 21
    assert "3 images are left out, since they or their folders are named as masks" in caplog.text


def test_hidden_folders_are_left_out(tmp_path):
    write_folders(tmp_path, 10)
    write_image(tmp_path / "a/.ipynb_checkpoints/0-checkpoint.png")
    assert len(open_source("x", tmp_path).records) == 20


def test_no_finding_is_no_class(tmp_path):
    rows = [f"{i},{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}" for i in range(30)]
    root = write_table(tmp_path, "image,No Finding,Mass,Edema", rows)
    source = open_source("x", root, labels="labels.csv", multi_label=True)
    assert source.task.class_names == ("Mass", "Edema")
    labels = {int(r.id) % 3: r.label for r in source.records}
    assert labels == {0: (0, 0), 1: (1, 0), 2: (0, 1)}


def test_rows_that_occur_twice_and_agree_count_once(tmp_path, caplog):
    root = write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(10)])
    with (root / "labels.csv").open("a") as file:
        file.write("\n3,1\n4.png,0\n")
    assert len(open_source("x", root, labels="labels.csv").records) == 10
    assert "2 rows repeat an earlier one and are left out" in caplog.text


def test_all_rows_without_an_image_are_told(tmp_path):
    root = write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(20)])
    for i in range(15):
        (root / f"images/{i}.png").unlink()
    with pytest.raises(InputError, match=r"^15 problems: .*row 2: no image '0' .* and 5 more$"):
        open_source("x", root, labels="labels.csv")


@pytest.mark.parametrize("cells", ["12345", ["1.0", "2.0", "3.0", "4.0", "5.0"], ["01", "02"]])
def test_whole_numbers_are_classes_from_wherever_they_start(tmp_path, cells):
    rows = [f"{i},{cells[i % len(cells)]}" for i in range(40)]
    root = write_table(tmp_path, "image,label", rows)
    source = open_source("x", root, labels="labels.csv")
    assert source.task.class_names == tuple(str(i + 1) for i in range(len(cells)))
    assert source.task.ordered
    assert all(record.label == int(record.id) % len(cells) for record in source.records)


def test_labels_from_1_with_names_are_not_shifted(tmp_path):
    root = write_table(tmp_path, "image,label", [f"{i},{i % 3 + 1}" for i in range(30)])
    source = open_source("x", root, labels="labels.csv", class_names=("a", "b", "c"))
    assert all(record.label == int(record.id) % 3 for record in source.records)


def test_a_name_that_two_images_share_stands_for_neither(tmp_path):
    write_folders(tmp_path)  # a/0.png and b/0.png
    rows = "\n".join(f"{i}.png,{'test' if i > 7 else 'train'}" for i in range(10))
    (tmp_path / "split.csv").write_text(f"image,split\n{rows}")
    with pytest.raises(InputError, match=r"no part for image a/0\.png, or not for it alone"):
        open_source("x", tmp_path, split="split.csv")


def test_an_id_with_dots_is_not_cut(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"1.2.{i}.png")
    rows = "\n".join(f"1.2.{i},{i % 2}" for i in range(10))
    (tmp_path / "labels.csv").write_text(f"image,label\n{rows}")
    (tmp_path / "groups.csv").write_text("image,group\n1.2,p\n")
    with pytest.raises(InputError, match=r"groups\.csv: no row for image 1\.2\."):
        open_source("x", tmp_path, labels="labels.csv", groups="groups.csv")


def test_a_table_outside_of_the_root_is_found(tmp_path, monkeypatch):
    source = open_source("x", write_folders(tmp_path / "data"))
    (tmp_path / "split.csv").write_text(sources.write_split(source))
    monkeypatch.chdir(tmp_path)
    assert open_source("x", "data", split="split.csv", split_seed=1).task.class_names == ("a", "b")


def test_validation_is_cut_where_a_split_has_none(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(40)])
    rows = "\n".join(f"{i},{'test' if i < 10 else 'train'}" for i in range(40))
    (tmp_path / "split.csv").write_text(f"image,split\n{rows}")
    source = open_source("x", tmp_path, labels="labels.csv", split="split.csv")
    assert sizes(source) == [27, 3, 10]


def test_file_names_that_are_no_utf8_are_carried_through(tmp_path):
    write_folders(tmp_path / "data")
    odd = os.fsdecode(os.fsencode(tmp_path / "data/a") + b"/gr\xfc.png")
    (tmp_path / "data/a/0.png").rename(odd)
    source = open_source("x", tmp_path / "data")
    records.write_text(tmp_path / "split.csv", sources.write_split(source))
    again = open_source("x", tmp_path / "data", split=str(tmp_path / "split.csv"), split_seed=1)
    assert {p: set(r) for p, r in again.splits.items()} == {
        p: set(r) for p, r in source.splits.items()
    }
