from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.errors import InputError
from tests.data.opened import open_source


def write(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def many(*folders: str, count: int = 10) -> list[str]:
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


def test_a_part_without_classes_is_not_cut_from_training_instead(tmp_path, caplog):
    write(tmp_path, *many("train/x", "train/y"), "test/0.png", "test/1.png")
    message = r"/test: 2 images, as 0\.png, are not in a folder of a class; .* `diffmic predict`"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)
    source = open_source("x", tmp_path, unlabelled="skip")
    assert not any(record.id.startswith("test/") for record in source.records)
    assert "2 images, as 0.png, are not in a folder of a class and are left out" in caplog.text
    assert "another test part is cut if no class folder is in it" in caplog.text


@pytest.mark.parametrize("stray", ["0.png", "train/0.png"])
def test_images_beside_the_class_folders_are_not_left_out_silently(tmp_path, stray):
    write(tmp_path, *many("train/x", "train/y"), stray)
    with pytest.raises(InputError, match=r"1 images, as 0\.png, are not in a folder of a class"):
        open_source("x", tmp_path)


def test_class_folders_further_below_are_pointed_out(tmp_path):
    write(tmp_path, "images/x/a.png", "images/y/a.png")
    for beside in ("images", "documents"):  # with a folder without images beside it or none
        (tmp_path / beside).mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"images has the class folders x, y: name that fold"):
            open_source("x", tmp_path)


def test_one_class_is_enough_where_the_names_of_all_are_given(tmp_path):
    write(tmp_path, *many("x/site1", "x/site2"))
    task = open_source("x", tmp_path, class_names=("x", "y")).task
    assert task.class_names == ("x", "y")


def test_the_folders_of_the_parts_may_be_inside_those_of_the_classes(tmp_path, caplog):
    write(tmp_path, *many("x/train", "y/train", count=8), *many("x/test", "y/test", count=2))
    with caplog.at_level("INFO", "diffmic_jax"):
        source = open_source("x", tmp_path)
    assert "the parts are the folders inside the class folders" in caplog.text
    assert "each class folder holds" not in caplog.text
    test = sorted(record.id for record in source.splits["test"])
    assert test == ["x/test/0.png", "x/test/1.png", "y/test/0.png", "y/test/1.png"]
    assert source.task.class_names == ("x", "y")
    write(tmp_path, "y/0.png")
    message = r"x: has folders of parts \(test, train\), but some images of class folders are in no"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)


def test_numbers_are_in_numeric_order_and_have_an_order(tmp_path):
    task = open_source("x", write(tmp_path, *many("0", "1", "2", "10", "11"))).task
    assert task.class_names == ("0", "1", "2", "10", "11")
    assert task.ordered


def test_words_have_an_order_only_if_it_is_given(tmp_path):
    write(tmp_path, *many("mild", "none", "severe"))
    assert not open_source("x", tmp_path).task.ordered
    task = open_source("x", tmp_path, class_names=("none", "mild", "severe")).task
    assert task.ordered
    assert task.class_names == ("none", "mild", "severe")


def test_folders_of_one_number_in_two_writings_are_one_class(tmp_path):
    write(tmp_path, *many("train/01", "train/02", "test/1", "test/2"))
    assert open_source("x", tmp_path).task.class_names == ("1", "2")


def test_what_archives_and_systems_add_is_no_class(tmp_path):
    write(tmp_path, *many("x", "y"), "__MACOSX/x/0.png", "x/__MACOSX/1.png")
    source = open_source("x", tmp_path)
    assert source.task.class_names == ("x", "y")
    assert len(source.records) == 20


def test_dicom_without_an_ending_is_found_and_what_is_left_out_is_told(tmp_path, caplog):
    write(tmp_path, *many("x", "y"))
    for name in ("IM0001", "I2.ima"):
        (tmp_path / "x" / name).write_bytes(bytes(128) + b"DICM")
    for name in ("a.pgm", "b.JP2", "c.jp2", "README"):
        (tmp_path / "x" / name).write_bytes(b"text")
    with caplog.at_level(logging.INFO, "diffmic_jax"):
        source = open_source("x", tmp_path)
    assert {"x/IM0001", "x/I2.ima"} <= {record.id for record in source.records}
    assert len(source.records) == 22
    told = "files that are not read as images: 2 .jp2, "
    assert told in caplog.text
    assert "1 .pgm" in caplog.text
    assert "1 without ending" in caplog.text


