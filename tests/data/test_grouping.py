from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.data import grouping
from diffmic_jax.data.layouts import Record
from diffmic_jax.errors import InputError
from tests import tiny
from tests.data.opened import open_source


def parts_of(names: list[str], group: str = "") -> dict[str, list[Record]]:
    """Every third image is of the test part; labels alternate by the patient's last digit."""
    parts: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    for i, name in enumerate(names):
        parts["test" if i % 3 == 2 else "train"].append(Record(name, i // 2 % 2, name, group))
    return parts


@pytest.mark.parametrize(
    ("name", "first", "groups"),
    [
        ("{0:08d}_{1:03d}.png", "00000000", 20),  # ChestX-ray14
        ("{0}_{1}.jpeg", "0", 20),  # EyePACS: left and right
        ("sick/person{0}_bacteria_{1}.jpeg", "person0", 20),
        ("sick/Patient {0} ({1}).png", "Patient 0", 20),
        ("IM-{0:04d}-{1:04d}.dcm", "IM-0000", 20),
        ("well/p{0}/scan.{1}.png", "p0", 20),
        ("mild/OAS1_{0:04d}_MR1_mpr-{1}_100.jpg", "OAS1_0000", 20),
        ("SOB_M/SOB_M_DC-14-{0}-40-00{1}.png", "SOB_M_DC-14-0", 20),
    ],
)
def test_patients_are_guessed_from_names(name, first, groups):
    parts = parts_of([name.format(i // 2, i % 2) for i in range(40)])
    found = grouping.guess(parts)
    assert found["groups"] == groups
    records = grouping.with_groups(parts, found["regex"])["train"]
    assert records[0].group == first
    assert found["leaked_images"] == 13  # all test images
    assert (found["same_label"], found["chance"]) == (1.0, pytest.approx(19 / 39, abs=1e-3))
    assert found["example"][0] == name.format(0, 0)


@pytest.mark.parametrize("name", ["grade/{0}{1}.png", "{0}_{1}_2.png", "{0} {1}eft.png"])
def test_the_sides_of_a_patient_are_together(name):
    names = [name.format(9000000 + 7 * (i // 2), "LR"[i % 2]) for i in range(40)]
    names = [each.replace("Reft", "right") for each in names]
    found = grouping.guess(parts_of(names))
    assert found["groups"] == 20
    records = grouping.with_groups(parts_of(names), found["regex"])["train"]
    assert records[0].group == "9000000"


@pytest.mark.parametrize(
    "name", ["ISIC_{0:07d}.jpg", "benign/benign ({0}).png", "sick/COVID-{0}.png", "{0}.png", "a.b"]
)
def test_numbers_of_images_are_no_patients(name):
    assert grouping.guess(parts_of([name.format(i) for i in range(40)])) is None


def test_folders_of_classes_are_no_patients():
    names = [f"class{i % 12}/{i}.png" for i in range(48)]
    records = [Record(name, i % 12, name) for i, name in enumerate(names)]
    parts = {"train": records, "validation": [], "test": []}
    assert grouping.guess(parts) is None
    mixed = [record._replace(label=i // 12 % 2) for i, record in enumerate(records)]
    found = grouping.guess(parts | {"train": mixed})
    assert found and found["groups"] == 12


def test_known_groups_need_no_guess():
    assert grouping.guess(parts_of([f"{i // 2}_{i % 2}.png" for i in range(40)], "p")) is None


def test_a_pattern_keeps_patients_on_one_side(tmp_path, caplog):
    tiny.write_images(tmp_path, 12)
    for path in sorted(tmp_path.rglob("*.png")):
        number = int(path.stem.split("_")[1])
        name = f"p{number // 3}_{number}.png" if number else "other.png"
        path.rename(path.with_name(name))
    source = open_source("images", tmp_path, group_regex=r"([^/]*/p\d+)_", test_fraction=0.5)
    sides = [{r.group for r in source.splits[part]} - {""} for part in ("train", "test")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert "red/p3" in sides[0] | sides[1]
    assert "fits 3 images not, as blue/other.png" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(p", "is no regular"), ("p.", "has no group"), ("(nowhere)", "fits no image, as 0_0.png")],
)
def test_a_pattern_that_cannot_work_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        grouping.with_groups(parts_of([f"{i}_{i}.png" for i in range(3)]), pattern)


def test_groups_come_from_one_place(tmp_path):
    with pytest.raises(InputError, match="groups already"):
        grouping.with_groups(parts_of(["a_1.png"], "p"), "(a)")
    tiny.write_images(tmp_path, 3)
    with pytest.raises(InputError, match=r"config\.data\.groups is given"):
        open_source("images", tmp_path, group_regex="(a)", groups="groups.csv")


def test_the_share_of_equal_labels_is_over_pairs():
    labels = np.array([0, 0, 0, 1])
    records = [Record(str(i), int(label), "") for i, label in enumerate(labels)]
    assert grouping._same_label([records, records[:2]]) == pytest.approx(
        (6 + 2) / (12 + 2), abs=1e-4
    )


def test_the_pattern_with_the_fewest_groups_is_offered():
    names = [f"p{i // 4}_visit{i // 2 % 2}_{i % 2}.png" for i in range(80)]
    found = grouping.guess(parts_of(names))
    assert found["groups"] == 20  # patients, not their 40 visits
