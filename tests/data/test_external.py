"""Other data with the trained classes."""

from __future__ import annotations

import pytest

from diffmic_jax import recipes
from diffmic_jax.config import Data
from diffmic_jax.data.external import fields_of, open_external
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task
from tests import tiny

TASK = Task(class_names=("red", "green"))


def test_classes_go_by_their_names_and_all_is_for_testing(tmp_path):
    tiny.write_images(tmp_path, 3)
    found = open_external(Data(root=str(tmp_path)), TASK, {"blue": "Red"})
    assert found.task is TASK
    assert [len(found.splits[part]) for part in ("train", "validation", "test")] == [0, 0, 9]
    by_folder = {(record.id.split("/")[0], record.label) for record in found.splits["test"]}
    assert by_folder == {("red", 0), ("blue", 0), ("green", 1)}
    left = open_external(Data(root=str(tmp_path)), TASK, {"blue": ""})
    assert len(left.splits["test"]) == 6


def test_one_class_alone_is_enough(tmp_path):
    tiny.write_images(tmp_path, 2)
    mapping = {"blue": "", "green": ""}
    assert len(open_external(Data(root=str(tmp_path)), TASK, mapping).splits["test"]) == 2


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({}, "class 'blue' is not one of the model's, red, green; map it with --class_map=blue="),
        ({"violet": "red"}, "has no class 'violet'; it has blue, green, red"),
        ({"blue": "", "red": "", "green": ""}, "no image of a class that the model knows"),
    ],
)
def test_a_class_that_is_not_known_is_named(tmp_path, class_map, message):
    tiny.write_images(tmp_path, 2)
    with pytest.raises(InputError, match=message):
        open_external(Data(root=str(tmp_path)), TASK, class_map)


def test_several_labels_are_not_one(tmp_path):
    tiny.write_images(tmp_path, 2)
    several = Task(class_names=("red",), multi_label=True)
    with pytest.raises(InputError, match="gives an image any number of classes"):
        open_external(Data(root=str(tmp_path)), several, {})


def test_several_labels_are_mapped(tmp_path, caplog):
    tiny.write_images(tmp_path / "images", 1)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")]
    rows = ["image,Mass,Edema", *(f"{name},1,{i % 2}" for i, name in enumerate(names))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    task = Task(class_names=("Nodule", "Oedema"), multi_label=True)
    data = Data(root=str(tmp_path), labels="labels.csv", multi_label=True)
    found = open_external(data, task, {"mass": "", "edema": "oedema"})
    # Nobody has looked for nodules, nor are those of the class that is left out absent.
    assert [record.label for record in found.splits["test"]] == [(-1, 0), (-1, 1), (-1, 0)]
    assert "has no labels of Nodule, which are not judged" in caplog.text
    with pytest.raises(InputError, match="several classes become one"):
        open_external(data, task, {"mass": "Nodule", "edema": "Nodule"})


def test_other_data_is_read_as_the_training_was_but_from_its_own_place(tmp_path):
    own = recipes.get("strong").changed(
        {
            "data.labels": "mine.csv",
            "data.label_columns": ("dx",),
            "data.group_regex": "(.*)_",
            "data.uncertain": "ignore",
            "data.unlabelled": "skip",
            "data.image_size": 512,
            "guidance.region_size": 256,
        }
    )
    tiny.write_images(tmp_path / "images", 1)
    fields = fields_of(tmp_path, Task(class_names=("a", "b"), multi_label=True), {})
    found = own.changed(fields).data
    assert (found.labels, found.label_columns, found.group_regex) == ("", (), "")
    assert (found.uncertain, found.unlabelled, found.multi_label) == ("ignore", "skip", True)
    named = fields_of("elsewhere", TASK, {"data.labels": "meta/l.csv"})
    assert (named["data.root"], named["data.labels"]) == ("elsewhere", "meta/l.csv")


def test_grades_that_other_data_lacks_are_no_gap(tmp_path):
    tiny.write_images(tmp_path / "images", 1)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    rows = ["image,label", *(f"{name},{g}" for name, g in zip(names, (0, 1, 3), strict=True))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    grades = Task(class_names=("0", "1", "2", "3", "4"), ordered=True)
    own = recipes.get("strong")
    for where, given in ((tmp_path, {}), (tmp_path, {"data.labels": "labels.csv"})):
        data = own.changed(fields_of(where, grades, given)).data
        found = open_external(data, grades, {}).splits["test"]
        assert [record.label for record in found] == [0, 1, 3]
    # One grade more is a class that the model does not know.
    more = [f"{name},{g}" for name, g in zip(names, (0, 1, 2), strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *more]))
    two = Task(class_names=("0", "1"), ordered=True)
    data = own.changed(fields_of(tmp_path, two, {})).data
    with pytest.raises(InputError, match="class '2' is not one of the model's, 0, 1; map it"):
        open_external(data, two, {})
