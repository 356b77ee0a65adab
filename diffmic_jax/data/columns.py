"""What the columns of a table of images are, by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from diffmic_jax.config import Data
from diffmic_jax.data import csvfile, labels, scan
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

IMAGE_COLUMNS = (
    *("image", "image id", "id code", "image index", "image name", "path", "filename"),
    *("file name", "image path", "image file", "img", "img id", "img name", "file", "file path"),
    "id",
)
"""In the order in which they are looked for; so are the others. An id may be a patient's too."""
LABEL_COLUMNS = (
    *("label", "labels", "target", "level", "retinopathy grade", "diagnosis", "dx"),
    *("finding labels", "class", "class name", "category", "diagnostic", "grade"),
)
WORDS_OF_LABELS = ("pathology", "disease")
"""Columns of labels unless their cells are 0 and 1, as of one class among others."""
GROUP_COLUMNS = (
    *("group", "patient id", "patient", "subject id", "subject", "participant id", "case id"),
    *("patient num", "lesion id", "study id"),
)
"""A patient, who may have several lesions or studies, before these."""
PART_COLUMNS = ("split",)
"""Always one of parts."""
OTHER_PART_COLUMNS = ("subset", "partition", "part", "set", "dataset", "phase", "usage", "fold")
"""One of parts if all of its cells are names of parts."""
METADATA = frozenset(
    map(
        csvfile.plain,
        (
            *("sex", "gender", "male", "female", "is male", "is female", "age", "age approx"),
            *("patient age", "patient sex", "patient gender", "ethnicity", "race", "bmi"),
            *("height", "weight", "width", "smoker", "pregnant", "laterality", "side", "eye"),
            *("frontal/lateral", "ap/pa", "view", "view position", "follow-up #", "study"),
            *("study id", "series id", "dicom id", "site", "anatom site general", "centre"),
            *("center", "hospital", "anatom site general challenge", "localization", "device"),
            *("scanner", "manufacturer", "date", "fold"),
        ),
    )
)
"""Columns, also of 0 and 1, that are no classes unless `data.label_columns` says so."""
PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_BESIDE = frozenset(("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "split"))
"""Words beside that of a part in the name of its folder, as are single letters."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_DISTINCT = 0.9
"""Share of different cells from which a column may be one of images."""
HOT = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table of labels are."""

    image: str
    label: str
    """'' where each class has a column."""
    part: str
    group: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, table: csvfile.Table, options: Options) -> Columns:
        """The columns by their names.

        Raises:
          InputError: there is none of images, or none of labels; or a chosen one is not there.
        """
        part, chosen = _part(table), _chosen(table, options)
        image, group = image_column(table, bool(chosen)), table.column(GROUP_COLUMNS)
        label = chosen[0] if len(chosen) == 1 else "" if chosen else label_column(table)
        rest = [name for name in table.header if name not in (image, part, group, label)]
        classes = chosen or [name for name in rest if csvfile.plain(name) not in METADATA]
        if options.multi_label:  # that no class applies is no class
            classes = [name for name in classes if name.casefold() != labels.NO_FINDING]
        if not image or not (label or len(classes) > 1):
            raise unknown(
                table,
                f"a label column ({', '.join(LABEL_COLUMNS)}, or the one that you name in "
                "config.data.label_columns) or one 0/1 column per class",
            )
        return cls(
            image=image,
            label=label,
            part=part,
            group=group,
            classes=() if label else tuple(classes),
        )

    def tell(self, table: csvfile.Table) -> None:
        """Log which columns the labels are from, and which are not used."""
        used = {self.image, self.label, self.part, self.group, *self.classes}
        if csvfile.plain(self.image) not in map(csvfile.plain, IMAGE_COLUMNS):
            log.info("%s: the images are in column %s", table.path, self.image)
        unused = [name for name in table.header if name not in used]
        labelled = f"labels from column {self.label}"
        if self.classes:
            labelled = f"classes are the columns {', '.join(self.classes)}"
        if self.group:
            labelled += f", groups from {self.group}"
        if unused or self.classes or self.group:
            rest = f"; not used: {', '.join(unused)}" if unused else ""
            log.info("%s: %s%s", table.path, labelled, rest)
        if self.part and csvfile.plain(self.part) not in PART_COLUMNS:
            log.info("%s: the split is in column %s", table.path, self.part)


def image_column(table: csvfile.Table, labelled: bool = False) -> str:
    """The column of images by its name, or else the only one whose cells are all files; '' if none.

    The files are looked for in the folder of the table, without regard to their endings. Numbers
    are no names of files here: they may be an age, or a patient's.

    Args:
      table: of labels or anything else.
      labelled: it has labels, though no column has a name of theirs.
    """
    label, group = label_column(table), table.column(GROUP_COLUMNS)
    if (named := table.column(IMAGE_COLUMNS)) or not (labelled or label):
        return named
    names = {
        column: {_stem(line[column].replace("\\", "/")) for _, line in table.lines}
        for column in table.header
        if column not in (label, group) and csvfile.plain(column) not in METADATA
    }
    names = {
        column: cells
        for column, cells in names.items()
        if len(cells) > _DISTINCT * len(table.lines) and not any(map(str.isdecimal, cells))
    }
    if not names:
        return ""
    there = {_stem(path.name) for path in scan.images_under(table.path.parent)}
    found = [column for column, cells in names.items() if cells <= there]
    return found[0] if len(found) == 1 else ""


def _stem(name: str) -> str:
    """The name of a file without its folders and the ending of an image, in lower case."""
    path = PurePath(name)
    return (path.stem if scan.has_ending(path.name) else path.name).casefold()


def label_column(table: csvfile.Table) -> str:
    """The column of labels by its name; '' if there is none."""
    if named := table.column(LABEL_COLUMNS):
        return named
    words = table.column(WORDS_OF_LABELS)
    return words if words and any(hot(line[words]) == 2.0 for _, line in table.lines) else ""


def part_of(name: str) -> str:
    """The part whose folder has a name, as `train`, `Test_Set` or `a. Training Set`; '' if none."""
    part, others = _part_in(name)
    return part if all(word in _BESIDE or len(word) == 1 for word in others) else ""


def part_of_file(path: PurePath) -> str:
    """The part of a file by its folders below the root, the innermost first; '' if none tells."""
    return next(filter(None, map(part_of, reversed(path.parts[:-1]))), "")


def part_of_table(path: PurePath) -> str:
    """The part of a table by a word of its name, or by its folders; '' if neither tells.

    Args:
      path: below the root.
    """
    return part_word(path.stem) or part_of_file(path)


def part_word(name: str) -> str:
    """The one part that a word of a folder's name tells, whatever else it says; '' if none."""
    return _part_in(name)[0]


def other_words(name: str) -> set[str]:
    """The words of a name, in lower case, that are no names of parts."""
    return {*_part_in(name)[1]} - _BESIDE


def holds_validation(name: str) -> bool:
    """Whether a name tells training and validation at once, as `train_val`."""
    words = {word.casefold() for word in _WORDS.findall(name)}
    return {"train", "validation"} <= {PART_NAMES.get(word) for word in words}


def _part_in(name: str) -> tuple[str, list[str]]:
    """The one part that the words of a name tell, '' if none or several; and the other words.

    Training and validation together are training, of which validation is cut.
    """
    words = [word.casefold() for word in _WORDS.findall(name)]
    parts = {PART_NAMES[word] for word in words if word in PART_NAMES}
    if parts == {"train", "validation"}:
        parts, words = {"train"}, [word for word in words if word != "and"]
    others = [word for word in words if word not in PART_NAMES]
    return parts.pop() if len(parts) == 1 else "", others


def _part(table: csvfile.Table) -> str:
    """The column of parts; '' if there is none."""
    other = table.column(OTHER_PART_COLUMNS)
    cells = {line[other].casefold() for _, line in table.lines} if other else set()
    return table.column(PART_COLUMNS) or (other if cells <= PART_NAMES.keys() else "")


def _chosen(table: csvfile.Table, options: Options) -> list[str]:
    """The columns that `data.label_columns` names."""
    names = [name for each in options.data.label_columns for name in each.split(",")]
    actual = {csvfile.plain(name): name for name in table.header}
    for name in names:
        if csvfile.plain(csvfile.normal(name)) not in actual:
            raise InputError(
                f"config.data.label_columns: {table.path} has no column {name!r}; choose among "
                f"{', '.join(table.header)}"
            )
    return [actual[csvfile.plain(csvfile.normal(name))] for name in names]


def hot(cell: str) -> float:
    """What a cell says of a class: 0 or 1; -1 where that is not known; 2 if it is bad."""
    try:
        value = HOT.get(cell.casefold())
        value = float(cell) if value is None else value
    except ValueError:
        return -1.0 if cell.casefold() in labels.MISSING else 2.0
    if value != value:
        return -1.0
    return value if value in (0.0, 1.0, -1.0) else 2.0


def has_labels(table: csvfile.Table) -> bool:
    """Whether a table of images has labels, though some may be missing or wrong."""
    if not image_column(table):
        return False
    if label_column(table):
        return True
    try:
        columns = Columns.of(table, Options(Data()))
    except InputError:
        return False
    return all(_is_hot(line, columns.classes) for _, line in table.lines)


def _is_hot(line: Mapping[str, str], classes: Sequence[str]) -> bool:
    return all(hot(line[name]) != 2.0 for name in classes)


def unknown(table: csvfile.Table, needed: str) -> InputError:
    """The error of a table that lacks columns."""
    return InputError(
        f"{table.path}: columns {','.join(table.header)} are unknown; it needs an image column"
        f" ({', '.join(IMAGE_COLUMNS)}) and {needed}"
    )
