from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.data.findings import check_conflicts, findings
from diffmic_jax.errors import InputError
from tests.tiny import make_config


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def opened(root: Path, **fields: object) -> Dataset:
    changes = {"data.validation_fraction": 0.25, "data.cache_dir": str(root.parent / "cache")}
    return open_dataset(make_config(root).changed(changes | fields))


@pytest.fixture
def root(tmp_path):
    for part, classes, count in (("train", "xy", 8), ("test", "xyz", 2)):
        for c in classes:
            for i in range(count):
                write(tmp_path / f"data/{part}/{c}/{i}.png", hash_of(part, c, i))
    return tmp_path / "data"


def hash_of(part: str, c: str, i: int) -> int:
    return 1000 * len(part) + 100 * ord(c) + i


def texts(dataset: Dataset) -> list[str]:
    return [finding.text for finding in findings(dataset)]


def test_a_class_that_only_the_test_part_has_is_told_in_one_of_five_lines(root):
    found = findings(opened(root))
    assert [finding.serious for finding in found] == [False, True, False, False, False]
    assert "train has no image of z: it cannot be learned" in found[1].text
    assert "validation has no image of z: means of metrics leave it out" in found[1].text
    assert found[0].text == "images: 12 train, 4 validation, 6 test; in training x 6, y 6, z 0"


def test_names_that_may_tell_patients_are_told_with_the_field_to_set(tmp_path):
    for i in range(40):
        write(tmp_path / f"data/{'xy'[i // 2 % 2]}/{i // 2:04d}_{i % 2}.png", i)
    found = findings(opened(tmp_path / "data"))[2]
    assert found.serious and "names as x/0000_0.png may tell them" in found.text
    pattern = found.text.split("group_regex='")[1].split("'")[0]
    kept = findings(opened(tmp_path / "data", **{"data.group_regex": pattern}))[2]
    assert kept.text.startswith("0 of 8 test images") and not kept.serious


def test_a_picture_under_two_labels_is_told_or_refused(root):
    write(root / "train/y/copy.png", hash_of("train", "x", 0))
    write(root / "test/y/copy.png", hash_of("train", "y", 1))
    dataset = opened(root)
    (told,) = [text for text in texts(dataset) if "occur" in text]
    assert "2 pictures occur more than once" in told
    assert "1 under several labels), as train/x/0.png (x), train/y/copy.png (y)" in told
    with pytest.raises(InputError, match=r"1 pictures .*train/y/copy\.png \(y\); keep the right"):
        check_conflicts(dataset)


def test_the_same_picture_under_one_label_is_no_conflict(root):
    write(root / "train/y/copy.png", hash_of("train", "y", 0))
    check_conflicts(opened(root))


def test_a_class_without_any_image_is_told(root):
    found = findings(opened(root, **{"data.class_names": ("w", "x", "y", "z")}))
    assert found[1].text.startswith("there is no image of w: it cannot be learned; train has no")
