"""Images that are the same, by a digest of their pixels, or nearly the same.

For the latter a hash proposes pairs, and a correlation confirms them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.sources import Source
from diffmic_jax.data.views import KEPT, Views

MAX_DISTANCE = 8
"""Bits in which the hashes of near duplicates may differ; as a rule, an even number of them does.

Of the 112 pairs that this and `MIN_CORRELATION` find among HAM10000's 10,015 images (at 200 x 150
pixels), 111 show the same lesion, and more bits add two. Without the correlation it would be 188 of
5,815 pairs, and 60 of 93 at 2 bits: round lesions all look alike to a hash.
"""
MIN_CORRELATION = 0.975
"""Least correlation of the low frequencies of near duplicates, see `views.fingerprint`."""
MAX_LISTED = 1000
"""Pairs of near duplicates in a report."""

_BLOCK = (64, 2048)  # hashes that are compared at once, few enough for a processor's cache
_PAIRS = 8192  # that are correlated at once


def split_of(source: Source) -> list[str]:
    """The split of each of the source's records."""
    return [part for part in PARTS for _ in source.splits[part]]


class ExactClusters:
    """Clusters of images with the same pixels.

    Those that straddle splits come first, then those whose labels disagree.
    """

    def __init__(self, source: Source, views: Views) -> None:
        records, split = source.records, split_of(source)
        by_digest: dict[bytes, list[int]] = defaultdict(list)
        for at, view in views.items():
            by_digest[view.digest].append(at)
        clusters = [
            {
                "images": [records[at].id for at in cluster],
                "splits": [split[at] for at in cluster],
                "labels": [source.task.name(records[at].label) for at in cluster],
            }
            for cluster in by_digest.values()
            if len(cluster) > 1
        ]
        self._clusters = sorted(clusters, key=_severity)

    def report(self) -> dict[str, Any]:
        """Its keys of the audit's report."""
        return {
            "exact_duplicates": self._clusters,
            "exact_duplicates_across_splits": sum(map(_straddles, self._clusters)),
            "conflicting_labels": sum(map(_disagrees, self._clusters)),
        }

    def test_ids(self) -> set[str]:
        """Ids of test images with a copy in another split."""
        return {
            image
            for cluster in filter(_straddles, self._clusters)
            for image, split in zip(cluster["images"], cluster["splits"], strict=True)
            if split == "test"
        }


def _severity(cluster: dict[str, list[str]]) -> tuple[bool, bool, list[str]]:
    return not _straddles(cluster), not _disagrees(cluster), cluster["images"]


def _straddles(cluster: dict[str, list[str]]) -> bool:
    return len(set(cluster["splits"])) > 1


def _disagrees(cluster: dict[str, list[str]]) -> bool:
    return len(set(cluster["labels"])) > 1


class NearPairs:
    """The search for near duplicates, in memory that does not grow with what is found.

    Images are known by their rows: the images with structure, in the order of the source.
    """

    def __init__(
        self, source: Source, views: Views, max_distance: int, min_correlation: float
    ) -> None:
        # Images without structure have nothing that could be alike.
        rows = [at for at, view in views.items() if view.spectrum.any()]
        records, split = source.records, split_of(source)
        spectra = [views[at].spectrum for at in rows]
        self._spectra = np.array(spectra, np.float32).reshape(-1, KEPT, KEPT)
        self._hash = np.array([views[at].hash for at in rows], np.uint64)
        self._task = source.task
        self._records = [records[at] for at in rows]
        self._digest = _codes([views[at].digest.hex() for at in rows])
        self._group = _codes([record.group for record in self._records])
        self._label = _codes([source.task.name(record.label) for record in self._records])
        self._known = np.array([bool(record.group) for record in self._records], bool)
        self._split = np.array([split[at] for at in rows], str)
        self._max_distance, self._min_correlation = max_distance, min_correlation
        self._in_test = np.zeros(len(rows), bool)
        self._count = self._other_labels = self._other_groups = 0
        self._closest = np.zeros((0, 4))  # distance, rows of a and b, correlation

    def search(self) -> None:
        """Compare all images of different splits."""
        rows = [np.flatnonzero(self._split == part) for part in PARTS]
        for first, second in ((0, 1), (0, 2), (1, 2)):
            a, b = rows[first], rows[second]
            for i, j, distance in close_pairs(self._hash[a], self._hash[b], self._max_distance):
                self._add(a[i], b[j], distance)

    def _add(self, a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> None:
        """Take those of the pairs of rows, [n] each, that are near duplicates."""
        alike = self._correlation(a, b)
        near = (alike >= self._min_correlation) & (self._digest[a] != self._digest[b])
        a, b, distance, alike = a[near], b[near], distance[near], alike[near]
        known = self._known[a] & self._known[b]
        self._count += len(a)
        self._other_labels += int((self._label[a] != self._label[b]).sum())
        self._other_groups += int((known & (self._group[a] != self._group[b])).sum())
        self._in_test[b[self._split[b] == "test"]] = True
        alike = alike.round(4)
        rows = np.concatenate([self._closest, np.stack([distance, a, b, alike], axis=1)])
        order = np.lexsort((rows[:, 2], rows[:, 1], -rows[:, 3], rows[:, 0]))
        self._closest = rows[order[:MAX_LISTED]]

    def _correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        alike = np.empty(len(a))
        for start in range(0, len(a), _PAIRS):
            some = slice(start, start + _PAIRS)
            alike[some] = np.einsum("nuv,nuv->n", self._spectra[a[some]], self._spectra[b[some]])
        return alike

    def test_ids(self) -> set[str]:
        """Ids of test images with a near duplicate in training or validation."""
        return {self._records[row].id for row in np.flatnonzero(self._in_test)}

    def report(self) -> dict[str, Any]:
        """Its keys of the audit's report."""
        return {
            "near_duplicates": [self._pair(row) for row in self._closest],
            "near_duplicates_across_splits": self._count,
            "near_duplicates_of_other_labels": self._other_labels,
            "near_duplicates_of_other_groups": self._other_groups,
        }

    def _pair(self, row: np.ndarray) -> dict[str, Any]:
        a, b = int(row[1]), int(row[2])
        both = self._records[a], self._records[b]
        known = bool(self._known[a] and self._known[b])
        return {
            "a": both[0].id,
            "b": both[1].id,
            "splits": [str(self._split[a]), str(self._split[b])],
            "labels": [self._task.name(record.label) for record in both],
            "distance": int(row[0]),
            "correlation": float(row[3]),
            "same_group": both[0].group == both[1].group if known else None,
        }


def _codes(texts: Sequence[str]) -> np.ndarray:
    """[N] integers, equal where the texts are."""
    return np.unique(np.array(texts, str), return_inverse=True)[1]


def close_pairs(
    left: np.ndarray, right: np.ndarray, max_distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of hashes that differ in at most `max_distance` bits, block by block.

    `left` is [N] uint64 and `right` [M] uint64. Each item holds positions in them and the
    distances, [n] each; n is at most 131,072.
    """
    height, width = _BLOCK
    for top in range(0, len(left), height):
        rows = left[top : top + height, None]
        for start in range(0, len(right), width):
            distance = np.bitwise_count(rows ^ right[start : start + width])
            near = distance <= max_distance
            if near.any():
                i, j = np.nonzero(near)
                yield i + top, j + start, distance[i, j].astype(np.int64)
