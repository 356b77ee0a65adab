"""Plans of data on disk, and what makes one impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffmic_jax.data.cache import cached
from diffmic_jax.errors import InputError
from diffmic_jax.planning import budget
from diffmic_jax.planning.make import make_plan
from diffmic_jax.planning.rules import Machine
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
    assert make_plan(given, minutes=3 * count).minutes == 3 * count


def test_images_that_were_read_before_take_no_time(given, monkeypatch):
    slow = Machine(devices="a test", seconds=0.01, reading=60.0)
    monkeypatch.setattr(budget, "machine", lambda source: slow)
    cached(open_source("images", given["data.root"]), SIZE, Path(given["data.cache_dir"]))
    assert make_plan(given, minutes=20).changes["data.image_size"] == SIZE


def test_reading_is_timed_on_images_of_the_data(given):
    found = budget.machine(open_source("images", given["data.root"]))
    assert 0 < found.reading < 10
    assert found.seconds > 0
