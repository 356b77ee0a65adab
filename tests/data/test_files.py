"""Files that are written, read back."""

from __future__ import annotations

import json

import pytest

from diffmic_jax.data.files import write_json, write_table
from diffmic_jax.errors import InputError


def test_a_table_quotes_what_has_a_comma(tmp_path):
    write_table(tmp_path / "new" / "t.csv", ["id", "n"], [["one, two", 1]])
    assert (tmp_path / "new" / "t.csv").read_text() == 'id,n\n"one, two",1\n'


def test_json_is_sorted_and_replaces_the_old(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    write_json(path, {"b": [0.1, None], "a": 1})
    text = path.read_text()
    assert json.loads(text) == {"a": 1, "b": [0.1, None]}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/metrics.json: cannot be written"):
        write_json(tmp_path / "file" / "metrics.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written"):
        write_json(tmp_path / "folder", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
