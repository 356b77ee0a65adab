"""docs/config.md is what the declarations of the fields give today."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from diffmic_jax.config import fields

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("write_config_docs")


def test_the_page_is_fresh(script):
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == script.text(), "run `python scripts/write_config_docs.py` and commit the page"


def test_every_field_has_a_row(script):
    rows = [line for line in script.text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(fields())
    assert {row.count("|") for row in rows} == {6}
    (frozen,) = (row for row in rows if row.startswith("| `frozen`"))
    assert "| `False` | plus `True`; v2 `True` |" in frozen
    (size,) = (row for row in rows if row.startswith("| `image_size`"))
    assert "| whole number, at least 1 (px) | `224` |" in size
    (minutes,) = (row for row in rows if row.startswith("| `max_minutes`"))
    assert minutes.startswith("| `max_minutes`\\* | number, at least 0 (min) |")
