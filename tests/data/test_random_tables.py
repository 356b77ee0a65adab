"""Tables as anybody may write them: what is accepted has the labels that were meant."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

from diffmic_jax.config import Data  # noqa: E402
from diffmic_jax.data.sources import open_layout  # noqa: E402
from diffmic_jax.errors import InputError  # noqa: E402

KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "from 0": {"0": ("0", "00", "0.0"), "1": ("1", "01", "1.0", "1e0"), "2": ("2", "2.", "+2")},
    "from 1": {"1": ("1", "001"), "2": ("2", "2.0"), "3": ("3", "3.000e+00")},
    "words": {"mild": ("mild", " mild "), "not, as such": ("not, as such",), "a;b": ("a;b",)},
    "accents": {"\u00e9t\u00e9": ("\u00e9t\u00e9", "e\u0301te\u0301"), "x y": ("x y",)},
    "truth": {"True": ("True",), "False": ("False",)},
}
"""The classes of each kind of labels, and the ways in which a cell may write them."""
HOT = (("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", "FALSE"))
NAMES = ("Mass", "Nodule", "Edema")
MISSING = ("", "nan", "N/A", "None", "?", "-", "unknown")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
IN_A_CELL: tuple[Callable[[str], str], ...] = (
    str,
    lambda name: f"./sub/{name}",
    lambda name: f"sub\\{name}",
    lambda name: f"data/sub/{name}",
    lambda name: name.upper(),
    lambda name: name.removesuffix(".png"),
    lambda name: f"{int(name.removesuffix('.png'))}.png",
)
"""The ways in which a cell may write the name of an image."""
IMAGES = tuple(f"{i:03d}.png" for i in range(12))


class Table(NamedTuple):
    """A table, and what it means."""

    rows: list[dict[str, str]]
    meant: dict[str, Any]
    """The class of each image; a set of them with several labels."""
    fields: dict[str, Any]
    """Of the configuration."""
    bad: bool = False
    """It has to be refused."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    (root / "sub").mkdir()
    for name in IMAGES:
        (root / "sub" / name).touch()
    return root


@st.composite
def one_label(draw: Any) -> Table:
    """A column of labels, in which cells may be missing."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    classes = [*kind, *draw(st.lists(st.sampled_from(sorted(kind)), min_size=1, max_size=8))]
    meant = dict(zip(IMAGES, classes, strict=False))
    rows = [
        {"image": image, "label": draw(st.sampled_from(kind[name]))}
        for image, name in meant.items()
    ]
    missing = draw(st.lists(st.sampled_from(MISSING), max_size=2))
    rows += [{"image": IMAGES[-1], "label": cell} for cell in missing[:1]]
    skipped = draw(st.booleans())
    fields = {"unlabelled": "skip"} if skipped else {}
    return Table(rows, meant, fields, bool(missing) and not skipped)


@st.composite
def columns(draw: Any) -> Table:
    """A column for each class; with several labels, cells may be blank or -1."""
    yes, no = draw(st.sampled_from(HOT))
    several = draw(st.booleans())
    rule = draw(st.sampled_from(("error", "zero", "one", "ignore"))) if several else "error"
    rows, meant, unsure = [], {}, False
    for image in IMAGES[: draw(st.integers(3, 10))]:
        true = {draw(st.sampled_from(NAMES))}
        if several:
            true = set(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
        cells = {name: yes if name in true else no for name in NAMES}
        if several and draw(st.booleans()):
            name = draw(st.sampled_from(NAMES))
            cells[name], unsure = draw(st.sampled_from(("", "-1", "-1.0", "nan"))), True
            doubt = {"one": {name}, "ignore": {f"?{name}"}}.get(rule, set())
            true = true - {name} | doubt
        rows.append({"image": image, "Male": draw(st.sampled_from("01")), **cells})
        meant[image] = true if several else next(iter(true))
    return Table(
        rows, meant, {"multi_label": several, "uncertain": rule}, unsure * (rule == "error")
    )


@st.composite
def several_labels(draw: Any) -> Table:
    """Several labels in a cell."""
    separator = draw(st.sampled_from(("|", ";", ",", " ; ", ", ")))
    meant = {image: {name} for image, name in zip(IMAGES, NAMES, strict=False)}
    for image in IMAGES[3 : draw(st.integers(4, 10))]:
        meant[image] = set(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
    rows = [
        {"image": image, "Finding Labels": separator.join(sorted(true)) or "No Finding"}
        for image, true in meant.items()
    ]
    return Table(rows, meant, {"multi_label": True})


@st.composite
def repeated(draw: Any, tables: st.SearchStrategy[Table]) -> Table:
    """The same; an image may occur twice, with one label or with two.

    Where it may have several in a column, it has those of both rows, but not none and some.
    """
    table = draw(tables)
    first, second = table.rows[:2]
    again = {"none": [], "same": [first], "other": [{**second, "image": first["image"]}]}
    kind = draw(st.sampled_from(sorted(again)))
    one, other = table.meant[IMAGES[0]], table.meant[IMAGES[1]]
    conflict, meant = kind == "other" and one != other, table.meant
    if conflict and "Finding Labels" in first and table.fields.get("multi_label") and one and other:
        conflict, meant = False, meant | {IMAGES[0]: one | other}
    return table._replace(rows=table.rows + again[kind], meant=meant, bad=table.bad or conflict)


@st.composite
def written(draw: Any, rows: list[dict[str, str]]) -> bytes:
    """The bytes of a file with these rows."""
    header = draw(st.permutations(list(rows[0])))
    index = draw(st.booleans())
    image = draw(st.sampled_from(IN_A_CELL))
    file = io.StringIO()
    writer = csv.writer(
        file,
        delimiter=draw(st.sampled_from(",;\t|")),
        lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r"))),
        quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))),
    )
    style = draw(st.sampled_from((str, str.upper, str.title)))
    titles = [style(name) if name == "image" else name for name in header]
    writer.writerow([""] * index + titles)
    for i, row in enumerate(rows):
        cells = {**row, "image": image(row["image"])}
        writer.writerow([i] * index + [cells[name] for name in header])
    return file.getvalue().encode(draw(st.sampled_from(ENCODINGS)))


def labels_in(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """What the reader takes the label of each image to be."""
    layout = open_layout(Data(name="x", root=str(folder), labels="labels.csv", **fields))
    found = {}
    for records in layout.parts.values():
        for record in records:
            name = layout.task.name(record.label)
            several = layout.task.multi_label
            found[Path(record.path).name] = set(filter(None, name.split("|"))) if several else name
    return found


@hypothesis.settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(st.data())
def test_a_random_table_has_the_labels_that_were_meant_or_is_refused(folder, data):
    table = data.draw(repeated(one_label() | columns() | several_labels()))
    (folder / "labels.csv").write_bytes(data.draw(written(table.rows)))
    if table.bad:
        with pytest.raises(InputError, match=r"labels\.csv row"):
            labels_in(folder, table.fields)
    else:
        assert labels_in(folder, table.fields) == table.meant
