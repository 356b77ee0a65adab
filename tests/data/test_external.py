"""Other data with the trained classes."""

from __future__ import annotations

import pytest

from diffmic_jax.config import Data
from diffmic_jax.data.external import open_external
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


def test_several_labels_are_mapped(tmp_path):
    tiny.write_images(tmp_path / "images", 1)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")]
    rows = ["image,Mass,Edema", *(f"{name},1,{i % 2}" for i, name in enumerate(names))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    task = Task(class_names=("Nodule", "Oedema"), multi_label=True)
    data = Data(root=str(tmp_path), labels="labels.csv", multi_label=True)
    found = open_external(data, task, {"mass": "", "edema": "oedema"})
    assert [record.label for record in found.splits["test"]] == [(0, 0), (0, 1), (0, 0)]
    with pytest.raises(InputError, match="several classes become one"):
        open_external(data, task, {"mass": "Nodule", "edema": "Nodule"})
