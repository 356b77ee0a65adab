"""Groups (patients, lesions) out of the names of images: by a given pattern, or a guess at one.

A guess is offered, never applied: the same part of a name may be a date, a device or a site.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmic_jax.data import splits
from diffmic_jax.data.layouts import PARTS, Parts, Record
from diffmic_jax.errors import InputError

log = logging.getLogger("diffmic_jax")

PATTERNS = (
    r"(?i)((?:patient|subject|person|case|pat|sub)[ _-]?\d+)",
    r"(?i)(\d{3,})[ _-]?(?:l|r|left|right|od|os)(?![a-z])",  # an eye or a knee
    r"([^/_-]+)[_-][^/]*$",  # what comes before the first _ or -
    *(rf"((?:[^/_-]+[_-]){{{k}}}[^/_-]+)[_-][^/]*$" for k in range(1, 5)),  # before the next ones
    r"([^/]+)[_-][^/_-]*$",  # before the last one
    r"([^/]+)/[^/]+$",  # the folder
    r"([^/]+)/[^/]+/[^/]+$",  # that around it
)
"""That a name is tried with; the first group is the patient."""
_FEWEST, _LARGEST = 10, 0.2  # groups; share of the images in one of them
_MATCHED, _TOGETHER = 0.9, 0.1  # shares of the images that have a group, and one with others in it


def with_groups(parts: Parts, pattern: str) -> Parts:
    """The same records, each with what the first group of a pattern finds in its id.

    Args:
      parts: the records.
      pattern: a regular expression, which is searched in the id of an image.

    Raises:
      InputError: it is none, has no group or fits no image; or groups are known already.
    """
    what = f"config.data.group_regex={pattern!r}"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{what}: is no regular expression ({error}); mend it") from error
    if not compiled.groups:
        raise InputError(f"{what}: has no group; put parentheses around the patient")
    records = [record for listed in parts.values() for record in listed]
    if any(record.group for record in records):
        raise InputError(f"{what}: the data has groups already; leave this field empty")
    groups = _groups(compiled, records)
    if not any(groups):
        raise InputError(f"{what}: fits no image, as {records[0].id}; mend it")
    if missing := groups.count(""):
        first = records[groups.index("")].id
        log.warning("group_regex fits %d images not, as %s: each is by itself", missing, first)
    found = iter(groups)
    return {
        part: [record._replace(group=next(found)) for record in listed]
        for part, listed in parts.items()
    }


def _groups(pattern: re.Pattern[str], records: Sequence[Record]) -> list[str]:
    found = (pattern.search(record.id) for record in records)
    return [(match and match[1]) or "" for match in found]


def guess(parts: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """A pattern by which names of images may tell patients; None if groups are known or none fits.

    Of `PATTERNS` the one with the fewest groups, of those by which at least 10% of the images share
    a group with another, which have 10 groups or more and none with more than 20% of the images,
    and are not the classes.

    Args:
      parts: records of each of `PARTS`.

    Returns:
      `regex`; `groups`, how many; `leaked_images`, test images whose group is in training or
      validation; `same_label` and `chance`, the share of pairs with equal labels among two images
      of a group, and among any two; `example`, images of a group.
    """
    records = [record for part in PARTS for record in parts[part]]
    if any(record.group for record in records):
        return None
    fitting = {}
    for pattern in PATTERNS:
        groups = _groups(re.compile(pattern), records)
        if _plausible(groups) and not _are_labels(groups, records):
            fitting[pattern] = groups
    if not fitting:
        return None
    pattern = min(fitting, key=lambda each: len(set(fitting[each])))
    return _described(pattern, parts)


def _plausible(groups: Sequence[str]) -> bool:
    sizes = Counter(filter(None, groups))
    total = len(groups)
    together = sum(size for size in sizes.values() if size > 1)
    return (
        len(sizes) >= _FEWEST
        and max(sizes.values()) <= _LARGEST * total
        and sum(sizes.values()) >= _MATCHED * total
        and together >= _TOGETHER * total
    )


def _are_labels(groups: Sequence[str], records: Sequence[Record]) -> bool:
    """Whether each label has one group alone, as the folder of a class is."""
    labels = [str(record.label) for record in records]
    return len({*zip(groups, labels, strict=True)}) == len({*labels})


def _described(pattern: str, parts: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    grouped = with_groups({part: list(parts[part]) for part in PARTS}, pattern)
    by_group: dict[str, list[Record]] = defaultdict(list)
    for part in PARTS:
        for record in grouped[part]:
            by_group[record.group].append(record)
    by_group.pop("", None)
    shared = [listed for listed in by_group.values() if len(listed) > 1]
    return {
        "regex": pattern,
        "groups": len(by_group),
        "leaked_images": len(splits.leaked(grouped)),
        "same_label": _same_label(shared),
        "chance": _same_label([[record for listed in by_group.values() for record in listed]]),
        "example": [record.id for record in shared[0][:2]],
    }


def _same_label(groups: Sequence[Sequence[Record]]) -> float:
    """Among the pairs of images of a group, the share with equal labels."""
    pairs = equal = 0.0
    for listed in groups:
        counts = np.array([*Counter(record.label for record in listed).values()], float)
        pairs += counts.sum() * (counts.sum() - 1)
        equal += (counts * (counts - 1)).sum()
    return round(equal / pairs, 4)
