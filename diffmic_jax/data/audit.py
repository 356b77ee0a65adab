"""What is in a data set, and what a reviewer would hold against a result on it.

Test images that are also in training, or that show a lesion or patient of training, make a result
look better than it is; so do classes that can be told by something else than the disease
(`shortcuts`). Groups show the second kind, known ones or those that names hint at (`grouping`). For
the first kind every image is decoded once and compared with all others:

- images with the same pixels, by a digest of them;
- images with nearly the same pixels: copies in another size, compression, brightness or tint, and
  photographs taken moments apart. A 64-bit hash of the low frequencies proposes pairs, and the
  correlation of these frequencies confirms them. Copies that are mirrored or turned are not found,
  nor are those that are cropped or shifted by more than some two percent.

The keys of a report:

name, class_names, multi_label: those of the source.
n, n_by_split, counts: images in all, by split, and by split and class; with several labels
    an image counts for each, and for 'none' if it has none.
groups_known: whether any image has a group. If not, the leaked ones are 0.
ungrouped: images of each part whose group is not known: whether these leak is not known either.
leaked_images, leaked_groups: test images whose group is also in training or validation,
    and how many groups that are.
leaked_validation_images: validation images whose group is also in training.
group_guess: what `grouping.guess` returns; None where groups are known.
few_to_test: class -> `images` of it in the test part, and `margin`, half of the width of the
    95% interval of a sensitivity measured on them at worst; of classes with fewer than 20.
forms, tells, baselines: what the functions of `shortcuts` return.
exact_duplicates: clusters of images with the same pixels, as parallel lists `images`
    (ids), `splits` and `labels`; those that straddle splits or disagree in their labels
    come first.
exact_duplicates_across_splits, conflicting_labels: how many of the clusters do so.
near_duplicates: pairs of images `a`, `b` of different splits with nearly, but not exactly,
    the same pixels: `splits`, `labels`, `distance` (bits), `correlation`, `same_group`
    (None if a group is unknown). By distance, then by correlation; `MAX_LISTED` at most.
near_duplicates_across_splits: how many such pairs there are.
near_duplicates_of_other_labels, near_duplicates_of_other_groups: how many of them differ
    in their labels, and in their groups where both are known.
duplicated_test_images: test images with an exact or near duplicate in training or
    validation.
max_distance, min_correlation: as given.
unreadable: `id` and `reason` of every image that cannot be decoded.
constant: ids of images of a single colour.
sizes, modes: images of each 'width x height', as '600x450', and of each stored form; the
    most frequent first.
side, aspect: `min`, `median` and `max` of the shorter side in pixels and of width over
    height; None if no image can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffmic_jax.data import grouping, shortcuts, splits
from diffmic_jax.data.duplicates import MAX_DISTANCE, MIN_CORRELATION, ExactClusters, NearPairs
from diffmic_jax.data.layouts import PARTS, Record, label_array
from diffmic_jax.data.sources import Source
from diffmic_jax.data.views import Views, read_views
from diffmic_jax.errors import InputError

FEW = 20
"""Test images of a class below which hardly anything can be said of it."""


def audit(
    source: Source,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    num_threads: int = 0,
    progress: bool = True,
    learned: Sequence[str] = ("train",),
) -> dict[str, Any]:
    """Decode every image of a source and report what is found.

    Args:
        source: what to read.
        max_distance: bits of 64 in which the hashes of near duplicates differ at most.
        min_correlation: of the low frequencies of near duplicates, at least; -1 leaves the
            decision to the hash.
        num_threads: that decode; 0: one for each core. The report does not depend on it.
        progress: show a bar on standard error, if that is a terminal.
        learned: parts that the `baselines` learn from.

    Returns:
        The report described above, which `json.dump` takes.

    Raises:
        InputError: an argument is out of range.
    """
    _check(max_distance, min_correlation)
    views, bad = read_views(source, num_threads, progress)
    clusters = ExactClusters(source, views)
    pairs = NearPairs(source, views, max_distance, min_correlation)
    pairs.search()
    return (
        audit_records(source)
        | clusters.report()
        | pairs.report()
        | {"duplicated_test_images": len(clusters.test_ids() | pairs.test_ids())}
        | {"max_distance": max_distance, "min_correlation": min_correlation}
        | {"unreadable": bad}
        | _shapes(source, views)
        | {"forms": shortcuts.forms(source, views), "tells": shortcuts.tells(source, views)}
        | {"baselines": shortcuts.baselines(source, views, learned)}
    )


def audit_records(source: Source) -> dict[str, Any]:
    """The keys of a report that need no image: counts, and leaks by groups."""
    return (
        _composition(source)
        | _leaks(source)
        | {"group_guess": grouping.guess(source.splits), "few_to_test": _few_to_test(source)}
    )


def _check(max_distance: int, min_correlation: float) -> None:
    if not 0 <= max_distance <= 64:
        raise InputError(f"max_distance: {max_distance} is not in 0..64")
    if not -1 <= min_correlation <= 1:
        raise InputError(f"min_correlation: {min_correlation} is not in [-1, 1]")


# The contents.


def _composition(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "n": len(source.records),
        "class_names": list(source.task.class_names),
        "multi_label": source.task.multi_label,
        "n_by_split": {split: len(listed) for split, listed in source.splits.items()},
        "counts": {split: _by_class(source, listed) for split, listed in source.splits.items()},
    }


def _by_class(source: Source, records: Sequence[Record]) -> dict[str, int]:
    label = label_array(records, source.task)
    counts = dict(zip(source.task.class_names, source.task.counts(label), strict=True))
    if source.task.multi_label:
        counts["none"] = int((~(label > 0).any(axis=1)).sum())
    return counts


def _leaks(source: Source) -> dict[str, Any]:
    parts = {part: list(source.splits[part]) for part in PARTS}
    leaked = splits.leaked(parts)
    validation = splits.leaked(
        {"train": parts["train"], "validation": [], "test": parts["validation"]}
    )
    return {
        "groups_known": any(record.group for record in source.records),
        "ungrouped": {part: sum(not r.group for r in listed) for part, listed in parts.items()},
        "leaked_images": len(leaked),
        "leaked_groups": len({record.group for record in leaked}),
        "leaked_validation_images": len(validation),
    }


def _few_to_test(source: Source) -> dict[str, dict[str, float]]:
    label = label_array(source.splits["test"], source.task)
    pairs = zip(source.task.class_names, source.task.counts(label), strict=True)
    # Half of the width of Wilson's interval around one half.
    return {
        name: {"images": n, "margin": round(0.98 / float(np.sqrt(n + 3.8416)), 2)}
        for name, n in pairs
        if n < FEW
    }


def _shapes(source: Source, views: Views) -> dict[str, Any]:
    records = source.records
    size = np.array([(v.width, v.height) for v in views.values()], float).reshape(-1, 2)
    return {
        "constant": sorted(records[at].id for at, view in views.items() if view.constant),
        "sizes": _most_frequent(f"{v.width}x{v.height}" for v in views.values()),
        "modes": _most_frequent(v.mode for v in views.values()),
        "side": _range(size.min(axis=1)),
        "aspect": _range(size[:, 0] / size[:, 1]),
    }


def _most_frequent(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _range(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    found = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), 4) for name, value in found.items()}
