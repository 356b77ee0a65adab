"""What a data set is, as far as it decides how to train on it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from diffmic_jax.data import grouping, splits
from diffmic_jax.data.layouts import PARTS, Record, label_array
from diffmic_jax.data.pixels import Decoded
from diffmic_jax.data.sources import Source
from diffmic_jax.method.task import Task

LOOKED_AT = 48
"""Images whose size and colour are looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Counts and sizes of a data set; all that the rules see."""

    name: str
    images: dict[str, int]
    """By part."""
    classes: dict[str, int]
    """Images of training and validation that have each class, in label order."""
    labels: str
    """`one of several`, `one of several degrees` or `any number of several`."""
    groups: int
    """Lesions or patients; 0: they are not known."""
    leaked: int
    """Test images that show a group of training or validation."""
    side: tuple[int, int, int]
    """Smallest, median and largest shorter side of an image, in pixels."""
    aspect: tuple[float, float, float]
    """Smallest, median and largest width over height."""
    gray: float
    """Share of the images that are gray."""
    bits: int
    """The most that a gray image of more than eight bits uses; 0: there are none."""
    rarest: int = 0
    """Groups, or images of none, of the class that has the fewest of those that have any."""
    group_regex: str = ""
    """By which the names of images may tell patients; empty: they do not, or these are known."""

    @classmethod
    def of(cls, source: Source) -> Fingerprint:
        """The fingerprint of a data set, for which a few of its images are decoded.

        Raises:
          InputError: none of these images can be read.
        """
        task, records = source.task, source.records
        known = source.splits["train"] + source.splits["validation"]
        counts = task.counts(label_array(known, task))
        looks = _look(source, records)
        sides = sorted(min(each.pixels.shape[:2]) for each in looks)
        aspects = sorted(each.pixels.shape[1] / each.pixels.shape[0] for each in looks)
        kind = "any number of" if task.multi_label else "one of"
        return cls(
            name=source.name,
            images={part: len(source.splits[part]) for part in PARTS},
            classes=dict(zip(task.class_names, map(int, counts), strict=True)),
            labels=f"{kind} several" + " degrees" * (task.ordered and not task.multi_label),
            groups=len({record.group for record in records} - {""}),
            leaked=_leaked(source),
            side=(sides[0], int(statistics.median(sides)), sides[-1]),
            aspect=tuple(
                round(x, 2) for x in (aspects[0], statistics.median(aspects), aspects[-1])
            ),
            gray=round(float(np.mean([_is_gray(each.pixels) for each in looks])), 2),
            bits=max(each.bits for each in looks),
            rarest=_rarest(known, task),
            group_regex=(grouping.guess(source.splits) or {}).get("regex", ""),
        )

    @property
    def learnable(self) -> int:
        """Images that are not for the test."""
        return self.images["train"] + self.images["validation"]

    @property
    def several(self) -> bool:
        """Whether an image can have any number of the labels."""
        return self.labels.startswith("any number")

    @property
    def named(self) -> bool:
        """Whether an image has one label, and the labels are not in the order of degrees."""
        return not self.several and not self.labels.endswith("degrees")


def _rarest(records: Sequence[Record], task: Task) -> int:
    """Of how many groups the images of a class are, at least; an image of none is one by itself."""
    labels, groups = label_array(records, task), np.array([r.group or r.id for r in records])
    hot = labels > 0 if task.multi_label else labels[:, None] == np.arange(task.num_classes)
    counts = [len(np.unique(groups[own])) for own in hot.T]
    return min(filter(None, counts), default=0)


def _look(source: Source, records: Sequence[Record]) -> list[Decoded]:
    """Some images of a source, spread over all of it; those that cannot be read are passed over."""
    chosen = np.random.default_rng(0).permutation(len(records))
    looks: list[Decoded] = []
    error: Exception | None = None
    for index in chosen[: 4 * LOOKED_AT]:
        try:
            looks.append(source.read(records[index]))
        except Exception as problem:  # decoding tells of it, with the policy for bad images
            error = problem
        if len(looks) == LOOKED_AT:
            break
    if not looks and error:
        raise error
    return looks


def _is_gray(pixels: np.ndarray) -> bool:
    return bool(
        (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    )


def _leaked(source: Source) -> int:
    return len(splits.leaked({part: list(source.splits[part]) for part in PARTS}))
