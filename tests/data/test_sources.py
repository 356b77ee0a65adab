from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import files as records
from diffmic_jax.data import sources, splits
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError
from tests.data import native
from tests.data.opened import open_source


def write_image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_folders(root: Path, count: int = 10, classes: str = "ab") -> Path:
    for name in classes:
        for i in range(count):
            write_image(root / name / f"{i}.png")
    return root


def write_table(root: Path, header: str, rows: list[str]) -> Path:
    """A folder of images 0.png, 1.png, ... and a CSV whose rows begin with the image's number."""
    for row in rows:
        write_image(root / "images" / f"{row.split(',')[0]}.png")
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    return root


def ids(source: Source, part: str) -> list[str]:
    return [record.id for record in source.splits[part]]


def sizes(source: Source) -> list[int]:
    return [len(source.splits[part]) for part in sources.PARTS]


# Layouts.


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


@pytest.fixture
def listed(tmp_path) -> Path:
    """Images and pickled lists with paths of another machine."""
    for i in range(12):
        write_image(tmp_path / "images" / f"{i}.png")
    for name, numbers in (("train", range(8)), ("test", range(8, 12))):
        entries = [{"img_root": f"./dataset/his/{i}.png", "label": i % 2} for i in numbers]
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(entries))
    return tmp_path


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


# Protocols.


def grouped_table(root: Path) -> Path:
    """60 images of 20 groups of one class each, split so that every group is in both parts."""
    rows = [f"{i},{i // 3 % 2},{'test' if i % 3 == 0 else 'train'},g{i // 3}" for i in range(60)]
    return write_table(root, "image,label,split,group", rows)


def groups_of(source: Source) -> list[set[str]]:
    return [{record.group for record in source.splits[part]} for part in sources.PARTS]


def test_validation_shares_no_group_with_training(tmp_path):
    source = open_source("x", grouped_table(tmp_path), labels="labels.csv", validation_fraction=0.2)
    train, validation, test = groups_of(source)
    assert not train & validation
    assert test == train | validation  # the given test part stays as it is
    assert sizes(source) == [32, 8, 20]


@pytest.mark.parametrize("protocol", ["random", "grouped"])
def test_a_new_cut_replaces_the_given_split(tmp_path, protocol):
    root = grouped_table(tmp_path)
    first, again, other = (
        open_source(
            "x", root, labels="labels.csv", protocol=protocol, split_seed=seed, test_fraction=0.3
        )
        for seed in (1, 1, 2)
    )
    assert first.splits == again.splits
    assert ids(first, "test") != ids(other, "test")
    assert sizes(first)[2] == 18
    train, validation, test = groups_of(first)
    assert bool(test & (train | validation)) == (protocol == "random")


@pytest.mark.parametrize("protocol", ["given", "grouped"])
def test_groups_from_a_file_of_their_own_stay_whole_in_every_cut(tmp_path, protocol):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(20)])
    rows = "\n".join(f"L{i // 2},{i}" for i in range(20))
    (tmp_path / "groups.csv").write_text(f"lesion_id,image_id\n{rows}")
    source = open_source("x", tmp_path, labels="labels.csv", groups="groups.csv", protocol=protocol)
    assert all(r.group == f"L{int(r.id) // 2}" for r in source.splits["train"])
    train, validation, test = groups_of(source)
    assert not (train & validation or train & test or validation & test)


@pytest.fixture
def leaky(tmp_path) -> Path:
    """60 images of 20 groups; DiffMIC's lists put every third one of the first 30 into the test."""
    write_table(tmp_path, "image,label,group", [f"{i},{i // 3 % 2},g{i // 3}" for i in range(60)])
    test = {*range(0, 30, 3), *range(51, 60)}
    for name in ("train", "test"):
        entries = [
            {"img_root": f"his/{i}.png", "label": i // 3 % 2}
            for i in range(60)
            if (i in test) == (name == "test")
        ]
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(entries))
    return tmp_path


def test_the_authors_protocol_takes_the_lists_and_has_a_clean_part(leaky):
    source = open_source(
        "x",
        leaky,
        labels="labels.csv",
        protocol="authors",
        lists="train.pkl,test.pkl",
        validation_fraction=0.2,
    )
    assert set(ids(source, "test")) == {str(i) for i in [*range(0, 30, 3), *range(51, 60)]}
    assert ids(source, "test_clean") == [str(i) for i in range(51, 60)]
    assert len(splits.leaked(source.splits)) == 10
    train, validation, _ = groups_of(source)
    assert not train & validation


