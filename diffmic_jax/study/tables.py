"""The tables of a study: means over seeds, differences from the first row, leaked images.

Means have a 95% interval by Student's t over the seeds. Rows are compared on the seeds that both
have, by the paired t-test; with few seeds the interval is wide. With a single seed, intervals and p
are by bootstrap over the test images, lesions or patients whole, and do not include the variation
between trainings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.data.files import write_table, write_text
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.inference.card import table
from diffmic_jax.inference.evaluated import PROVENANCE
from diffmic_jax.report import figures, page
from diffmic_jax.study.definition import Row, Study
from diffmic_jax.study.differences import (
    Gaps,
    finished,
    gaps_of,
    mean_and_interval,
    paired,
)
from diffmic_jax.study.runs import (
    CLEAN_ACCURACY,
    CLEAN_MATCHED,
    LEAKED,
    METRICS,
    Outcome,
    read_scores,
)

log = logging.getLogger("diffmic_jax")

UNBOUNDED = {"nll": (0.0, np.inf), "joint_nll": (0.0, np.inf), "brier": (0.0, 2.0)}
"""Lowest and highest value of metrics that may exceed 1; an interval by Student's t ends there."""


def scalars(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Every scalar of a `metrics.json`, its nested names joined by dots; None where undefined.

    An interval gives two, `.low` and `.high`. Confusion matrices are left out, and so are the
    intervals per class, which are twice as many numbers as all others together, and what the scores
    are of.
    """
    found: dict[str, Any] = {}
    # Scalars of all classes before those of one class, and the guidance after the diffusion.
    names = [name for name in scores if name not in PROVENANCE]
    order = sorted(names, key=lambda name: (isinstance(scores[name], dict), name == "guidance"))
    for name in order:
        value = scores[name]
        if isinstance(value, list) and name != "confusion":
            value = dict(zip(("low", "high"), value, strict=True))
        if isinstance(value, dict) and name != "ci95_per_class":
            found |= {f"{name}.{below}": each for below, each in scalars(value).items()}
        elif not isinstance(value, (dict, list)):
            found[name] = value
    return found


def write_results(study: Study, folder: Path, found: Sequence[Outcome]) -> None:
    """Write `study.csv`: every scalar of each row, seed and split. Arguments as below."""
    lines = [line for each in found for line in _lines(study.row(each.row), folder, each)]
    known = dict.fromkeys(name for line in lines for name in line)
    names = [name for name in known if any(line.get(name) is not None for line in lines)]
    write_table(folder / "study.csv", names, [[line.get(n) for n in names] for line in lines])


def _lines(row: Row, folder: Path, outcome: Outcome) -> list[dict[str, Any]]:
    """The lines of one row and seed: the test images, and their clean part if there is one."""
    lines = []
    for split, results in (("test", outcome.folder), (CLEAN, outcome.clean)):
        if results is None:
            continue
        line = {"row": outcome.row, "seed": outcome.seed, "split": split, "status": outcome.status}
        line["seconds"] = None if outcome.seconds is None else f"{outcome.seconds:.0f}"
        for name, cost in (("train_cpu", outcome.train_cpu), ("predict_cpu", outcome.predict_cpu)):
            line[f"{name}_seconds"] = None if cost is None else f"{cost:.4g}"
        line["metrics"] = results.relative_to(folder) / "metrics.json"
        if outcome.status == "done":
            line |= scalars(read_scores(results, row.guidance))
        lines.append(line)
    leaks = (CLEAN_ACCURACY, CLEAN_MATCHED, LEAKED)
    lines[0] |= {name: outcome.values[name] for name in leaks if name in outcome.values}
    return lines


def write_tables(study: Study, folder: Path, found: Sequence[Outcome]) -> str:
    """Write `study.csv`, `comparisons.csv`, `study.md` and `study.html` of the finished runs.

    Args:
      study: as `load_study` returns it.
      folder: of the study.
      found: the outcomes of its runs.

    Returns:
      The Markdown.
    """
    write_results(study, folder, found)
    gaps = gaps_of(study, found)
    write_comparisons(study, folder, gaps)
    tables = [("Results", _means(study, found))]
    if gaps:
        tables.append((f"Difference from {study.rival.name}", _differences(study, gaps)))
    tables.append(("Test images whose lesion or patient is in training too", _leaks(study, found)))
    tables = [(title, rows) for title, rows in tables if len(rows) > 1]
    notes = [_note(study)]
    if missing := [f"{e.row}, seed {e.seed}: {e.status}" for e in found if e.status != "done"]:
        notes.append("Not in the tables: " + "; ".join(missing) + ".")
    parts = [f"# {study.title}", *(f"{title}:\n\n{table(rows)}" for title, rows in tables), *notes]
    text = "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
    write_text(folder / "study.md", text)
    shown_tables = [
        (
            f"table-{i}",
            title,
            page.table(rows[0], rows[1:], kind="stack") + ("" if i else _figures(study, found)),
        )
        for i, (title, rows) in enumerate(tables)
    ]
    head = [page.paragraph(note, "note") for note in notes]
    write_text(folder / "study.html", page.document(study.title, head, shown_tables))
    return text


def _note(study: Study) -> str:
    if len(study.seeds) == 1:
        return (
            "One seed: intervals are 95% by bootstrap over the test images (lesions or patients "
            "whole, where known) and do not include the variation between trainings. p is "
            "corrected for the number of rows (Holm)."
        )
    return (
        f"Means of {len(study.seeds)} seeds, 95% intervals by Student's t over seeds; differences "
        "paired by seed, p by the paired t-test, corrected for the number of rows (Holm). Where "
        "there is one run, intervals and p are by bootstrap over the test images, lesions or "
        "patients whole; comparisons.csv has both for every row."
    )


def _with_interval(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    text = f"{value:{sign}.3f}"
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({low:{sign}.3f} to {high:{sign}.3f})"


def _interval(runs: Sequence[Outcome], name: str) -> tuple[float, Sequence[float] | None]:
    """Mean of a metric, and its interval over seeds, or over images for a single one."""
    mean, interval = mean_and_interval([run.values[name] for run in runs])
    if interval and len(runs) > 1:
        low, high = UNBOUNDED.get(name.rpartition(".")[2], (0.0, 1.0))
        interval = (max(low, interval[0]), min(high, interval[1]))
    return mean, interval or runs[0].intervals.get(name) if len(runs) == 1 else interval


def _means(study: Study, found: Sequence[Outcome]) -> list[Sequence[str]]:
    known = [name for name in METRICS if any(name in each.values for each in found)]
    costs = ("minutes a run", "CPU minutes to train", "CPU ms an image")
    rows: list[Sequence[str]] = [("row", "runs", *known, *costs)]
    for row in study.rows:
        cells = []
        for name in known:
            runs = [*finished(found, row.name, name).values()]
            cells.append(_with_interval(*_interval(runs, name)) if runs else "-")
        done = [each for each in found if each.row == row.name and each.status == "done"]
        costs = (
            _mean([each.seconds for each in done if row.config], 1 / 60),
            _mean([each.train_cpu for each in done], 1 / 60),
            _mean([each.predict_cpu for each in done], 1000),
        )
        rows.append((row.name, f"{len(done)} of {len(study.seeds)}", *cells, *costs))
    return rows


def _mean(values: Sequence[float | None], factor: float) -> str:
    """The mean of the values that are known, times a factor, as text."""
    known = [value for value in values if value is not None]
    return f"{factor * np.mean(known):.1f}" if known else "-"


def write_comparisons(study: Study, folder: Path, gaps: Gaps) -> None:
    """Write `comparisons.csv`: each difference from the same row, its interval and p."""
    write_table(
        folder / "comparisons.csv",
        (
            *("row", "minus", "metric", "seeds", "difference", "ci95.low", "ci95.high", "p"),
            *("ci95_images.low", "ci95_images.high", "p_images", "p_holm"),
        ),
        [
            (
                *(row, study.rival.name, metric, " ".join(map(str, gap["seeds"]))),
                *(gap["difference"], *(gap["ci95"] or (None, None)), gap["p"]),
                *(*(gap["ci95_images"] or (None, None)), gap["p_images"], gap["p_holm"]),
            )
            for (row, metric), gap in gaps.items()
        ],
    )


def _differences(study: Study, gaps: Gaps) -> list[Sequence[str]]:
    """The differences as a table, with the corrected p beside each."""
    names = [name for name in METRICS if any(metric == name for _, metric in gaps)]
    rows: list[Sequence[str]] = [("row", *(f"{each}{p}" for each in names for p in ("", ", p")))]
    for row in (each for each in study.rows if gaps and each != study.rival):
        cells: list[str] = []
        for name in names:
            gap = gaps.get((row.name, name))
            if gap is None:
                cells += ["-", "-"]
                continue
            low_high = gap["ci95"] or gap["ci95_images"]
            p = "-" if gap["p_holm"] is None else f"{gap['p_holm']:.3f}"
            cells += [_with_interval(gap["difference"], low_high, "+"), p]
        rows.append((row.name, *cells))
    return rows


def _leaks(study: Study, found: Sequence[Outcome]) -> list[Sequence[str]]:
    """Accuracy on leaked and on clean images, these also weighted to the leaked ones' classes."""
    names = (LEAKED, CLEAN_ACCURACY, CLEAN_MATCHED)
    rows: list[Sequence[str]] = [
        ("row", "accuracy, leaked", "clean", "clean, classes as in leaked", "leaked minus the last")
    ]
    for row in study.rows:
        runs = [*finished(found, row.name, CLEAN_MATCHED).values()]
        if runs:
            leaked, clean, matched = ([r.values[name] for r in runs] for name in names)
            gap = paired(matched, leaked)
            cells = [_with_interval(*mean_and_interval(each)) for each in (leaked, clean, matched)]
            gap_cell = _with_interval(gap["difference"], gap["ci95"], "+")
            rows.append((row.name, *cells, gap_cell))
    return rows


def _figures(study: Study, found: Sequence[Outcome]) -> str:
    """A figure for accuracy and one for macro-F1: a point per run, a mean per row."""
    found_figures = []
    for name in METRICS[:2]:
        points = {
            row.name: [run.values[name] for run in finished(found, row.name, name).values()]
            for row in study.rows
        }
        points = {row: values for row, values in points.items() if values}
        if points:
            intervals = {
                row: _interval([*finished(found, row, name).values()], name)[1] for row in points
            }
            found_figures.append(page.figure(figures.rows(f"rows-{name}", name, points, intervals)))
    return page.grid(found_figures)