def test_names_that_look_the_same_are_one_class_and_no_two_images(tmp_path):
    write(tmp_path, *many("train/e\u0301", "train/y"), *many("test/\u00e9", "test/y", count=2))
    source = open_source("x", tmp_path)
    assert source.task.class_names == ("y", "\u00e9")
    assert "train/\u00e9/0.png" in {record.id for record in source.records}
    write(tmp_path, "train/y/u\u0308.png", "train/y/\u00fc.png")
    with pytest.raises(InputError, match="its name looks the same as that of"):
        open_source("x", tmp_path)


def test_links_that_lead_out_are_refused_unless_they_are_allowed(tmp_path):
    write(tmp_path / "root", *many("x", "y"))
    write(tmp_path / "other", "0.png")
    (tmp_path / "root/x/link.png").symlink_to(tmp_path / "other/0.png")
    with pytest.raises(InputError, match=r"link\.png is .*other/0\.png, which is not under"):
        open_source("x", tmp_path / "root")
    assert len(open_source("x", tmp_path / "root", allow_outside=True).records) == 21


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_without_train_beside_it_is_no_class(tmp_path, part):
    write(tmp_path, *many("x", "y"), f"{part}/0.png")
    with pytest.raises(InputError, match=rf"/{part}: has the name of a part, but no folder train"):
        open_source("x", tmp_path)


def test_folders_of_a_part_that_are_no_classes_are_refused(tmp_path):
    write(tmp_path, *many("train/x", "train/y", "test/images"))
    with pytest.raises(InputError, match=r"/test/images: is no class of training, nor is another"):
        open_source("x", tmp_path)


def test_a_class_folder_of_other_formats_says_which_are_read(tmp_path):
    write(tmp_path, *many("x", "y"))
    (tmp_path / "z").mkdir()
    (tmp_path / "z/a.pgm").write_bytes(b"P5 1 1 255 0")
    message = r"/z: no images in this folder \(1 \.pgm are not read as images\); add some as PNG"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)


def test_masks_inside_a_class_folder_are_left_out(tmp_path, caplog):
    folders = [f"{name}/{kind}" for name in ("x", "y") for kind in ("images", "lung masks")]
    write(tmp_path, *many(*folders))
    records = open_source("x", tmp_path).records
    assert len(records) == 20
    assert all("/images/" in record.id for record in records)
    assert "10 images are left out, since they or their folders are named as masks" in caplog.text


def test_a_name_and_the_same_with_an_ending_is_a_mask_or_the_same_patient(tmp_path):
    stems = [f"{name}/{i}" for name in ("x", "y") for i in range(10)]
    write(tmp_path, *(f"{stem}{ending}.png" for stem in stems for ending in ("", "-d")))
    message = r"20 of 40 images are named as another and '-d', this one as 0\.png"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)
    source = open_source("x", tmp_path, group_regex=r"(\w/\d)")
    assert len({record.group for record in source.records}) == 20
    for stem in stems[:5]:  # of many others it is no rule
        (tmp_path / f"{stem}.png").rename(tmp_path / f"{stem}-other.png")
    assert len(open_source("x", tmp_path).records) == 40


def test_crops_belong_to_their_images(tmp_path):
    for name in ("x", "y"):
        for i in range(10):
            write(tmp_path, f"{name}/im/{i}.png")
            write(tmp_path, *(f"{name}/im/CROPPED/{i}_0{k}.png" for k in range(3)))
    message = r"60 of 80 images are in folders beside images that they are named after, this one af"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)
    source = open_source("x", tmp_path, group_regex=r"(\d)(?:_\d+)?\.png$")
    assert len({record.group for record in source.records}) == 10


def test_copies_with_numbers_are_no_masks(tmp_path):
    stems = [f"{name}/{i}" for name in ("x", "y") for i in range(10)]
    write(tmp_path, *(f"{stem}{ending}.png" for stem in stems for ending in ("", "-2")))
    assert len(open_source("x", tmp_path).records) == 40


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["C-NMC_training_data/fold_0", "C-NMC_test_prelim_phase", "C-NMC_test_final_phase"],
            "it and C-NMC_t.* are named as parts, and would be classes",
        ),
        (["fold_0", "fold_1", "fold_2"], "the folders are named as folds, and would be classes"),
        (["yes", "no", "pred"], "pred: is named as images without a label"),
        (["yes", "no", "Unlabelled images"], "is named as images without a label"),
        (
            ["no", "yes", "yes/copy/TRAIN", "yes/copy/TEST"],
            r"yes: has folders of parts \(test, tr",
        ),
        (["train/x", "train/y", "test/x", "test/z"], "z: is no class of training, which has x, y;"),
        (
            [f"{i}/{name}" for i in range(12) for name in ("Mayo 0", "Mayo 1")][:-1],
            r"numbered as patients are, and the classes seem to be the .* \(Mayo 0, Mayo 1\)",
        ),
    ],
)
def test_what_is_no_class_is_refused(tmp_path, folders, message):
    write(tmp_path, *many(*folders, count=4))
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)


