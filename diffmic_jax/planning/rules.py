"""The rules by which `fit` decides, one function each, in the order in which they are asked.

A rule sees the fingerprint of the data, the machine and the minutes, and what was decided before
it. It never sees an image, a result or the test part: nothing is searched. Every decision is a
field of the configuration, its value and the reason, and stands in `plan.json` and in the report.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffmic_jax.planning.fingerprint import Fingerprint

SIZES = (64, 96, 128, 160, 192, 224)
"""Sides in pixels; the trunk's own is the largest."""
REFERENCE = 128
"""Side of the images whose training step `Machine.seconds` is about."""
SHARE, FIXED = 0.8, 120.0
"""Of the minutes without so many seconds and without reading the images, what goes into training
steps. The rest is validation; compiling, the choice and the report take as long for any training.
"""
GIVEN = "given"
"""The reason of what the user has set."""
LEAST, FOLDS = 3, 5
"""Trainings on different folds, at least and at most."""
WIDE = 1.4
"""Ratio of an image's sides up to which its centre square is taken for all of it."""
STEPS = 100
"""The fewest between checkpoints."""
ENOUGH, LEARNS = 60_000, 6_000
"""Images, each as often as it is seen, after which a network gains little, and after which it is as
good as its last layer alone would be. HAM10000 at 64 px: NLL .74 after 6,300, .55 from 70,000 on; a
last layer at 128 px has .72."""
EPOCHS = 100
"""The most of a training: with few images on a fast machine more would only learn them by heart."""
FEW = 3000
"""Images below which each is worth learning from, and a validation part of their own is not."""
HIDDEN: dict[str, Any] = {"guidance.hidden": (512, 512, 512), "guidance.dropout": 0.2}
"""Layers on features that do not change, where an image has several labels: docs/results.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What the training has to run on."""

    devices: str
    """In words, as '2 CPU cores'."""
    seconds: float
    """For a training step of the trunk, per image of `REFERENCE` px."""
    reading: float = 0.0
    """Seconds to read and decode an image of the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A field of the configuration that a rule has set."""

    field: str
    value: Any
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What the rules decide about."""

    data: Fingerprint
    machine: Machine
    minutes: float
    given: Mapping[str, Any]
    """Fields that the user has set; no rule changes them."""

    def images(self, size: int) -> float:
        """Images that training can see in the minutes, at a size."""
        seconds = self.machine.seconds * (size / REFERENCE) ** 2
        return SHARE * max(60 * self.minutes - FIXED - self.reading, 0.0) / seconds

    @property
    def reading(self) -> float:
        """Seconds to read all images, if none of them was read before."""
        return self.machine.reading * sum(self.data.images.values())

    @property
    def wanted(self) -> float:
        """Images that a training should see: 15 epochs of 500 images, 8 of some thousands."""
        n = self.data.learnable
        return min(n * min(15.0, max(8.0, 340 / n**0.5)), ENOUGH)


def decide(case: Case) -> list[Decision]:
    """All decisions for a data set."""
    size, members = _size_and_members(case)
    found = [_size(case, size), _tune(case, size), _batch_size(case), *_folds(case, members)]
    found += [_metric(case), *_checkpoints(case, found), _flip(case), *_copies(case), _fit(case)]
    found += [*_smoothing(case), *_hidden(case, found)]
    kept = [each for each in found if each.field not in case.given]
    chosen = [Decision(field=name, value=x, reason=GIVEN) for name, x in case.given.items()]
    return kept + chosen


def _size_and_members(case: Case) -> tuple[int, int]:
    """Side of the images, and trainings on different folds.

    With many images it is the largest side at which one training is long enough. With few, a side
    of `REFERENCE` comes first, then `LEAST` folds, since with fewer each training would lack too
    many images, then larger sides, and further folds last.
    """
    side = case.data.side[1]
    # No larger than the images themselves: the next size above their side.
    useful = [size for size in SIZES if size <= side] + [size for size in SIZES if size > side][:1]
    if "data.image_size" in case.given:
        useful = [case.given["data.image_size"]]
    few = case.data.learnable < FEW and case.data.rarest >= FOLDS
    few = few and not case.given.keys() & {"data.validation_fraction", "data.folds"}
    given = case.given.get("data.folds", 0)
    fine = min(REFERENCE, max(useful))
    folded = bool(given) or few and case.images(fine) >= LEAST * case.wanted
    if few and not folded:
        useful = [size for size in useful if size <= fine] or useful
    least = given or (LEAST if folded else 1)
    fitting = [size for size in useful if case.images(size) >= least * case.wanted]
    size = max(fitting, default=useful[0])
    members = min(FOLDS, int(case.images(size) // case.wanted))
    return size, given or (members if folded and members >= LEAST else 1)


def _size(case: Case, size: int) -> Decision:
    epochs = case.images(size) / case.data.learnable
    often = f"about {epochs:.{int(epochs < 2)}f}" if epochs <= EPOCHS else f"more than {EPOCHS}"
    read = case.reading / 60
    reading = f", of which reading the images takes {read:.0f}," if read >= 1 else ""
    reason = (
        f"{case.minutes:g} minutes{reading} are {often} epochs of {case.data.learnable:,} images "
        f"at {size} px; the images' shorter side is {case.data.side[1]} px"
    )
    return Decision(field="data.image_size", value=size, reason=reason)


def _tune(case: Case, size: int) -> Decision:
    n, seen = case.data.learnable, case.images(size)
    if seen >= 2 * n or max(seen, n) >= LEARNS:  # the features of so many would take long as well
        return Decision(
            field="guidance.tune", value="full", reason="there is time to train the whole network"
        )
    reason = (
        f"time for {seen / n:.1f} epochs alone: the last layer learns, on features kept in memory"
    )
    return Decision(field="guidance.tune", value="head", reason=reason)


def _batch_size(case: Case) -> Decision:
    n = case.data.learnable
    size = 32
    while size > 4 and n < 20 * size:
        size //= 2
    reason = f"at least 20 steps an epoch of {n:,} images"
    if n < 20 * size:
        reason = f"no smaller, for the sake of the statistics, though {n:,} images are few steps"
    return Decision(field="train.batch_size", value=size, reason=reason)


def _folds(case: Case, members: int) -> list[Decision]:
    n = case.data.learnable
    if members > 1:
        reason = f"{n:,} images are few: each is held out once, and the mean of {members} answers"
        return [Decision(field="data.folds", value=members, reason=reason)]
    share = round(min(0.15, max(0.1, 100 / n)), 3)
    if case.data.images["validation"]:
        return []
    reason = "of the training images, to choose and to calibrate with"
    return [Decision(field="data.validation_fraction", value=share, reason=reason)]


def _metric(case: Case) -> Decision:
    del case
    reason = "the probabilities are the answer, and few images judge them best"
    return Decision(field="checkpoint.metric", value="nll", reason=reason)


def _checkpoints(case: Case, found: Sequence[Decision]) -> list[Decision]:
    """Where an epoch is shorter than a checkpoint is worth, one comes after several."""
    values = _values(case, found)
    folds = values.get("data.folds", 0)
    kept = 1 - (1 / folds if folds else values.get("data.validation_fraction", 0.0))
    steps = max(1, int(kept * case.data.learnable) // values["train.batch_size"])
    epochs = math.ceil(STEPS / steps)
    if epochs == 1:
        return []
    reason = f"a checkpoint and a validation after {epochs} epochs of {steps} steps"
    return [Decision(field="checkpoint.every_steps", value=epochs * steps, reason=reason)]


def _values(case: Case, found: Sequence[Decision]) -> dict[str, Any]:
    """The fields that are decided so far, or given."""
    return {each.field: each.value for each in found} | dict(case.given)


def _fit(case: Case) -> Decision:
    aspect = case.data.aspect[1]
    wide = max(aspect, 1 / aspect) > WIDE
    reason = f"width over height is {aspect:g}: the centre square shows " + (
        "too little" if wide else "most of it"
    )
    return Decision(field="data.fit", value="letterbox" if wide else "crop", reason=reason)


def _smoothing(case: Case) -> list[Decision]:
    """Of several labels each is rare, and to smooth them would make all of them likelier."""
    if not case.data.several:
        return []
    reason = "each of several labels is rare: smoothed, all of them would be too probable"
    return [Decision(field="guidance.label_smoothing", value=0.0, reason=reason)]


def _hidden(case: Case, found: Sequence[Decision]) -> list[Decision]:
    """Several labels share what layers make of the features; one label needs no more of them."""
    if not case.data.several or _values(case, found)["guidance.tune"] != "head":
        return []
    reason = "several labels learn better from layers on the features than from the features"
    return [Decision(field=name, value=value, reason=reason) for name, value in HIDDEN.items()]


def _copies(case: Case) -> list[Decision]:
    """An answer is no mean over the mirrored image where that may be of another class."""
    if case.given.get("data.flip") != "none":
        return []
    reason = "as data.flip: a mirror image may be of another class"
    return [Decision(field="sampling.flips", value="none", reason=reason)]


def _flip(case: Case) -> Decision:
    del case
    reason = "mirror images are as likely; set data.flip=none where left and right matter"
    return Decision(field="data.flip", value="horizontal", reason=reason)
