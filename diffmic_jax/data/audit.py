"""What is in a data set, and which of its images are in more than one split.

Test images that are also in training, or that show a lesion or patient of training, make a result
look better than it is. Known groups show the second kind. For the first kind every image is decoded
once and compared with all others:

- images with the same pixels, by a digest of them;
- images with nearly the same pixels: copies in another size, compression, brightness or tint, and
  photographs taken moments apart. A 64-bit hash of the low frequencies proposes pairs, and the
  correlation of these frequencies confirms them. Copies that are mirrored or turned are not found,
  nor are those that are cropped or shifted by more than some two percent.

The keys of a report:

name, class_names, multi_label: those of the source.
n, n_by_split, counts: images in all, by split, and by split and class; with several labels
    an image counts for each, and for 'none' if it has none.
groups_known: whether any image has a group. If not, the next three are 0.
leaked_images, leaked_groups: test images whose group is also in training or validation,
    and how many groups that are.
leaked_validation_images: validation images whose group is also in training.
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
unreadable: `id` and `reason` of images that cannot be decoded.
constant: ids of images of a single colour.
sizes, modes: images of each 'width x height', as '600x450', and of each stored form; the
    most frequent first.
side, aspect: `min`, `median` and `max` of the shorter side in pixels and of width over
    height; None if no image can be read.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from diffmic_jax.data import splits
from diffmic_jax.data.cache import ON_BAD_IMAGE
from diffmic_jax.data.duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    ExactClusters,
    NearPairs,
    View,
    Views,
    fingerprint,
)
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import PARTS, Record, label_array
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError

_CHUNK = 512  # images in the thread pool at once


def audit(
    source: Source,
    *,
    on_bad_image: str = "error",
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    num_threads: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Decode every image of a source and report what is found.

    Args:
        source: what to read.
        on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' lists it.
        max_distance: bits of 64 in which the hashes of near duplicates differ at most.
        min_correlation: of the low frequencies of near duplicates, at least; -1 leaves the
            decision to the hash.
        num_threads: that decode; 0: one for each core. The report does not depend on it.
        progress: show a bar on standard error, if that is a terminal.

    Returns:
        The report described above, which `json.dump` takes.

    Raises:
        InputError: an argument is out of range; or an image is bad, unless they are skipped.
    """
    _check(on_bad_image, max_distance, min_correlation)
    views, bad = _views(source, on_bad_image == "skip", num_threads, progress)
    clusters = ExactClusters(source, views)
    pairs = NearPairs(source, views, max_distance, min_correlation)
    pairs.search()
    return (
        _composition(source)
        | _leaks(source)
        | clusters.report()
        | pairs.report()
        | {"duplicated_test_images": len(clusters.test_ids() | pairs.test_ids())}
        | {"max_distance": max_distance, "min_correlation": min_correlation}
        | {"unreadable": bad}
        | _shapes(source, views)
    )


def _check(on_bad_image: str, max_distance: int, min_correlation: float) -> None:
    if on_bad_image not in ON_BAD_IMAGE:
        choices = ", ".join(ON_BAD_IMAGE)
        raise InputError(f"on_bad_image: {on_bad_image!r} is unknown; choose one of {choices}")
    if not 0 <= max_distance <= 64:
        raise InputError(f"max_distance: {max_distance} is not in 0..64")
    if not -1 <= min_correlation <= 1:
        raise InputError(f"min_correlation: {min_correlation} is not in [-1, 1]")


# Decoding.


def _views(
    source: Source, skip: bool, num_threads: int, progress: bool
) -> tuple[Views, list[dict[str, str]]]:
    """A view of every image that can be read; `id` and `reason` of the others."""
    records = source.records
    views: dict[int, View] = {}
    bad: list[dict[str, str]] = []
    read = partial(_view, source.read)
    hidden = None if progress else True
    bar = tqdm(total=len(records), unit="image", desc="audit", leave=False, disable=hidden)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool, bar:
        # In chunks, so that decoding stops soon after the first bad image.
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            for position, view in enumerate(pool.map(read, chunk), start):
                bar.update()
                if not isinstance(view, InputError):
                    views[position] = view
                elif skip:
                    bad.append({"id": records[position].id, "reason": str(view)})
                else:
                    raise view
    return views, bad


