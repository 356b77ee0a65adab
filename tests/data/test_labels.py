from __future__ import annotations

import pytest

from diffmic_jax.data import labels
from diffmic_jax.errors import InputError


@pytest.mark.parametrize(
    ("cell", "label"),
    [("1", "1"), ("01", "1"), ("1.0", "1"), ("-1", "-1"), ("1.5", "1.5")]
    + [("2.000e+00", "2"), ("1E1", "10"), ("1.5e0", "1.5e0"), ("1e999", "1e999"), ("3e", "3e")]
    + [("9" * 5000, "9" * 5000)],
)
def test_whole_numbers_have_one_writing(cell, label):
    assert labels.canonical(cell) == label


def test_only_labels_that_are_all_numbers_are_rewritten():
    assert labels.unified({"00", "1.0"}) == {"00": "0", "1.0": "1"}
    assert labels.unified({"00", "A1"}) == {"00": "00", "A1": "A1"}


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"0", "1", "2"}, ("0", "1", "2")),
        ({"1", "2", "3", "4", "5"}, ("1", "2", "3", "4", "5")),
        ({str(i) for i in range(12)}, tuple(map(str, range(12)))),
        ({"0.5", "10.5", "2.5"}, ("0.5", "2.5", "10.5")),
        ({"b", "a"}, ("a", "b")),
        ({"grade_10", "grade_2", "grade_1"}, ("grade_1", "grade_2", "grade_10")),
        ({"T10", "2b", "T2", "x"}, ("2b", "T2", "T10", "x")),
    ],
)
def test_numbers_are_ordered_as_numbers(found, names):
    assert labels.class_names(found) == names


def test_folders_may_leave_numbers_out():
    assert labels.class_names({"0", "11", "2"}, gaps=True) == ("0", "2", "11")


def test_labels_from_1_are_told(caplog):
    with caplog.at_level("INFO", "diffmic_jax"):
        labels.class_names({"1", "2", "3"})
    assert "labels 1..3 are classes 1, 2, 3" in caplog.text


def test_numbers_count_named_classes_from_0_or_from_1(caplog):
    names = ("a", "b", "c")
    assert labels.lookup(names, ("0", "2"))["2"] == 2
    assert labels.lookup(names, ("1", "2", "3"))["3"] == 2
    assert labels.lookup(names, ("1", "2"))["2"] == 2
    assert "labels 1..2 count the classes a, b, c from 0" in caplog.text


@pytest.mark.parametrize(
    "cell",
    [
        "Mass|Nodule",
        "Mass;Nodule",
        "Mass, Nodule",
        "Mass ;Nodule;",
        "['Mass', \"Nodule\"]",
        "[' Mass','Nodule ']",
    ],
)
def test_several_labels_in_a_cell_by_any_separator(cell):
    assert labels.split_cell(cell, ()) == ["Mass", "Nodule"]


def test_a_name_with_a_separator_stays_whole():
    names = ("duct, connecting", "x")
    assert labels.split_cell("duct, connecting", names) == ["duct, connecting"]
    assert labels.split_cell("duct, connecting;x", names) == ["duct, connecting", "x"]


def test_cells_of_several_labels_are_seen_by_their_parts():
    assert labels.several({"Mass;Nodule", "Mass"}, ()) == ["Mass;Nodule"]
    assert labels.several({"a|b", "b|c"}, ()) == ["a|b", "b|c"]
    assert labels.several({"duct, connecting", "x"}, ()) == []
    assert labels.several({"Mass;Nodule", "Mass"}, ("Mass;Nodule", "Mass")) == []
    assert labels.several({"['Mass']", "x"}, ()) == ["['Mass']"]


@pytest.mark.parametrize("cell", ["Mass + Nodule", "Mass/Nodule", "Mass & Nodule"])
def test_joined_labels_are_several_only_where_each_is_a_label(cell):
    assert labels.several({cell, "Mass", "Nodule"}, ()) == [cell]
    assert labels.several({cell, "Mass"}, ()) == []
    assert labels.several({"HER2+", "HER2-", "T1/T2", "T1"}, ()) == []


def test_missing_labels_unless_a_class_has_that_name():
    for cell in ("", "nan", "N/A", "None", "?", "NULL", "-", "unknown", "N.A.", "-1", "-1.0"):
        assert labels.is_missing(cell, ())
    assert not labels.is_missing("-1", ("-1", "1"))
    assert not labels.is_missing("None", ("none", "mild"))


def test_several_labels_with_doubt():
    known = labels.lookup(("a", "b", "c"))
    assert labels.find_several("a|?c", known, "row", 3) == (1, 0, -1)


def test_a_number_of_5000_digits_is_a_name():
    long = "7" * 5000
    assert labels.class_names({long, "a"}) == (long, "a")
    assert labels.lookup((long, "a"), [long])[long] == 0
    with pytest.raises(InputError, match="unknown class"):
        labels.find(long, {"a": 0}, "row 2")


def test_names_that_differ_in_case_are_named():
    with pytest.raises(InputError, match="classes 'Cat' and 'cat' are the same name; write it in"):
        labels.lookup(("Cat", "cat", "dog"))
