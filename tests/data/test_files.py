"""Files that are written, read back."""

from __future__ import annotations

import json
import os

import pytest

from diffmic_jax.data.files import (
    believed,
    defused,
    fits,
    new_folder,
    read_json,
    read_table,
    restored,
    table_text,
    write_json,
    write_table,
    write_text,
)
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


def test_what_a_killed_process_left_is_removed_and_what_another_writes_stays(tmp_path):
    stale, fresh = tmp_path / "a.csv.1.part", tmp_path / "a.csv.2.part"
    for path in (stale, fresh):
        path.write_text("half")
    os.utime(stale, (0, 0))
    write_text(tmp_path / "a.csv", "whole")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.csv", fresh]


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f"a.csv.{os.getpid()}.part").symlink_to(other)
    write_text(tmp_path / "a.csv", "whole")
    assert (other.read_text(), (tmp_path / "a.csv").read_text()) == ("mine", "whole")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def make(fails: bool) -> None:
        with new_folder(tmp_path / "run") as part:
            (part / "a").write_text("1")
            assert not (tmp_path / "run").exists()
            if fails:
                raise ZeroDivisionError
            (part / "b").write_text("2")

    with pytest.raises(ZeroDivisionError):
        make(fails=True)
    assert not list(tmp_path.iterdir())
    make(fails=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["a", "b"]
    with pytest.raises(InputError, match="run: cannot be written"), new_folder(tmp_path / "run"):
        pass


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/metrics.json: cannot be written"):
        write_json(tmp_path / "file" / "metrics.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written"):
        write_json(tmp_path / "folder", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


NAMES = (
    *(
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "\nx",
        "a/b",
        "a,b",
        "a;b",
        "a|b",
    ),
    *('"quoted"', "<b>&amp;", "..", "../x", "$x^$", "_x", "'", "'=", "''=a", "' =a", "a\r\nb", ""),
    *("-0.5", "+1", "=", "-", "-inf", "\u00e9", "\udce9"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_no_formula_and_comes_back(tmp_path, name):
    cell = defused(name)
    assert restored(cell) == name
    if cell[:1] in "=+-@\t\r\n" and cell:
        float(cell)  # a number, which runs nothing
    path = tmp_path / "t.csv"
    path.write_text(table_text(["id", "b"], [[name, "x"]]), errors="surrogateescape", newline="")
    assert read_table(path) == [{"id": name, "b": "x"}]


def test_numbers_are_left_alone():
    assert [defused(x) for x in (-1, 0.5, None, "-1e-3")] == [-1, 0.5, None, "-1e-3"]


@pytest.mark.parametrize("text", ["id,b\n1\n", "id,b\n1,2,3\n", 'id,b\n"1,2\n'])
def test_a_table_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=r"t\.csv: not a readable CSV"):
        read_table(tmp_path / "t.csv")


def test_a_table_without_a_column_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("id,b\n1,2\n")
    assert read_table(tmp_path / "t.csv", "b", "id")
    for columns in (["c"], ["id", "group"]):
        with pytest.raises(InputError, match=r"t\.csv: .*no column (c|group)"):
            read_table(tmp_path / "t.csv", *columns)


@pytest.mark.parametrize(
    ("found", "shape", "right"),
    [
        *((1, int, True), (True, int, False), (1.0, (int, float), True), (1.0, int, False)),
        *((None, None, True), (0, None, False), (0, (None, int), True), ("a", str, True)),
        *((float("nan"), float, False), (float("inf"), (None, float), False)),
        *(({"a": 1, "b": ""}, {"a": int}, True), ({"b": 1}, {"a": int}, False)),
        *(({"a": 1, "b": ""}, {...: int}, False), ({"a": 1, "b": 2}, {...: int}, True)),
        *(({}, {...: int}, True), ([], {...: int}, False), ({}, [int], False)),
        *(([1, 2], [int, int], True), ([1], [int, int], False), ([1, ""], [int, int], False)),
        *(([1, 2, 3], [int, ...], True), ([], [int, ...], True), ([1, ""], [int, ...], False)),
    ],
)
def test_json_has_a_shape_or_not(found, shape, right):
    assert fits(found, shape) is right


@pytest.mark.parametrize(
    "error", [KeyError("a"), RecursionError(), ZeroDivisionError("x\ny"), OSError("gone")]
)
def test_what_damage_leads_to_is_one_line_that_names_the_file(tmp_path, error):
    with pytest.raises(InputError, match=r"x\.json: damaged \([^\n]*\); mend it"):  # noqa: SIM117
        with believed(tmp_path / "x.json", "mend it"):
            raise error
    with pytest.raises(InputError, match="^itself$"):  # noqa: SIM117
        with believed(tmp_path / "x.json", "mend it"):
            raise InputError("itself")


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", "[" * 100_000, "{", "\ufeff{}", "9" * 5000]
)
def test_json_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: "):
        read_json(tmp_path / "x.json")
