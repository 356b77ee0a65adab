"""Differences between the rows of a study, with intervals and p corrected for their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.compare import differences, interval, pair
from diffmic_jax.study.definition import Row, Study
from diffmic_jax.study.runs import CALIBRATED, METRICS, Outcome

log = logging.getLogger("diffmic_jax")

Gaps = dict[tuple[str, str], dict[str, Any]]
"""(row, metric) -> its difference from `Study.rival`, as `paired` returns it, with the `seeds`, an
interval and p by bootstrap over the images, and p corrected for the number of rows."""


def mean_and_interval(
    values: Sequence[float] | np.ndarray,
) -> tuple[float, tuple[float, float] | None]:
    """Mean and its 95% interval by Student's t; None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, (mean - half, mean + half)


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Mean difference (second minus first) of runs with equal seeds, its interval and p.

    By the paired t-test over seeds; without interval and p for a single seed, or where all
    differences are the same, up to rounding.
    """
    gaps = np.subtract(second, first)
    mean, interval = mean_and_interval(gaps)
    if interval is None or np.ptp(gaps) < 1e-12:
        return {"difference": mean, "ci95": None, "p": None}
    p = float(stats.ttest_1samp(gaps, 0).pvalue)
    return {"difference": mean, "ci95": interval, "p": p}


def finished(found: Sequence[Outcome], row: str, name: str = "") -> dict[int, Outcome]:
    """The finished runs of a row, by seed; with a metric's name those that have it."""
    return {
        e.seed: e
        for e in found
        if e.row == row and e.status == "done" and (not name or name in e.values)
    }


def gaps_of(study: Study, found: Sequence[Outcome]) -> Gaps:
    """Differences of the other rows from the study's `rival`, on the seeds that both have.

    A row that only repeats another one with other seeds, as a member of an ensemble, has none.
    """
    gaps: Gaps = {}
    if study.against is None:
        return gaps
    others = [row for row in study.rows if row != study.rival]
    for row in (each for each in others if not each.seed_shift):
        pairs = {
            seed: (theirs, ours)
            for seed, ours in finished(found, row.name).items()
            if (theirs := finished(found, study.rival.name).get(seed))
        }
        images = _over_images(study, row, list(pairs.values()))
        for name in METRICS:
            both = {
                seed: [outcome.values[name] for outcome in sides]
                for seed, sides in pairs.items()
                if all(name in outcome.values for outcome in sides)
            }
            if both and images:
                low_high, p = images.get(name, (None, None))
                gap = paired(*zip(*both.values(), strict=True))
                own = {"ci95_images": low_high, "p_images": p, "seeds": sorted(both)}
                gaps[row.name, name] = gap | own
    return _corrected(gaps)


def _over_images(
    study: Study, row: Row, pairs: Sequence[tuple[Outcome, Outcome]]
) -> dict[str, tuple[list[float], float]]:
    """For each metric the interval and p of the difference, its mean over the seeds.

    By bootstrap over the test images, whose resamples are the same for all seeds; empty where the
    rows have other images.
    """
    resampled = []
    for sides in pairs:
        try:
            resampled.append(_differences(study.rival, row, sides))
        except InputError as error:
            log.warning("study: %s is not compared: %s", row.name, error)
            return {}
    names = set.intersection(*map(set, resampled)) if resampled else set()
    means = {name: np.mean([each[name] for each in resampled], axis=0) for name in names}
    found = ((name, *interval(x)) for name, x in means.items())
    return {name: (ci95, p) for name, ci95, p in found if ci95 is not None and p is not None}


def _differences(first: Row, row: Row, sides: tuple[Outcome, Outcome]) -> dict[str, np.ndarray]:
    """Second minus first in each metric over the resamples of the test images.

    Raises:
      InputError: these are not the same.
    """

    def between(kinds: tuple[str, str]) -> dict[str, np.ndarray]:
        ours, theirs = (side.folder for side in sides)
        return differences(**pair(ours, theirs, kinds=kinds, run=sides[0].workdir))

    own = tuple("guidance" if each.guidance else "prob" for each in (first, row))
    found = between((own[0], own[1]))
    # Those of the guidance prediction after temperature scaling are not in the files.
    if "guidance" not in own and all(f"{CALIBRATED}.nll" in side.values for side in sides):
        calibrated = between((CALIBRATED, CALIBRATED))
        found |= {f"{CALIBRATED}.{name}": values for name, values in calibrated.items()}
    return found


def _corrected(gaps: Gaps) -> Gaps:
    """The differences with `p_holm`: p for all rows of the table together (Holm 1979).

    p is that over seeds; with one seed, that over images.
    """
    found = {key: gap | {"p_holm": None} for key, gap in gaps.items()}
    for metric in dict.fromkeys(metric for _, metric in gaps):
        own = {key: gap for key, gap in gaps.items() if key[1] == metric}
        p = {key: gap["p_images"] if gap["p"] is None else gap["p"] for key, gap in own.items()}
        p = {key: value for key, value in p.items() if value is not None}
        largest = 0.0
        for rank, key in enumerate(sorted(p, key=lambda each: p[each])):
            largest = max(largest, min(1.0, (len(p) - rank) * p[key]))
            found[key]["p_holm"] = largest
    return found
