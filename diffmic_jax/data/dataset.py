"""A data set ready for batches: its images decoded, its parts checked against the configuration."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffmic_jax.config import Config
from diffmic_jax.data.cache import Cached, Examples, cached
from diffmic_jax.data.sources import Source, open_source
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import ORDINAL, SINGLE_LABEL_ONLY, Task

log = logging.getLogger("diffmic_jax")

_SHOWN = 10  # reasons for skipped images


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled images of one size in disjoint parts."""

    source: Source
    """All images, also those that cannot be read."""
    examples: Mapping[str, Examples]
    """The images that can be read, by part; the parts are those of the source."""
    skipped: Mapping[str, str]
    """Why each of the other images cannot be read, by its id."""
    image_size: int
    """S, side of an image in pixels."""
    digest: Mapping[str, int] = field(default_factory=dict)
    """A hash of the prepared pixels of each image, by its id."""
    gray_bits: int = 0
    """Scale of its gray images of more than eight bits; 0: there are none."""

    @property
    def task(self) -> Task:
        """The kind of its labels."""
        return self.source.task

    @property
    def counts(self) -> tuple[int, ...]:
        """Training images of each class, [C]."""
        return self.task.counts(self.examples["train"].label)


def open_dataset(config: Config) -> Dataset:
    """Open and decode the data set of a configuration, and warn about skipped images.

    Images come from the cache where they are in it.

    Raises:
      InputError: the data are not there or not as described; a part has no image; an image cannot
        be read, unless those are skipped; the cache cannot be written; or
        `checkpoint.metric` is not defined for such labels.
    """
    data = config.data
    source = open_source(data)
    _check_metric(config.checkpoint.metric, source.task)  # first: decoding may take long
    folder = Path(data.cache_dir) if data.cache_dir else None
    decoded = cached(
        source,
        data.image_size,
        folder,
        on_bad_image=data.on_bad_image,
        gray_bits=data.gray_bits,
    )
    dataset = Dataset(
        source=source,
        examples=decoded.examples,
        skipped=decoded.skipped,
        image_size=data.image_size,
        digest=decoded.digest,
        gray_bits=decoded.gray_bits,
    )
    tell_of_images(decoded)
    _check_parts(dataset)
    return dataset


def _check_metric(metric: str, task: Task) -> None:
    if metric in ORDINAL and not task.ordered:
        raise InputError(
            f"config.checkpoint.metric={metric!r} needs an order of the classes "
            f"{','.join(task.class_names)}; give it in config.data.class_names"
        )
    if metric not in task.metrics:
        what = (
            "is not defined for several labels per image"
            if metric in SINGLE_LABEL_ONLY
            else "is unknown"
        )
        raise InputError(
            f"config.checkpoint.metric={metric!r} {what}; choose one of {', '.join(task.metrics)}"
        )


def tell_of_images(decoded: Cached) -> None:
    """Log which images are left out, on which scale gray ones are, and what flaws stop nothing."""
    for reason in list(decoded.skipped.values())[:_SHOWN]:
        log.warning("skipped %s", reason)
    if decoded.skipped:
        log.warning("%d images skipped, all listed in skipped.csv", len(decoded.skipped))
    if decoded.bits and not decoded.gray_bits:
        log.warning("gray images of more than 8 bits are each scaled by the bits that they use")
    elif decoded.bits:
        used = ", ".join(f"{count} use {bits} bits" for bits, count in decoded.bits.items())
        level = logging.INFO if set(decoded.bits) == {decoded.gray_bits} else logging.WARNING
        high = 2**decoded.gray_bits - 1
        log.log(level, "gray images of more than 8 bits: %s; all are scaled from 0..%d", used, high)
    for note, count in Counter(decoded.notes.values()).most_common(_SHOWN):
        first = next(name for name, each in decoded.notes.items() if each == note)
        log.warning("%d images, the first of them %s: %s", count, first, note)


def _check_parts(dataset: Dataset) -> None:
    """Refuse data of which a part is gone with its bad images, and warn where a class is."""
    task = dataset.task
    for part, records in dataset.source.splits.items():
        examples = dataset.examples[part]
        if records and not len(examples):
            raise InputError(
                f"config.data.root: no image of the {part} part can be read; replace some of them"
            )
        before, after = (
            {task.name(record.label) for record in each} for each in (records, examples.records)
        )
        if part == "train" and before - after and not task.multi_label:
            log.warning("no training image of %s can be read", ", ".join(sorted(before - after)))
