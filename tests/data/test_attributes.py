"""Columns of tables by image."""

from __future__ import annotations

import pytest

from diffmic_jax.config import Data
from diffmic_jax.data.attributes import MISSING, read_attributes
from diffmic_jax.data.layouts import Record
from diffmic_jax.errors import InputError

RECORDS = [Record(f"{i}.png", 0, "") for i in range(12)]


@pytest.fixture
def data(tmp_path):
    rows = ["image,label,Sex,age,stage"]
    rows += [f"{i}.png,a,{'fm'[i % 2]},{10 * i if i else ''},{i % 3}" for i in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return Data(root=str(tmp_path), labels="labels.csv")


def test_words_stay_and_numbers_become_ranges(data):
    found = read_attributes(data, RECORDS[::-1], ("sex", "age", "stage"))
    assert found["sex"] == ["m", "f"] * 6
    assert found["stage"] == [str(i % 3) for i in range(12)][::-1]
    ages = found["age"][::-1]
    assert ages[0] == MISSING
    assert ages[1] == "10 to 35"  # of 10, 20, ... 110
    assert ages[11] == "85 to 110"
    assert len(set(ages)) == 5


def test_another_table_can_be_named(data, tmp_path):
    (tmp_path / "more.csv").write_text("image;site\n" + "\n".join(f"{i};x" for i in range(12)))
    with pytest.raises(InputError, match=r"--attributes=site: no such column in .*labels.csv"):
        read_attributes(data, RECORDS, ["site"])
    table = tmp_path / "more.csv"
    assert read_attributes(data, RECORDS, ["site"], table) == {"site": ["x"] * 12}
    with pytest.raises(InputError, match=r"more.csv: no row for image 12.png"):
        read_attributes(data, [*RECORDS, Record("12.png", 0, "")], ["site"], table)
    (tmp_path / "odd.csv").write_text("who,site\na,x\n")
    with pytest.raises(InputError, match=r"odd.csv: no column names the images"):
        read_attributes(data, RECORDS, ["site"], tmp_path / "odd.csv")
