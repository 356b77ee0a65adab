from __future__ import annotations

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax.config import Data
from diffmic_jax.data import labels, lists, tables
from diffmic_jax.data.options import Options
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
        ("lesion_id,img_id,patient,class\nL1,a,P1,nv\n", ("a", "nv", "train", "P1"), ()),
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
        ("photo,label\na,0\n", "columns photo,label are unknown"),
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
    ("cells", "names"),
    [("ba", ("a", "b")), ("2011", ("0", "1", "2")), (("10", "x"), ("10", "x"))],
)
def test_classes_without_given_names(cells, names):
    assert tables.class_names_of([tables.Row("", "", label) for label in cells]) == names


def test_integer_labels_with_gaps_need_names():
    rows = [tables.Row("", "", label) for label in ("0", "1000000")]
    with pytest.raises(InputError, match=r"^config\.data\.class_names: .* 0,1000000 have gaps"):
        tables.class_names_of(rows)


def test_labels_are_names_or_indices():
    lookup = labels.lookup(("Mel", "NV"))
    assert [labels.find(c, lookup, "") for c in ("mel", "nv", "0", "1")] == [0, 1, 0, 1]
    # When names are numbers, a number is always a name.
    lookup = labels.lookup(("1", "2"))
    assert labels.find("1", lookup, "") == 0
    with pytest.raises(InputError):
        labels.find("0", lookup, "")
    with pytest.raises(InputError, match="classes 'a' and 'A' are the same name"):
        labels.lookup(("a", "A"))


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
        labels.find(cell, labels.lookup(("a", "b")), "t.csv row 5")


def read(path: Path, **fields: object) -> tables.Labels:
    return tables.read_labels(path, Options(Data(**fields)))


def cells(found: tables.Labels) -> list[tuple[str, str]]:
    return [(row.image, row.label) for row in found.rows]


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    lines = (["image", "label"], ["a.png", "caf\u00e9"], ["b.png", "x"])
    text = "\r\n".join(separator.join(line) for line in lines)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert cells(read(tmp_path / "t.csv")) == [("a.png", "caf\u00e9"), ("b.png", "x")]


@pytest.mark.parametrize(
    ("header", "row", "label"),
    [
        ("image,level", "10_left,3", "3"),
        ("image_name,patient_id,sex,diagnosis,target", "I_1,P1,male,nevus,1", "1"),
        ("Image name,Retinopathy grade,Risk of macular edema,,,", "I_1,2,0,,,", "2"),
        ("image,mel,nv", "I_1,True,False", "mel"),
        (",image,label", "0,I_1,x", "x"),
    ],
)
def test_tables_as_they_are_distributed(table, header, row, label):
    assert read(table(f"{header}\n{row}\n")).rows[0].label == label


def test_metadata_are_no_classes(table, caplog):
    path = table("Path,Sex,Age,Male,Mass,Nodule\na,F,60,1,1,0\nb,M,50,0,0,1\n")
    with caplog.at_level("INFO", "diffmic_jax"):
        found = read(path, multi_label=True)
    assert found.columns == ("Mass", "Nodule")
    assert "classes are the columns Mass, Nodule; not used: Sex, Age, Male" in caplog.text
    assert read(path, multi_label=True, label_columns=("Male", "Mass")).columns == ("Male", "Mass")
    assert [label for _, label in cells(read(path, label_columns=("Male",)))] == ["1", "0"]
    with pytest.raises(InputError, match=r"label_columns: .* has no column 'Edema'; choose among"):
        read(path, label_columns=("Edema",))


def test_blank_and_uncertain_cells_need_a_rule(table, caplog):
    path = table("image,Mass,Nodule\na,1.0,\nb,-1.0,0.0\nc,,1.0\n")
    message = r"row 2: a class is neither 0 nor 1; 3 such cells \(blank 2, -1.0 1\); choose"
    with pytest.raises(InputError, match=message):
        read(path, multi_label=True)
    both = "Mass|Nodule"
    rules = {
        "zero": ["Mass", "", "Nodule"],
        "one": [both, "Mass", both],
        "ignore": ["Mass|?Nodule", "?Mass", "?Mass|Nodule"],
    }
    for rule, wanted in rules.items():
        found = read(path, multi_label=True, uncertain=rule)
        assert [row.label for row in found.rows] == wanted
        done = "ignored" if rule == "ignore" else f"taken as {rule}"
        assert f"(blank 2, -1.0 1) are {done}" in caplog.text


def test_missing_labels_are_counted(table):
    path = table("image,label\na,nan\nb,x\nc,None\nd,nan\n")
    with pytest.raises(InputError, match=r"row 2: no label; 3 such cells \(nan 2, None 1\); give"):
        read(path)
    assert cells(read(path, unlabelled="skip")) == [("b", "x")]
    assert len(cells(read(path, class_names=("nan", "none", "x")))) == 4


def test_a_row_for_each_label_gives_an_image_all_of_them(table, caplog):
    path = table("image,label\na,Mass\nb,No Finding\na,Nodule\na,Mass\n")
    assert [(row.image, row.label) for row in read(path, multi_label=True).rows] == [
        ("a", "Mass|Nodule"),
        ("b", ""),
    ]
    assert (
        "1 rows have another label of an image of an earlier one; each of 2 images" in caplog.text
    )
    assert len(read(path).rows) == 4  # of which one label each is not to be guessed


def test_rows_that_contradict_each_other_are_not_united(table, caplog):
    path = table("image,label\na,No Finding\na,Mass\nb,Mass|Mass\n")
    assert len(read(path, multi_label=True).rows) == 3
    assert "have another label" not in caplog.text


