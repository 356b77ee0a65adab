"""Plans of data on disk, and what makes one impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffmic_jax.data.cache import cached
from diffmic_jax.errors import InputError
from diffmic_jax.planning import budget
from diffmic_jax.planning import plan as plans
from diffmic_jax.planning.make import make_plan
from diffmic_jax.planning.rules import Machine
from tests import tiny
from tests.data.opened import open_source

SIZE = 64


@pytest.fixture
def given(tiny_data, tmp_path) -> dict[str, object]:
    return {
        "data.name": "images",
        "data.root": str(tiny_data),
        "data.image_size": SIZE,
        "data.cache_dir": str(tmp_path / "cache"),
    }


def test_images_that_cannot_be_read_in_the_minutes_are_refused(given, monkeypatch):
    count = len(open_source("images", given["data.root"]).records)
    slow = Machine(devices="a test", seconds=0.01, reading=60.0)  # a minute an image
    monkeypatch.setattr(budget, "machine", lambda source: slow)
    with pytest.raises(InputError, match=rf"{count} images takes about {count} minutes") as told:
        make_plan(given, minutes=20)
    assert f"--minutes={3 * count}" in str(told.value)
    with pytest.raises(InputError, match="to read"):  # it leaves no time for the rest
        make_plan(given, minutes=count / 0.8 + 1)
    assert make_plan(given, minutes=3 * count).minutes == 3 * count
    # One that has begun has read them: the machine may be slower now.
    assert make_plan(given, minutes=20, begun=True).minutes == 20


def test_images_that_were_read_before_take_no_time(given, monkeypatch):
    slow = Machine(devices="a test", seconds=0.01, reading=60.0)
    monkeypatch.setattr(budget, "machine", lambda source: slow)
    cached(open_source("images", given["data.root"]), SIZE, Path(given["data.cache_dir"]))
    assert make_plan(given, minutes=20).changes["data.image_size"] == SIZE


def test_reading_is_timed_on_images_of_the_data(given):
    found = budget.machine(open_source("images", given["data.root"]))
    assert 0 < found.reading < 10
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("data.validation_fraction", 0.0, "a fit chooses by images that it holds out"),
        ("data.fold", 1, "a fit trains on every fold; leave it out"),
    ],
)
def test_a_fit_holds_out_images_and_trains_on_all_folds(given, field, value, reason):
    fields = given | {"data.protocol": "random", field: value}  # no part is given
    with pytest.raises(InputError, match=reason):
        make_plan(fields, minutes=20)


def test_a_later_fold_that_nothing_is_left_for_is_refused_before_any_is_trained(given, tmp_path):
    patients = [*"ab"] * 2 + ["c"] * 16  # the first two are held out together, then there are none
    rows = [
        f"{path},{i % 2},{patients[i] if i < 20 else i},{'train' if i < 20 else 'test'}"
        for i, path in enumerate(sorted(Path(given["data.root"]).rglob("*.png")))
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,label,group,split", *rows]))
    fields = {"name": "images", "root": given["data.root"], "labels": str(table), "folds": 3}
    assert len(open_source(**fields).splits["validation"]) == 4
    with pytest.raises(InputError, match="no image is left for the validation part"):
        make_plan(given | {"data.labels": str(table), "data.folds": 3}, minutes=20)


def test_a_plan_keeps_lists_as_their_fields_have_them(given, tmp_path):
    names = [*tiny.CLASSES]
    plan = make_plan(given | {"data.class_names": names}, minutes=20)
    plan.write(tmp_path)
    stored = plans.read(tmp_path)
    assert stored is not None
    plans.check_same(stored, plan, tmp_path)
    assert plan.given["data.class_names"] == tuple(names)


def test_fields_that_a_later_network_cannot_have_are_refused_by_the_plan(given):
    with pytest.raises(InputError, match="config.guidance.loss=ldam"):
        make_plan(given | {"guidance.loss": "ldam", "guidance.network": "dcg"}, minutes=20)


def test_weights_of_classes_do_not_go_with_mixed_images(given):
    changes = {"guidance.class_weights": "balanced", "guidance.mix": "mixup"}
    with pytest.raises(InputError, match="class_weights=balanced weighs images of one class, and"):
        make_plan(given | changes, minutes=20)


def test_weights_that_are_not_there_are_refused_by_the_plan(given, tmp_path):
    missing = str(tmp_path / "no.pth")
    with pytest.raises(InputError, match=r"guidance\.pretrained=.*no\.pth': no such file"):
        make_plan(given | {"guidance.pretrained": missing}, minutes=20)


def test_the_tables_are_read_once_for_all_folds(given, tmp_path, caplog):
    rows = [
        f"{path},{i % 2}" for i, path in enumerate(sorted(Path(given["data.root"]).rglob("*.png")))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    fields = given | {"data.labels": str(tmp_path / "labels.csv"), "data.folds": 3}
    with caplog.at_level("INFO", "diffmic_jax"):
        make_plan(fields, minutes=20)
    assert caplog.text.count("images are found without") == 1
