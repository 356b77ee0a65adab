from __future__ import annotations

import collections
import pickle
from pathlib import Path

import pytest

from diffmic_jax.data import lists, tables
from diffmic_jax.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path):
    return lambda text: write(tmp_path / "t.csv", text)


@pytest.fixture
def pickled(tmp_path):
    def dump(value: object) -> Path:
        (tmp_path / "list.pkl").write_bytes(pickle.dumps(value))
        return tmp_path / "list.pkl"

    return dump


@pytest.mark.parametrize(
    ("text", "expected", "classes"),
    [
        ("image,label\na.png,cat\n", ("a.png", "cat", "train", ""), ()),
        ("id_code,diagnosis\na,3\n", ("a", "3", "train", ""), ()),
        ("lesion_id,image_id,dx,age\nL1,a,nv,80\n", ("a", "nv", "train", "L1"), ()),
        ("Image,Label,Split,Group\na, cat ,val,g\n", ("a", "cat", "validation", "g"), ()),
        ("image,MEL,NV\na,0.0,1.0\n", ("a", "NV", "train", ""), ("MEL", "NV")),
        ("\ufeffimage,MEL,NV,split\na,1,0,test\n\n", ("a", "MEL", "test", ""), ("MEL", "NV")),
    ],
)
def test_a_csv_is_understood_by_its_header(table, text, expected, classes):
    path = table(text)
    rows, columns = tables.read_labels(path)
    assert [row[1:] for row in rows] == [expected]
    assert rows[0].where == f"{path} row 2"
    assert columns == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("image,label\n", "no rows"),
        ("file,label\na,0\n", "columns file,label are unknown"),
        ("image,age\na,0\n", "columns image,age are unknown"),
        ("image,label\na,0\nb\n", "row 3: 1 cells under 2 columns"),
        ("image,label,split\na,0,\n", "row 2: split '' is not one of"),
        ("image,A,B\na,1,1\n", "row 2: one of A,B must be 1"),
        ("image,A,B\na,0,0\n", "row 2: one of A,B must be 1"),
        ("image,A,B\na,x,1\n", "row 2: one of A,B must be 1"),
        ('image,label\n"a,0\n', "not a readable CSV"),
    ],
)
def test_a_bad_csv_is_refused_in_one_line(table, text, message):
    path = table(text)
    with pytest.raises(InputError) as caught:
        tables.read_labels(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"image,label\n\xff\xfe,0\n")
    with pytest.raises(InputError, match="not a readable CSV"):
        tables.read_labels(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"^config\.data\.labels: no file .*missing\.csv"):
        tables.read_labels(tmp_path / "missing.csv")


def test_groups(table):
    assert tables.read_groups(table("lesion_id,image_id\nL1,a\nL1,b\n")) == {"a": "L1", "b": "L1"}
    with pytest.raises(InputError, match="columns image,age are unknown"):
        tables.read_groups(table("image,age\na,0\n"))


def test_a_split_list(pickled):
    path = pickled([{"img_root": "./x/a.png", "label": 2}])
    assert lists.read_list(path, "test") == [
        tables.Row(f"{path} entry 0", "./x/a.png", "2", "test", "")
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"img_root": "a"}, "must hold a list"),
        ([{"img_root": "a"}], "entry 0: must be"),
        ([{"img_root": "a", "label": 0}, {"img_root": "b", "label": "1"}], "entry 1: must be"),
        ([collections.Counter()], r"asks for collections\.Counter"),
        ([Path("a")], "asks for pathlib"),
    ],
)
def test_a_bad_split_list_is_refused_with_its_name(pickled, value, message):
    with pytest.raises(InputError, match=rf"list\.pkl.*{message}"):
        lists.read_list(pickled(value), "train")


def test_a_pickle_never_runs_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "attack.pkl"
    path.write_bytes(pickle.dumps([Attack()]))
    with pytest.raises(InputError, match=r"attack\.pkl: asks for"):
        lists.read_list(path, "train")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("damage", [b"", b"hello", pickle.dumps([1, 2, 3])[:-4]])
def test_a_damaged_pickle_is_refused(tmp_path, damage):
    (tmp_path / "list.pkl").write_bytes(damage)
    with pytest.raises(InputError, match=r"list\.pkl: not a readable pickle"):
        lists.read_list(tmp_path / "list.pkl", "train")
    with pytest.raises(InputError, match=r"^config\.data\.lists: no file"):
        lists.read_list(tmp_path / "missing.pkl", "train")


@pytest.mark.parametrize(
    ("labels", "names"),
    [("ba", ("a", "b")), ("2011", ("0", "1", "2")), (("10", "x"), ("10", "x"))],
)
def test_classes_without_given_names(labels, names):
    assert tables.class_names_of([tables.Row("", "", label) for label in labels]) == names


def test_integer_labels_with_gaps_need_names():
    rows = [tables.Row("", "", label) for label in ("0", "1000000")]
    with pytest.raises(InputError, match=r"^config\.data\.class_names: .* 0,1000000 have gaps"):
        tables.class_names_of(rows)


def test_labels_are_names_or_indices():
    lookup = tables.label_lookup(("Mel", "NV"))
    assert [tables.find_label(c, lookup, "") for c in ("mel", "nv", "0", "1")] == [0, 1, 0, 1]
    # When names are numbers, a number is always a name.
    lookup = tables.label_lookup(("1", "2"))
    assert tables.find_label("1", lookup, "") == 0
    with pytest.raises(InputError):
        tables.find_label("0", lookup, "")
    with pytest.raises(InputError, match="has a name twice"):
        tables.label_lookup(("a", "A"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("2", "label 2 is out of range 0..1"),
        ("-1", "label -1 is out of range 0..1"),
        ("dog", "unknown class 'dog'"),
    ],
)
def test_a_label_that_is_no_class_is_refused(cell, message):
    with pytest.raises(
        InputError, match=f"^t.csv row 5: {message}; fix it or config.data.class_names$"
    ):
        tables.find_label(cell, tables.label_lookup(("a", "b")), "t.csv row 5")
