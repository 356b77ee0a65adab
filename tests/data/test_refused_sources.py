"""Data that contradict themselves, and options that do not fit them, are refused in one line."""

from __future__ import annotations

import pytest

from diffmic_jax.errors import InputError
from tests.data.opened import open_source
from tests.data.written import write_folders, write_image, write_table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"protocol": "rnadom"},
            r"config\.data\.protocol='rnadom' is unknown; choose one of given, authors, random",
        ),
        ({"validation_fraction": 1.0}, r"config\.data\.validation_fraction=1\.0 leaves nothing to"),
        ({"validation_fraction": 1.1}, r"config\.data\.validation_fraction=1\.1 is out of range"),
        ({"test_fraction": 0.0}, r"config\.data\.test_fraction=0\.0 leaves a part empty"),
        ({"split_seed": -1}, r"config\.data\.split_seed=-1 is out of range"),
        ({"lists": ",test.pkl"}, r"config\.data\.lists=',test\.pkl' must be TRAIN,TEST"),
        ({"lists": "a,b,c"}, r"config\.data\.lists='a,b,c' must be TRAIN,TEST"),
        ({"lists": "a"}, r"config\.data\.lists='a' is a folder, but no lists are known for x; "),
        ({"lists": "no.pkl"}, r"config\.data\.lists: no file .*/no\.pkl; put it there or"),
        ({"protocol": "grouped"}, r"config\.data\.groups: config\.data\.protocol=grouped needs"),
        ({"class_names": ("a", "c")}, r".*/b: unknown class 'b'"),
        ({"groups": "no.csv"}, r"config\.data\.groups: no file .*no\.csv"),
        (
            {"validation_fraction": 0.001},
            r"config\.data\.root: no image is left for the validation part",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path, options, message):
    write_folders(tmp_path)
    with pytest.raises(InputError, match=f"^{message}.*$"):
        open_source("x", tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x", "put a folder of images for each class there"),
        ("aptos2019", "download aptos2019-blindness-detection.zip from https://"),
        ("dermamnist", "download dermamnist.npz"),
    ],
)
@pytest.mark.parametrize("root", ["", "nowhere"])
def test_a_missing_root_names_what_to_put_there(root, name, what):
    with pytest.raises(InputError) as caught:
        open_source(name, root)
    assert str(caught.value).startswith(f"config.data.root={root!r} is not there; {what}")
    assert str(caught.value).endswith("config.data.name=phantom needs no files")


def test_a_part_without_images_is_told_from_few_patients(tmp_path):
    write_table(tmp_path, "image,label,group", [f"{i},{i % 2},g{i % 2}" for i in range(20)])
    with pytest.raises(InputError, match="part, since all images are of few groups"):
        open_source("x", tmp_path, labels="labels.csv", protocol="grouped")


def test_folders_without_images_or_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="fewer than two class folders"):
        open_source("x", tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"/a: no images in this folder"):
        open_source("x", tmp_path)
    write_folders(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"/c: no images in this folder"):
        open_source("x", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9,0", r"labels\.csv row 6: no image '9' in .*; add it or remove the row"),
        ("twice,0", r"labels\.csv row 6: 'twice' is both .*/x/twice\.jpg and .*/y/twice\.jpg"),
        ("3.png,0", r"labels\.csv row 6: '3\.png' is also in .*labels\.csv row 5; keep only one"),
        ("extra,7", r"labels\.csv row 6: label 7 is out of range 0\.\.1"),
        ("extra,dog", r"labels\.csv row 6: unknown class 'dog'"),
    ],
)
def test_a_bad_row_is_refused_with_its_number(tmp_path, row, message):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(4)])
    for name in ("extra.png", "x/twice.jpg", "y/twice.jpg"):
        write_image(tmp_path / name)
    with (tmp_path / "labels.csv").open("a") as file:
        file.write(f"\n{row}")
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path, labels="labels.csv", class_names=("even", "odd"))


def test_lists_that_share_an_image_or_name_a_missing_one_are_refused(listed):
    (listed / "test.pkl").write_bytes((listed / "train.pkl").read_bytes())
    with pytest.raises(InputError, match=r"test\.pkl entry 0: '0\.png' is also in .*train\.pkl"):
        open_source("x", listed, lists="train.pkl,test.pkl")
    (listed / "images" / "5.png").unlink()
    with pytest.raises(InputError, match=r"train\.pkl entry 5: no image '5\.png'"):
        open_source("x", listed, lists="train.pkl")


def test_an_image_without_a_group_is_refused(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(20)])
    (tmp_path / "groups.csv").write_text("image,group\n0,a\n")
    with pytest.raises(InputError, match=r"groups\.csv: no row for image 1, .*data\.groups=\'\'"):
        open_source("x", tmp_path, labels="labels.csv", groups="groups.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n0,a\n1,\n", r"labels\.csv row 3: no label"),
        ("image,label,Label\n0,a,b\n", r"labels\.csv: has column (label|Label) twice"),
        ("image,label\nimages/0.png,a\nimages/../images/0.png,b\n", r"row 3: .* also in .*row 2"),
        ("image,label\n0,a\n1,a\n", r"data\.root: fewer than two classes \(a\)"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, text, message):
    write_table(tmp_path, "image,label", [f"{i},a" for i in range(10)])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path, labels="labels.csv")


def test_two_parts_or_groups_of_one_image_are_refused(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(10)])
    (tmp_path / "split.csv").write_text("image,split\n0,train\n1,test\n0,test\n")
    with pytest.raises(InputError, match=r"split\.csv row 4: '0' is 'train' in an earlier row"):
        open_source("x", tmp_path, labels="labels.csv", split="split.csv")
    (tmp_path / "groups.csv").write_text("image,group\n0,p\n0,q\n")
    with pytest.raises(InputError, match=r"groups\.csv row 3: '0' is 'p' in an earlier row"):
        open_source("x", tmp_path, labels="labels.csv", groups="groups.csv")


@pytest.mark.parametrize("name", ["", "/x", "a/b", "x" * 300])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"^config\.data\.name="):
        open_source(name, write_folders(tmp_path))


def test_a_file_is_no_root(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(InputError, match=r"labels\.csv' is not there; put a folder"):
        open_source("x", tmp_path / "labels.csv")


def test_class_folders_are_not_multi_label(tmp_path):
    with pytest.raises(InputError, match=r"data\.multi_label: class folders give"):
        open_source("x", write_folders(tmp_path), multi_label=True)


def test_a_column_of_measurements_is_no_label(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i * 0.37:.2f}" for i in range(20)])
    message = r"labels\.csv: 20 classes in 20 images, as 0\.00, 0\.37, 0\.74; are these the"
    with pytest.raises(InputError, match=message):
        open_source("images", tmp_path, labels="labels.csv")
