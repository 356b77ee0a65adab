from __future__ import annotations

import logging
from pathlib import Path

import pytest

from diffmic_jax.config import Checkpoint, Config, Data
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task
from tests.data import native


@pytest.fixture
def root(tmp_path) -> Path:
    """Class folders in parts: 6 and 3 training images, 2 and 1 of the others."""
    for part, count in (("train", 3), ("val", 1), ("test", 1)):
        for i in range(3 * count):
            native.picture(
                tmp_path / "data" / part / ("b" if i % 3 == 2 else "a") / f"{i}.png", 0, i
            )
    return tmp_path / "data"


def config(root: Path, metric: str = "accuracy", **data) -> Config:
    fields = {"name": "x", "root": str(root), "image_size": 32, "cache_dir": str(root.parent / "c")}
    return Config(data=Data(**fields | data), checkpoint=Checkpoint(metric=metric))


def spoil(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        path.write_bytes(path.read_bytes()[:60])


def test_a_dataset_has_its_task_counts_and_parts(root):
    dataset = open_dataset(config(root))
    assert dataset.task == Task(class_names=("a", "b"), ordered=False)
    assert dataset.counts == (6, 3)
    assert {part: len(each) for part, each in dataset.examples.items()} == {
        "train": 9,
        "validation": 3,
        "test": 3,
    }
    assert dataset.image_size == 32
    assert dataset.examples["test"].images([0]).shape == (1, 32, 32, 3)
    assert not dataset.skipped


def test_several_labels_are_counted_for_each_class(tmp_path):
    native.write_medmnist(tmp_path / "chestmnist.npz", 14, multi_label=True)
    dataset = open_dataset(config(tmp_path, "auroc_macro", name="chestmnist"))
    assert dataset.task.multi_label
    assert dataset.examples["train"].label.shape == (32, 14)
    assert dataset.counts == tuple(dataset.examples["train"].label.sum(axis=0))


def test_a_metric_that_the_labels_do_not_have_is_refused_before_decoding(tmp_path):
    native.write_medmnist(tmp_path / "data/chestmnist.npz", 14, multi_label=True)
    with pytest.raises(
        InputError,
        match=r"^config\.checkpoint\.metric='accuracy' is not defined for several labels",
    ):
        open_dataset(config(tmp_path / "data", name="chestmnist"))
    assert not (tmp_path / "c").exists()


def test_skipped_images_are_counted_out_and_warned_of(root, caplog):
    spoil(root, "train/a/0.png")
    with pytest.raises(InputError, match=r"train/a/0\.png: cannot be read"):
        open_dataset(config(root))
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(config(root, on_bad_image="skip"))
    assert list(dataset.skipped) == ["train/a/0.png"]
    assert dataset.counts == (5, 3)
    first, second = caplog.messages
    assert first.startswith(f"skipped {root}/train/a/0.png: cannot be read")
    assert second == "1 images skipped, all listed in skipped.csv"


def test_a_class_that_cannot_be_read_is_warned_of_and_a_part_refused(root, caplog):
    spoil(root, "train/b/*.png")
    with caplog.at_level(logging.WARNING):
        assert open_dataset(config(root, on_bad_image="skip")).counts == (6, 0)
    assert caplog.messages[-1] == "no training image of b can be read"
    spoil(root, "test/*/*.png")
    with pytest.raises(InputError, match=r"^config\.data\.root: no image of the test part can be"):
        open_dataset(config(root, on_bad_image="skip"))


def test_the_clean_part_of_a_leaking_test_split_has_examples(tmp_path):
    for i in range(8):
        native.picture(tmp_path / "data" / f"{i}.png", 0, i)
    rows = [f"{i},{'ab'[i % 2]},{'test' if i > 3 else 'train'},g{i % 7}" for i in range(8)]
    (tmp_path / "data/labels.csv").write_text("\n".join(["image,label,split,group", *rows]))
    dataset = open_dataset(config(tmp_path / "data", labels="labels.csv", validation_fraction=0.0))
    assert [r.id for r in dataset.examples[CLEAN].records] == ["4", "5", "6"]
