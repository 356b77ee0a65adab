"""Which part of a data set each image is in, and the data sets that the project knows."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax.data import sources, splits
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError
from tests.data import native
from tests.data.opened import open_source
from tests.data.written import grouped_table, groups_of, ids, sizes, write_image, write_table


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
