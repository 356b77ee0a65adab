"""The tables of a study: means over seeds, differences from the first row, leaked images.

Means come with a 95% interval by Student's t over the seeds. Rows are compared on the seeds that
both have, by the paired t-test: with few seeds a wide interval, and an honest one. With a single
seed, intervals and p are by bootstrap over the test images, lesions or patients whole, and say
nothing of another training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from diffmic_jax.data.files import write_table, write_text
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation.compare import compare_workdirs
from diffmic_jax.report import figures, page
from diffmic_jax.report.card import table
from diffmic_jax.study.runs import (
    CLEAN_ACCURACY,
    CLEAN_MATCHED,
    LEAKED,
    METRICS,
    Outcome,
)
from diffmic_jax.study.study import Row, Study

log = logging.getLogger("diffmic_jax")


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


def write_tables(study: Study, folder: Path, found: Sequence[Outcome]) -> str:
    """Write `study.csv`, `study.md` and `study.html` as far as the runs are; returns the Markdown.

    Args:
      study: as `load_study` gives it.
      folder: where it lives.
      found: what became of its runs.
    """
    shown = (*METRICS, CLEAN_ACCURACY, CLEAN_MATCHED, LEAKED)
    write_table(
        folder / "study.csv",
        ("row", "seed", "status", "seconds", *shown, "metrics"),
        [
            (
                each.row,
                each.seed,
                each.status,
                f"{each.seconds:.0f}",
                *(each.values.get(name, "") for name in shown),
                each.folder.relative_to(folder) / "metrics.json",
            )
            for each in found
        ],
    )
    tables = [("Results", _means(study, found))]
    if study.compared:
        tables.append((f"Difference from {study.rows[0].name}", _against_first(study, found)))
    tables.append(("Test images whose lesion or patient is in training too", _leaks(study, found)))
    tables = [(title, rows) for title, rows in tables if len(rows) > 1]
    notes = [_note(study)]
    if missing := [f"{e.row}, seed {e.seed}: {e.status}" for e in found if e.status != "done"]:
        notes.append("Not in the tables: " + "; ".join(missing) + ".")
    parts = [f"# {study.title}", *(f"{title}:\n\n{table(rows)}" for title, rows in tables), *notes]
    text = "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
    write_text(folder / "study.md", text)
    shown_tables = [
        (f"table-{i}", title, page.table(rows[0], rows[1:]) + ("" if i else _drawn(study, found)))
        for i, (title, rows) in enumerate(tables)
    ]
    head = [page.paragraph(note, "note") for note in notes]
    write_text(folder / "study.html", page.document(study.title, head, shown_tables))
    return text


def _note(study: Study) -> str:
    if len(study.seeds) == 1:
        return (
            "One seed: intervals are 95% by bootstrap over the test images (lesions or patients "
            "whole, where known), and say nothing of other trainings."
        )
    return (
        f"Means of {len(study.seeds)} seeds, 95% intervals by Student's t over seeds; differences "
        "paired by seed, p by the paired t-test. Where one run is there, intervals and p are by "
        "bootstrap over the test images, lesions or patients whole."
    )


def _done(found: Sequence[Outcome], row: str, name: str) -> dict[int, Outcome]:
    """The finished runs of a row that have a metric, by seed."""
    return {e.seed: e for e in found if e.row == row and name in e.values}


def _with_interval(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    text = f"{value:{sign}.3f}"
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({low:{sign}.3f} to {high:{sign}.3f})"


def _interval(runs: Sequence[Outcome], name: str) -> tuple[float, Sequence[float] | None]:
    """Mean of a metric, and its interval over seeds, or over images for a single one."""
    mean, interval = mean_and_interval([run.values[name] for run in runs])
    return mean, interval or runs[0].intervals.get(name) if len(runs) == 1 else interval


def _means(study: Study, found: Sequence[Outcome]) -> list[Sequence[str]]:
    known = [name for name in METRICS if any(name in each.values for each in found)]
    rows: list[Sequence[str]] = [("row", "runs", *known, "minutes a run")]
    for row in study.rows:
        cells = []
        for name in known:
            runs = [*_done(found, row.name, name).values()]
            cells.append(_with_interval(*_interval(runs, name)) if runs else "-")
        done = [each for each in found if each.row == row.name and each.status == "done"]
        minutes = np.mean([each.seconds for each in done]) / 60 if done else 0.0
        time_ = "-" if not row.config or not done else f"{minutes:.1f}"
        rows.append((row.name, f"{len(done)} of {len(study.seeds)}", *cells, time_))
    return rows


def _against_first(study: Study, found: Sequence[Outcome]) -> list[Sequence[str]]:
    """Differences of accuracy and macro-F1 of the other rows, on the seeds that both have."""
    names = [name for name in METRICS if any(name in each.values for each in found)]
    rows: list[Sequence[str]] = [("row", *(f"{each}{p}" for each in names for p in ("", ", p")))]
    first, *others = study.rows
    for row in others:
        cells: list[str] = []
        for name in names:
            ours, theirs = (_done(found, each.name, name) for each in (row, first))
            seeds = sorted(ours.keys() & theirs.keys())
            cells += _difference(study, row, [(theirs[s], ours[s]) for s in seeds], name)
        rows.append((row.name, *cells))
    return (
        rows if len(rows) > 1 and any(c != "-" for row in rows[1:] for c in row[1:]) else rows[:1]
    )


def _difference(
    study: Study, row: Row, pairs: Sequence[tuple[Outcome, Outcome]], name: str
) -> tuple[str, str]:
    """A paired difference and its p, as cells; none between answers for other images."""
    if not pairs:
        return "-", "-"
    gap = paired(*([run.values[name] for run in side] for side in zip(*pairs, strict=True)))
    if len(pairs) == 1:
        first, second = (outcome.folder for outcome in pairs[0])
        guidance = study.rows[0].guidance, row.guidance
        try:
            run = pairs[0][0].workdir
            both = compare_workdirs(first, second, guidance=guidance, run=run)["metrics"][name]
        except InputError as error:
            log.warning("study: %s is not compared: %s", row.name, error)
            return "-", "-"
        gap = {"difference": both["difference"], "ci95": both["ci95"], "p": both["p_bootstrap"]}
    p = "-" if gap["p"] is None else f"{gap['p']:.3f}"
    return _with_interval(gap["difference"], gap["ci95"], "+"), p


def _leaks(study: Study, found: Sequence[Outcome]) -> list[Sequence[str]]:
    """Leaked images beside clean ones, as these are and with as many of each class as leaked."""
    names = (LEAKED, CLEAN_ACCURACY, CLEAN_MATCHED)
    rows: list[Sequence[str]] = [
        ("row", "accuracy, leaked", "clean", "clean, classes as in leaked", "leaked less the last")
    ]
    for row in study.rows:
        runs = [*_done(found, row.name, CLEAN_MATCHED).values()]
        if runs:
            leaked, clean, matched = ([r.values[name] for r in runs] for name in names)
            gap = paired(matched, leaked)
            cells = [_with_interval(*mean_and_interval(each)) for each in (leaked, clean, matched)]
            gap_cell = _with_interval(gap["difference"], gap["ci95"], "+")
            rows.append((row.name, *cells, gap_cell))
    return rows


def _drawn(study: Study, found: Sequence[Outcome]) -> str:
    """A figure for accuracy and one for macro-F1: every run a point, every row a mean."""
    drawn = []
    for name in METRICS[:2]:
        points = {
            row.name: [run.values[name] for run in _done(found, row.name, name).values()]
            for row in study.rows
        }
        points = {row: values for row, values in points.items() if values}
        if points:
            intervals = {
                row: _interval([*_done(found, row, name).values()], name)[1] for row in points
            }
            drawn.append(page.figure(figures.rows(f"rows-{name}", name, points, intervals)))
    return page.grid(drawn)
