"""The fingerprint of data whose properties are known."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.config import Data
from diffmic_jax.data.sources import open_source
from diffmic_jax.errors import InputError
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import Case, Machine
from tests import tiny


def test_class_folders(tiny_data):
    found = Fingerprint.of(open_source(Data(root=str(tiny_data))))
    assert found.images == {"train": tiny.TRAIN, "validation": tiny.VALIDATION, "test": tiny.TEST}
    assert found.classes == dict.fromkeys(tiny.CLASSES, 10)
    assert found.labels == "one of several"
    assert (found.groups, found.leaked) == (0, 0)
    assert found.side == (32, 32, 32)
    assert found.aspect == pytest.approx((0.89,) * 3)
    assert (found.gray, found.bits) == (0, 0)
    assert (found.learnable, found.rarest) == (30, 10)


def write(folder, number: int, pixels: np.ndarray) -> str:
    name = f"{number}.png"
    Image.fromarray(pixels).save(folder / name)
    return name


def test_a_table_with_groups_degrees_and_deep_gray(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["image,label,group,split"]
    for i in range(12):
        name = write(tmp_path, i, rng.integers(0, 4000, (40, 80), np.uint16))
        rows.append(f"{name},{i % 3},patient{i // 2},{'test' if i in (1, 4, 5) else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = Data(root=str(tmp_path), labels="labels.csv", validation_fraction=0)
    found = Fingerprint.of(open_source(data))
    assert found.labels == "one of several degrees"
    assert found.groups == 6
    assert found.rarest == 2  # the images of class 1 are of the patients 3 and 5
    assert found.leaked == 1  # image 1, whose patient has image 0 in training
    assert found.aspect == (2, 2, 2)
    assert (found.gray, found.bits) == (1, 12)


def test_images_that_cannot_be_read_are_passed_over(tmp_path):
    tiny.write_images(tmp_path, 4)
    for name in tiny.CLASSES[:2]:
        for path in (tmp_path / name).iterdir():
            path.write_bytes(b"")
    data = Data(root=str(tmp_path))
    assert Fingerprint.of(open_source(data)).side == (32, 32, 32)
    for path in (tmp_path / tiny.CLASSES[2]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="png"):
        Fingerprint.of(open_source(data))


def test_names_that_may_tell_patients_are_asked_about_and_not_taken(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        folder = tmp_path / ("x" if i % 4 < 2 else "y")
        folder.mkdir(exist_ok=True)
        write(folder, i, rng.integers(0, 255, (32, 32, 3), np.uint8))
        (folder / f"{i}.png").rename(folder / f"patient{i // 2}_{i % 2}.png")

    def found(**fields: str) -> Fingerprint:
        return Fingerprint.of(open_source(Data(root=str(tmp_path), **fields)))

    named = found()
    assert named.groups == 0
    assert named.group_regex
    known = found(group_regex=named.group_regex)
    assert (known.groups, known.group_regex) == (20, "")
    case = Case(data=named, machine=Machine(devices="a GPU", seconds=1e-3), minutes=5, given={})
    flag = shlex.quote(f"--set=data.group_regex={named.group_regex}")
    assert Plan.of(case).text.endswith(f"names may tell patients: if so, give {flag}")


def test_a_test_part_of_which_all_leak_has_leaks(tmp_path):
    rows = ["image,label,group,split"]
    for i in range(8):
        name = write(tmp_path, i, np.full((20, 20), 10 * i, np.uint8))
        rows.append(f"{name},{i // 2 % 2},patient{i % 2},{'test' if i < 4 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = Data(root=str(tmp_path), labels="labels.csv", validation_fraction=0)
    assert Fingerprint.of(open_source(data)).leaked == 4