def _view(read: Callable[[Record], Decoded], record: Record) -> View | InputError:
    try:
        pixels, mode, *_ = read(record)
    except InputError as error:
        return error
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(pixels.data)
    constant = bool((pixels == pixels[0, 0]).all())
    return View(width, height, mode, constant, digest.digest(), *fingerprint(pixels))


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
        "leaked_images": len(leaked),
        "leaked_groups": len({record.group for record in leaked}),
        "leaked_validation_images": len(validation),
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


# The summary.

_CLASSES_SHOWN = 20
_SHOWN = 3  # of anything else


def summary(report: Mapping[str, Any]) -> str:
    """The report as text of a screen or so."""
    classes = len(report["class_names"])
    lines = [
        f"{report['name']}: {report['n']:,} images, {classes:,} classes",
        "",
        *_table(report),
        "",
        *_leak_lines(report),
        *_exact_lines(report),
        *_near_lines(report),
        *_shape_lines(report),
    ]
    return "\n".join(lines)


def _table(report: Mapping[str, Any]) -> list[str]:
    """Images by class and split."""
    counts = report["counts"]
    names = list(counts["train"])
    shown = names if len(names) <= _CLASSES_SHOWN else names[: _CLASSES_SHOWN - 1]
    rows: list[tuple[str, list[str]]] = [("", list(counts))]
    rows += [(name, [f"{by_class[name]:,}" for by_class in counts.values()]) for name in shown]
    if len(shown) < len(names):
        rows.append((f"... {len(names) - len(shown):,} more", []))
    rows.append(("images", [f"{n:,}" for n in report["n_by_split"].values()]))
    wide = max(len(name) for name, _ in rows)
    return ["  " + f"{name:{wide}}" + "".join(f"{cell:>12}" for cell in row) for name, row in rows]


def _leak_lines(report: Mapping[str, Any]) -> list[str]:
    if not report["groups_known"]:
        return ["Leaks: cannot be counted, as no groups (lesions, patients) are known"]
    test = report["n_by_split"]["test"]
    return [
        f"Leaks: {report['leaked_images']:,} of {test:,} test images show a lesion or patient of"
        f" training or validation ({report['leaked_groups']:,} in all);",
        f"  {report['leaked_validation_images']:,} validation images show one of training",
    ]


def _exact_lines(report: Mapping[str, Any]) -> list[str]:
    clusters = report["exact_duplicates"]
    lines = [
        f"Clusters of exact duplicates: {len(clusters):,}"
        f" ({report['exact_duplicates_across_splits']:,} across splits,"
        f" {report['conflicting_labels']:,} with conflicting labels)"
    ]
    for cluster in clusters[:_SHOWN]:
        cells = zip(cluster["images"], cluster["splits"], cluster["labels"], strict=True)
        lines.append("  " + _few([_image(*cell) for cell in cells]))
    return lines


def _near_lines(report: Mapping[str, Any]) -> list[str]:
    others = f", {report['near_duplicates_of_other_groups']:,} of different groups"
    lines = [
        f"Pairs of near duplicates across splits: {report['near_duplicates_across_splits']:,}"
        f" ({report['near_duplicates_of_other_labels']:,} of different labels"
        f"{others * report['groups_known']})"
    ]
    for pair in report["near_duplicates"][:_SHOWN]:
        cells = zip((pair["a"], pair["b"]), pair["splits"], pair["labels"], strict=True)
        lines.append("  " + _few([_image(*cell) for cell in cells]))
    count, test = report["duplicated_test_images"], report["n_by_split"]["test"]
    lines.append(f"Test images with a duplicate in another split: {count:,} of {test:,}")
    return lines


def _shape_lines(report: Mapping[str, Any]) -> list[str]:
    bad, constant, side = report["unreadable"], report["constant"], report["side"]
    lines = [f"Unreadable images: {len(bad):,}"]
    lines += [f"  {row['reason']}" for row in bad[:_SHOWN]]
    lines.append(f"Images of a single colour: {len(constant):,}")
    lines += [f"  {_few(constant)}"] * bool(constant)
    for title in ("sizes", "modes"):
        texts = [f"{value} ({count:,})" for value, count in report[title].items()]
        lines.append(f"{title.capitalize()}: {_few(texts)}")
    if side:
        numbers = ", ".join(f"{name} {value:g}" for name, value in side.items())
        lines.append(f"Shorter side: {numbers} pixels")
    return lines


def _image(name: str, split: str, label: str) -> str:
    return f"{name} ({split}: {label or 'none'})"


def _few(texts: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f", ... {more:,} more" if more > 0 else "")