@pytest.mark.parametrize(
    ("text", "multi_label", "columns"),
    [
        ("image,edema,mass,pathology\na,1,0,1\nb,0,1,0\n", True, ("edema", "mass", "pathology")),
        ("image,healthy,disease\na,1,0\nb,0,1\n", False, ("healthy", "disease")),
        ("image,disease,age\na,AMD,70\nb,DME,60\n", False, ()),
        ("image,case,control\na,1,0\nb,0,1\n", False, ("case", "control")),
    ],
)
def test_a_word_for_labels_may_be_a_class(table, text, multi_label, columns):
    assert read(table(text), multi_label=multi_label).columns == columns


def test_a_list_of_one_is_one_label(table):
    path = table("image,label\na,['No Finding']\nb,[a]\n")
    assert [row.label for row in read(path).rows] == ["No Finding", "a"]
    assert read(path, class_names=("No Finding", "[a]")).rows[1].label == "[a]"
    assert [row.label for row in read(table("image,label\na,['N']\nb,['D']\n")).rows] == ["N", "D"]
    with pytest.raises(InputError, match=r"several labels; 1 such cells \(\['N', 'D'\] 1\)"):
        read(table("image,label\na,['N']\nb,\"['N', 'D']\"\n"))


def test_several_labels_in_a_cell_are_no_class(table):
    path = table("image,label\na,Mass;Nodule\nb,Mass\nc,Nodule\n")
    with pytest.raises(InputError, match=r"row 2: several labels; 1 such cells \(Mass;Nodule 1\)"):
        read(path)
    assert [row.label for row in read(path, multi_label=True).rows] == [
        "Mass|Nodule",
        "Mass",
        "Nodule",
    ]


def test_all_problems_are_told_at_once(table):
    rows = "\n".join(["a,x"] + ["b"] * 12 + ["c,"])
    message = (
        r"^13 problems: .*row 3: 1 cells .* \(also row 4, .*, row 13 and 1 more\) \| .*row 15: no"
    )
    with pytest.raises(InputError, match=message):
        read(table(f"image,label\n{rows}\n"))
    rows = "\n".join(f"{i},x,{i}" for i in range(12))
    with pytest.raises(InputError, match=r"^12 problems: .* \| .* \| and 2 more$"):
        read(table(f"image,label,split\n{rows}\n"))


def test_names_that_look_the_same_are_the_same(table):
    found = read(table("image,label\na,e\u0301\nb,\u00e9\n"))
    assert {row.label for row in found.rows} == {"\u00e9"}


def test_a_list_with_numpy_integers_runs_nothing(pickled):
    numbers = [np.int64(3), np.uint8(200), np.array(-2, ">i4")[()]]
    path = pickled([{"img_root": "a.png", "label": number} for number in numbers])
    assert [row.label for row in lists.read_list(path, "train")] == ["3", "200", "-2"]
    path = pickled([{"img_root": "a.png", "label": np.float64(1)}])
    with pytest.raises(InputError, match="no whole numbers"):
        lists.read_list(path, "train")


def test_a_group_that_is_not_known_is_none(table):
    assert tables.read_groups(table("image,group\na,nan\nb,p\n")) == {"a": "", "b": "p"}


def test_several_columns_of_1_name_the_field_to_set(table):
    message = r"row 2: one of A,B must be 1, the others 0; .*multi_label=True if any number"
    with pytest.raises(InputError, match=message):
        read(table("image,A,B\na,1,1\nb,0,1\n"))


def test_joined_labels_are_no_label_of_their_own(table):
    path = table("image,label\na,Mass + Nodule\nb,Mass\nc,Nodule\n")
    for several in (False, True):
        message = r"row 2: several labels; 1 such cells \(Mass \+ Nodule 1\); separate them by \|"
        with pytest.raises(InputError, match=message):
            read(path, multi_label=several)


@pytest.mark.parametrize("column", ["Split", "set", "Subset", "partition", "dataset"])
def test_a_split_is_known_by_other_names_if_its_cells_are_parts(table, column, caplog):
    with caplog.at_level("INFO", "diffmic_jax"):
        parts = [
            row.part for row in read(table(f"image,label,{column}\na,x,Train\nb,y,dev\n")).rows
        ]
    assert parts == ["train", "validation"]
    assert column == "Split" or f"the split is in column {column}" in caplog.text


def test_columns_that_are_not_used_are_told(table, caplog):
    with caplog.at_level("INFO", "diffmic_jax"):
        found = read(table("ImageID,PatientID,label,set,age\na,p,x,A,60\nb,q,y,B,50\n"))
    assert [(row.image, row.group, row.part) for row in found.rows] == [
        ("a", "p", "train"),
        ("b", "q", "train"),
    ]
    assert "labels from column label, groups from PatientID; not used: set, age" in caplog.text


def test_a_column_that_was_not_known_is_named_by_the_user(table):
    path = table("image,Pneumonia\na,1\nb,0\n")
    with pytest.raises(InputError, match=r"the one that you name in config\.data\.label_columns"):
        read(path)
    assert cells(read(path, label_columns=("pneumonia",))) == [("a", "1"), ("b", "0")]


def test_a_line_that_names_the_separator_is_no_header(table):
    found = read(table("sep=;\nimage;label\na;x,y\nb;z\n"))
    assert cells(found) == [("a", "x,y"), ("b", "z")]
    assert found.rows[0].where.endswith("row 3")
