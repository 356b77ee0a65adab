"""Images of other data than the training's, with the labels of the trained classes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffmic_jax.config import Data
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.labels import GapsError
from diffmic_jax.data.layouts import Label, Record
from diffmic_jax.data.options import numbers_of
from diffmic_jax.data.recognise import data_fields, part_alone
from diffmic_jax.data.sources import Source, open_layout
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import UNKNOWN, Task

log = logging.getLogger("diffmic_jax")

CENTRE = Framing()
LEFT_OUT = ""
"""Where a class is mapped to: its images are not evaluated, or with several labels that label."""
OF_PLACE = (
    "name",
    "root",
    "labels",
    "label_columns",
    "lists",
    "groups",
    "group_regex",
    "class_names",
    "allow_outside",
    "split",
    "protocol",
    "folds",
    "fold",
)
"""Fields that say where a data set is and how it is cut: other data has others."""


def fields_of(data: str | Path, task: Task, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run's configuration that differ for other data.

    Args:
      data: a folder of images, a CSV of labels or the name of a data set.
      task: the trained one.
      changes: fields that are given, as `data.labels`, a CSV in the folder.

    Raises:
      InputError: there is no such data.
    """
    other = {f"data.{name}": getattr(Data(), name) for name in OF_PLACE}
    if "data.labels" in changes:
        other |= {"data.name": "images", "data.root": str(data)}
    else:
        other |= data_fields(part_alone(data))
    return other | {"data.multi_label": task.multi_label} | dict(changes)


def open_external(
    data: Data, task: Task, class_map: Mapping[str, str], framing: Framing = CENTRE
) -> Source:
    """A data set, all of which is for testing, with the classes of a trained model.

    Classes go by their names, in any case.

    Args:
      data: the other data.
      task: the trained one.
      class_map: from the other data's class names to the trained ones, or to `LEFT_OUT`.
      framing: of the training's pictures.

    Raises:
      InputError: the data cannot be opened, or has a class that the model does not know.
    """
    try:
        found = open_layout(data, testing=True)
    except GapsError:  # whole numbers, of which the data may lack some
        if not numbers_of(task.class_names) or task.multi_label:
            raise
        found = open_layout(replace(data, class_names=task.class_names), testing=True)
    if found.task.multi_label != task.multi_label:
        kind = "any number of classes" if task.multi_label else "one class"
        raise InputError(f"{data.root}: the model gives an image {kind}, these labels do not")
    theirs = found.task.class_names
    places = _places(theirs, task, class_map, data.root)
    absent = [name for i, name in enumerate(task.class_names) if i not in places]
    if absent and task.multi_label:
        log.warning("%s: has no labels of %s, which are not judged", data.root, ", ".join(absent))
    records = [
        record._replace(label=label)
        for listed in found.parts.values()
        for record in listed
        if (label := _label(record, places, task)) is not None
    ]
    if not records:
        raise InputError(f"{data.root}: no image of a class that the model knows is left")
    empty: tuple[Record, ...] = ()
    splits = {"train": empty, "validation": empty, "test": tuple(records)}
    return Source(
        name=data.name,
        task=task,
        splits=splits,
        read=found.read,
        files=found.files,
        max_pixels=data.max_pixels,
        framing=framing,
    )


def _places(
    theirs: tuple[str, ...], task: Task, class_map: Mapping[str, str], where: str
) -> list[int | None]:
    """The trained class of each of the other data's; None for those left out."""
    ours = {name.casefold(): i for i, name in enumerate(task.class_names)}
    given = {name.casefold(): name_of for name, name_of in class_map.items()}
    if unknown := sorted(given.keys() - {name.casefold() for name in theirs}):
        raise InputError(
            f"--class_map: {where} has no class {unknown[0]!r}; it has {', '.join(theirs)}"
        )
    places: list[int | None] = []
    for name in theirs:
        target = given.get(name.casefold(), name)
        if target == LEFT_OUT:
            places.append(None)
        elif target.casefold() in ours:
            places.append(ours[target.casefold()])
        else:
            raise InputError(
                f"{where}: class {name!r} is not one of the model's, "
                f"{', '.join(task.class_names)}; map it with --class_map={name}="
                f"{task.class_names[0]}, or leave it out with --class_map={name}="
            )
    taken = Counter(place for place in places if place is not None)
    if task.multi_label and taken and max(taken.values()) > 1:
        raise InputError("--class_map: several classes become one, which several labels cannot")
    return places


def _label(record: Record, places: list[int | None], task: Task) -> Label | None:
    """The label in the trained classes; None for an image that is left out.

    Of several labels those that the other data does not have are not known, which is not absent.
    """
    if isinstance(record.label, int):
        return places[record.label]
    label = [UNKNOWN] * task.num_classes
    for place, value in zip(places, record.label, strict=True):
        if place is not None:
            label[place] = value
    return tuple(label)
