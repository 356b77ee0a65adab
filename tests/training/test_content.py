"""Data that changes between the stop of a run and its going on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from diffmic_jax import api
from tests import tiny
from tests.refusal import refused


def replace_image(data: Path) -> str:
    for name in ("train/red/red_01.png", "test/blue/blue_00.png"):
        Image.open(data / name).rotate(90).save(data / name)
    return (
        "the data has changed since this run began: 2 images with other pixels "
        "(test/blue/blue_00.png, train/red/red_01.png); restore it, or choose another --workdir"
    )


def add_images(data: Path) -> str:
    for i in range(5):
        shutil.copy(data / "train/red/red_01.png", data / f"train/red/more_{i}.png")
    first = ", ".join(f"train/red/more_{i}.png" for i in range(3))
    return f"since this run began: 5 images added ({first}, ...); restore it, or choose another"


def remove_image(data: Path) -> str:
    (data / "test/red/red_00.png").unlink()
    return "since this run began: 1 image gone (test/red/red_00.png); restore it, or choose"


def change_label(data: Path) -> str:
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("red_00.png,red", "red_00.png,blue"))
    return "since this run began: 3 images with another label ("


def write_labels(data: Path) -> None:
    """A table of labels and parts, in place of the folders."""
    names = sorted(path.relative_to(data) for path in data.rglob("*.png"))
    rows = [f"{name},{name.parent.name}" for name in names]
    (data / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    (data / "split.csv").write_text(
        "\n".join(["image,split", *(f"{name},{name.parts[0]}" for name in names)]) + "\n"
    )


@pytest.mark.parametrize("change", [replace_image, add_images, remove_image, change_label])
def test_what_has_changed_is_told_by_name_and_number(
    tmp_path, capsys, change: Callable[[Path], str]
):
    data, workdir = tiny.write_data(tmp_path / "data"), tmp_path / "run"
    changes: dict[str, object] = {"train__max_steps": 1}
    if change is change_label:
        write_labels(data)
        changes |= {"data__labels": "labels.csv", "data__split": str(data / "split.csv")}
    tiny.train(tiny.make_config(data, "classifier", **changes), workdir)
    told = change(data)
    longer = tiny.make_config(data, "classifier", **changes | {"train__max_steps": 2})
    line = refused(longer, workdir, capsys, tiny.train)
    assert told in line
    assert line.startswith(str(workdir))


def test_an_evaluation_tells_of_other_pixels_and_goes_on(tmp_path, trained, tiny_data, caplog):
    data, workdir = shutil.copytree(tiny_data, tmp_path / "data"), tmp_path / "run"
    shutil.copytree(trained, workdir)
    replace_image(data)
    found = api.evaluate(tiny.make_config(data), workdir)
    assert found.metrics["n"] == tiny.TEST
    assert f"{workdir}: since the training, 2 images with other pixels (test/" in caplog.text