def test_the_authors_lists_are_found_beside_the_data(tmp_path):
    for i in range(10):
        write_image(tmp_path / "aptos" / "train_images" / f"{i:03d}.png")
    table = "\n".join(["id_code,diagnosis", *(f"{i:03d},{i % 5}" for i in range(10))])
    (tmp_path / "aptos" / "train.csv").write_text(table)
    with pytest.raises(InputError, match=r"needs DiffMIC's split lists aptos_train\.pkl and apt"):
        open_source("aptos2019", tmp_path / "aptos", protocol="authors")
    (tmp_path / "diffmic_splits").mkdir()
    for name, numbers in (("train", range(7)), ("test", range(7, 10))):
        entries = [{"img_root": f"d/{i:03d}.png", "label": i % 5} for i in numbers]
        path = tmp_path / "diffmic_splits" / f"aptos_{name}.pkl"
        path.write_bytes(pickle.dumps(entries))
    source = open_source("aptos2019", tmp_path / "aptos", protocol="authors", validation_fraction=0)
    assert ids(source, "test") == ["007", "008", "009"]
    with pytest.raises(InputError, match="data.protocol=authors: no lists are known"):
        open_source("x", tmp_path / "aptos", labels="train.csv", protocol="authors")


@pytest.mark.parametrize("protocol", ["given", "grouped"])
def test_a_split_can_be_written_and_given_back(leaky, protocol):
    source = open_source("x", leaky, labels="labels.csv", protocol=protocol, split_seed=3)
    (leaky / "split.csv").write_text(sources.write_split(source))
    again = open_source("x", leaky, labels="labels.csv", split="split.csv", split_seed=4)
    for part in sources.PARTS:
        assert set(again.splits[part]) == set(source.splits[part])
    lines = (leaky / "split.csv").read_text().splitlines()
    (leaky / "split.csv").write_text("\n".join(lines[:-1]))
    missing = lines[-1].split(",")[0]
    with pytest.raises(InputError, match=rf"split\.csv: has no part for image {missing}, or not"):
        open_source("x", leaky, labels="labels.csv", split="split.csv")


# Known data sets in the layout in which they are distributed.


def test_chestxray14_has_many_labels_and_an_official_split_by_patient(tmp_path):
    native.write_chestxray14(tmp_path)
    source = open_source("chestxray14", tmp_path, validation_fraction=0.25)
    assert source.task.multi_label
    assert source.task.class_names[:2] == ("Atelectasis", "Cardiomegaly")
    assert len(source.task.class_names) == 14
    train, validation, test = groups_of(source)
    assert not (train & validation or train & test or validation & test)
    assert set(ids(source, "test")) == set((tmp_path / "test_list.txt").read_text().split())
    by_id = {record.id: record.label for record in source.records}
    for name, findings in native.findings(tmp_path).items():
        hot = [int(finding in findings) for finding in source.task.class_names]
        assert by_id[name] == tuple(hot)