def test_a_name_that_is_given_is_a_class_whatever_it_sounds_like(tmp_path):
    write(tmp_path, *many("pred", "other"))
    task = open_source("x", tmp_path, class_names=("other", "pred")).task
    assert task.class_names == ("other", "pred")


@pytest.mark.parametrize(
    "folders",
    [
        ("bullet train", "crash test"),
        ("mask", "no_mask"),
        ("blood/band", "blood/seg", "other/seg", "other/band"),
        tuple(f"{i}/{sex}" for i in range(1, 19) for sex in ("female", "male")),
    ],
)
def test_what_is_a_class_after_all_is_not_refused(tmp_path, folders):
    write(tmp_path, *many(*folders, count=8))
    source = open_source("x", tmp_path)
    assert len(source.task.class_names) == len({each.split("/")[0] for each in folders})
    assert len(source.records) == 8 * len(folders)


def test_a_part_that_holds_others_is_not_taken_with_them(tmp_path):
    write(tmp_path, *many(*(f"{part}/{x}" for part in ("train", "val", "train_val") for x in "xy")))
    with pytest.raises(InputError, match=r"/train_val: is not one of train, training, valid"):
        open_source("x", tmp_path)


def test_nothing_of_given_parts_is_parted(tmp_path):
    stems = [f"{part}/{x}/{i}" for part in ("train", "val", "test") for x in "xy" for i in range(4)]
    write(tmp_path, *(f"{stem}{ending}.png" for stem in stems for ending in ("", "_flip")))
    assert len(open_source("x", tmp_path).splits["test"]) == 16


def test_a_given_class_may_be_of_the_test_part_alone(tmp_path):
    write(tmp_path, *many("train/x", "train/y", "test/x", "test/z"))
    names = open_source("x", tmp_path, class_names=("x", "y", "z")).task.class_names
    assert names == ("x", "y", "z")


def test_grades_with_the_same_sites_are_classes(tmp_path, caplog):
    write(tmp_path, *many(*(f"{grade}/{side}" for grade in range(5) for side in ("left", "right"))))
    assert len(open_source("x", tmp_path).task.class_names) == 5
    assert "each class folder holds folders, as left, right" in caplog.text


def test_training_and_validation_together_are_cut(tmp_path):
    write(tmp_path, *many("train_and_validation_sets/x", "train_and_validation_sets/y"))
    write(tmp_path, *many("test_set/x", "test_set/y", count=2))
    splits = open_source("x", tmp_path).splits
    assert len(splits["test"]) == 4
    assert splits["validation"]


def test_a_copy_of_the_classes_in_a_class_folder_is_refused(tmp_path):
    write(tmp_path, *many("no", "yes", "copy/no", "copy/yes"))
    with pytest.raises(InputError, match=r"copy: holds the class folders no, yes again; move it"):
        open_source("x", tmp_path)


def test_classes_inside_the_parts_of_two_archives_are_no_parts_of_these(tmp_path):
    inner = [f"{part}/{name}/images" for part in ("Train", "Test") for name in ("sick", "well")]
    write(tmp_path, *many(*(f"{archive} Data/{each}" for archive in ("A", "B") for each in inner)))
    message = r"A Data: its parts have the class folders sick, well; name the folder"
    with pytest.raises(InputError, match=message):
        open_source("x", tmp_path)
    assert open_source("x", tmp_path / "A Data").task.class_names == ("sick", "well")


def test_other_folders_in_each_class_folder_may_be_the_classes(tmp_path, caplog):
    write(tmp_path, *many("colon/aca", "colon/n", "lung/aca", "lung/n", "lung/scc"))
    open_source("x", tmp_path)
    assert "each class folder holds folders, as aca, n, scc; if these are" in caplog.text


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["First/100x Normal", "First/100x OSCC", "Second/400x Normal", "Second/400x OSCC"], 1),
        (["a/all/x", "a/all/y", "b/all/x", "b/all/y"], 1),
        (["tiles/01_TUMOR", "tiles/02_STROMA", "larger"], 1),
        (["x/p1", "x/p2", "y/p3", "y/p4"], 0),
        (["x/all", "y/all/p1", "y/all/p2"], 0),
    ],
)
def test_sites_are_told_from_patients(tmp_path, caplog, folders, told):
    write(tmp_path, *many(*folders))
    open_source("x", tmp_path)
    assert caplog.text.count("if these are the classes") == told