def test_chestxray14_without_a_list_names_the_file_and_the_archive(tmp_path):
    native.write_chestxray14(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(InputError, match=r"test_list\.txt: no such file; download images_001\.tar"):
        open_source("chestxray14", tmp_path)


def test_an_image_that_was_not_unpacked_names_the_archive(tmp_path):
    native.write_aptos2019(tmp_path)
    next((tmp_path / "train_images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"train\.csv row \d+: no image .* download aptos2019-"):
        open_source("aptos2019", tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match=r"has no train\.csv; download aptos2019-"):
        open_source("aptos2019", tmp_path)


def test_masks_beside_the_images_of_busi_are_left_out(tmp_path):
    for name in ("benign", "malignant", "normal"):
        for i in range(6):
            write_image(tmp_path / name / f"{name} ({i}).png")
            write_image(tmp_path / name / f"{name} ({i})_mask.png")
    source = open_source("busi", tmp_path, validation_fraction=0)
    assert len(source.records) == 18
    assert not any("mask" in record.id for record in source.records)


def test_pmg2000_comes_as_folders_or_lists(tmp_path):
    native.write_pmg2000(tmp_path / "lists", as_lists=True)
    native.write_pmg2000(tmp_path / "folders", as_lists=False)
    lists, folders = (open_source("pmg2000", tmp_path / kind) for kind in ("lists", "folders"))
    assert len(lists.records) == len(folders.records) == 24
    assert lists.task.class_names == ("0", "1", "2", "3")
    assert folders.task.class_names == ("grade0", "grade1", "grade2", "grade3")
    assert len(lists.splits["test"]) == 8


# Errors.


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
    assert str(caught.value).endswith("--config.data.name=phantom")


def test_folders_without_images_or_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="fewer than two class folders"):
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


def test_two_parts_or_groups_of_one_image_are_refused(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i % 2}" for i in range(10)])
    (tmp_path / "split.csv").write_text("image,split\n0,train\n1,test\n0,test\n")
    with pytest.raises(InputError, match=r"split\.csv row 4: '0' is 'train' in an earlier row"):
        open_source("x", tmp_path, labels="labels.csv", split="split.csv")
    (tmp_path / "groups.csv").write_text("image,group\n0,p\n0,q\n")
    with pytest.raises(InputError, match=r"groups\.csv row 3: '0' is 'p' in an earlier row"):
        open_source("x", tmp_path, labels="labels.csv", groups="groups.csv")


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


# Real data, where it is at hand.


def counts(source: Source, *parts: str) -> dict[int, int]:
    return dict(Counter(record.label for part in parts for record in source.splits[part]))


def test_ham10000_by_the_authors_protocol(shared):
    root, lists = shared / "data" / "ham10000", shared / "data" / "diffmic_splits"
    source = open_source("ham10000", root, protocol="authors")
    named = open_source(
        "ham10000",
        root,
        lists=str(lists),
    )
    for each in (source, named):  # the two take their labels from different files
        assert counts(each, "train", "validation") == {
            0: 781, 1: 4667, 2: 368, 3: 239, 4: 770, 5: 83, 6: 103
        }  # fmt: skip
        assert sum(counts(each, "train", "validation").values()) == 7011
        assert counts(each, "test") == {0: 332, 1: 2038, 2: 146, 3: 88, 4: 329, 5: 32, 6: 39}
        assert len(splits.leaked(each.splits)) == 1047
        assert len(each.splits["test_clean"]) == 1957
        train, validation, _ = groups_of(each)
        assert not train & validation
        clean = {record.group for record in each.splits["test_clean"]}
        assert not clean & (train | validation)


@pytest.mark.parametrize("seed", [0, 1])
def test_ham10000_grouped_leaks_no_lesion(shared, seed):
    source = open_source(
        "ham10000",
        shared / "data" / "ham10000",
        protocol="grouped",
        test_fraction=0.3,
        split_seed=seed,
    )
    train, validation, test = groups_of(source)
    assert not (train & validation or train & test or validation & test)
    assert "test_clean" not in source.splits
    assert len(source.records) == 10015
    shares = [counts(source, "test")[c] / counts(source, *sources.PARTS)[c] for c in range(7)]
    np.testing.assert_allclose(shares, 0.3, atol=0.01)


def test_ham10000_has_one_labelling_in_both_its_tables(shared):
    opened = [
        open_source("ham10000", shared / "data" / "ham10000", labels=labels)
        for labels in ("ISIC2018_Task3_Training_GroundTruth.csv", "HAM10000_metadata.csv")
    ]
    labels = [{r.path: r.label for r in source.records} for source in opened]
    assert len(labels[0]) == 10015
    assert labels[0] == labels[1]


def test_busi_with_its_split(shared):
    source = open_source(
        "busi", shared / "data" / "busi", labels="split.csv", validation_fraction=0
    )
    assert source.task.class_names == ("benign", "malignant", "normal")
    assert sizes(source) == [546, 0, 234]


def test_a_column_of_measurements_is_no_label(tmp_path):
    write_table(tmp_path, "image,label", [f"{i},{i * 0.37:.2f}" for i in range(20)])
    message = r"labels\.csv: 20 classes in 20 images, as 0\.00, 0\.37, 0\.74; are these the"
    with pytest.raises(InputError, match=message):
        open_source("images", tmp_path, labels="labels.csv")
