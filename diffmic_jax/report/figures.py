"""The figures of a report, from numbers to SVG.

Curves carry ids, so that the page can be checked against `metrics.json`: a ROC curve encloses the
AUROC, and the points of a reliability diagram with its bars add up to the ECE.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from diffmic_jax.evaluation.decision import net_benefit
from diffmic_jax.evaluation.metrics import ECE_BINS
from diffmic_jax.report.svg import (
    FIRST,
    INK,
    MUTED,
    SECOND,
    colour,
    new_figure,
    shown,
    styled,
    to_svg,
)

WIDTH = 3.6
"""Inches: the width of a phone."""
LARGEST = 0.8
"""Probability up to which decision curves are drawn: beyond it nobody waits."""


@styled
def curves(
    rows: Sequence[Mapping[str, str]], names: dict[str, str], title: str, warmup_end: int | None
) -> str:
    """Columns of `metrics.csv` over the steps.

    Args:
      rows: of the file.
      names: column to its label in the legend.
      title: of the figure.
      warmup_end: step of a dotted line; None or 0 for none.
    """
    figure, (ax,) = new_figure(WIDTH, 2.5)
    for (column, label), ink in zip(names.items(), (FIRST, SECOND, MUTED), strict=False):
        points = [(int(r["step"]), float(r[column])) for r in rows if r.get(column)]
        if points:
            mark = "." if len(points) < 30 else ""
            line = ax.plot(*np.array(points).T, color=ink, label=label, marker=mark)[0]
            line.set_gid(column)
    if warmup_end:
        ax.axvline(warmup_end, color=MUTED, linestyle=":", linewidth=1)
    ax.set(xlabel="step", title=title)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return to_svg(figure, f"curves-{next(iter(names))}", title)


def bins(confidence: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """[bins, 3] share of the predictions, mean confidence, mean outcome; NaN in an empty bin."""
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    # A bin excludes its lower edge and includes its upper one, as in the metrics.
    member = np.searchsorted(edges, confidence, side="left")
    count = np.bincount(member, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(member, x, ECE_BINS) / count for x in (confidence, outcome)]
    return np.stack([count / len(confidence), *means], axis=1)


@styled
def reliability(
    name: str, title: str, confidence: np.ndarray, outcome: np.ndarray, ece: float
) -> str:
    """Observed frequency over confidence; below, the share of the predictions in each bin.

    Args:
      name: of the classifier; `guidance` has a colour of its own.
      title: of the figure.
      confidence: [N] 0..1.
      outcome: [N] 1 where the prediction is correct, else 0.
      ece: the expected calibration error.
    """
    figure, (ax, below) = new_figure(WIDTH, 3.4, rows=2, height_ratios=(4, 1))
    share, mean, hits = bins(confidence, outcome).T
    used = share > 0
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    ink = SECOND if name == "guidance" else FIRST
    ax.vlines(mean[used], mean[used], hits[used], color=ink, alpha=0.35, linewidth=5)
    line = ax.plot(mean[used], hits[used], color=ink, marker="o", markersize=4)[0]
    line.set_gid("points")
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed frequency", title=f"{title}: ECE {ece:.3f}")
    width = 1 / ECE_BINS
    bars = below.bar((np.arange(ECE_BINS) + 0.5) * width, share, 0.85 * width, color=ink)
    for k, bar in enumerate(bars):
        bar.set_gid(f"bar-{k}")
    below.set(xlim=(0, 1), ylim=(0, 1), yticks=(0, 1), xlabel="confidence", ylabel="share")
    _frames(ax=ax, below=below)
    return to_svg(figure, f"reliability-{name}", title)


@styled
def roc_and_pr(c: int, class_name: str, actual: np.ndarray, lines: Mapping[str, np.ndarray]) -> str:
    """ROC and precision-recall of one class against the rest.

    Args:
      c: the class.
      class_name: its name.
      actual: [N] 1 where an image belongs to it; both must occur.
      lines: name of each classifier -> [N] its probability of the class.
    """
    figure, (roc, pr) = new_figure(WIDTH, 1.95, columns=2)
    for name, p in reversed([*lines.items()]):  # the first above the others
        ink, style = (SECOND, "--") if name == "guidance" else (FIRST, "-")
        fpr, tpr, _ = roc_curve(actual, p)
        area = f"{auc(fpr, tpr):.3f}"
        roc.plot(fpr, tpr, style, color=ink, label=area)[0].set_gid(name)
        precision, recall, _ = precision_recall_curve(actual, p)
        pr.step(recall, precision, style, color=ink, where="post")
    roc.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
    pr.axhline(actual.mean(), color=MUTED, linestyle=":", linewidth=1)
    # The legend's numbers are the areas.
    handles, labels = roc.get_legend_handles_labels()
    roc.legend(handles[::-1], labels[::-1], loc="lower right", handlelength=1.2)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    pr.set(xlabel="recall", ylabel="precision")
    for ax in (roc, pr):
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        ax.set_aspect("equal")
    title = textwrap.fill(f"{shown(class_name)} ({int(actual.sum())} of {len(actual)})", 48)
    figure.suptitle(title, fontsize=8.5)
    _frames(roc=roc)
    return to_svg(figure, f"roc-{c}", f"ROC and precision-recall of {class_name}")


@styled
def decisions(c: int, class_name: str, actual: np.ndarray, lines: Mapping[str, np.ndarray]) -> str:
    """Decision curves of one class: net benefit over the probability from which one acts.

    Args:
      c: the class.
      class_name: its name.
      actual: [N] 1 where an image belongs to it.
      lines: name of each classifier -> [N] its probability of the class.
    """
    figure, (ax,) = new_figure(WIDTH, 1.9)
    at = np.linspace(0, LARGEST, 161)[1:-1]  # among these those of the table
    for name, p in reversed([*lines.items()]):  # the first above the others
        ink, style = (SECOND, "--") if name == "guidance" else (FIRST, "-")
        ax.plot(at, net_benefit(p, actual, at), style, color=ink)[0].set_gid(name)
    every = net_benefit(np.ones(len(actual)), actual, at)
    ax.plot(at, every, ":", color=MUTED, linewidth=1)[0].set_gid("all")
    ax.axhline(0, color=MUTED, linestyle=":", linewidth=1)
    rate = actual.mean()
    ax.set(xlim=(0, LARGEST), ylim=(-0.15 * rate, 1.05 * rate))
    ax.set(xlabel="probability from which one acts", ylabel="net benefit")
    ax.set_title(textwrap.fill(shown(class_name), 48))
    ax.patch.set_gid("frame")
    return to_svg(figure, f"decisions-{c}", f"Decision curves of {class_name}")


@styled
def referral(lines: dict[str, tuple[np.ndarray, np.ndarray]], share: float) -> str:
    """Accuracy of the images that are kept over the share that is referred.

    Args:
      lines: name of each uncertainty to the share referred [N] and the accuracy [N].
      share: that of the table, marked by a line.
    """
    figure, (ax,) = new_figure(WIDTH, 3.1)
    for label, (x, y) in lines.items():
        ink = SECOND if label.startswith("guidance") else FIRST
        style = ":" if "std" in label else "--" if ink == SECOND else "-"
        first = x <= 0.8  # the accuracy of the last few images is noise
        ax.plot(x[first], y[first], style, color=ink, label=label)
    ax.axvline(share, color=MUTED, linewidth=1)
    ax.set(xlabel="share referred", ylabel="accuracy of the rest", xlim=(0, 0.8))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return to_svg(figure, "referral", "Accuracy of the images that are kept")


@styled
def trajectory(
    name: str, timesteps: np.ndarray, states: np.ndarray, class_names: Sequence[str]
) -> str:
    """The label vector over the reverse steps, for the most probable classes.

    Args:
      name: of the figure.
      timesteps: [n] descending.
      states: [3, n + 1, C] low, mean and high over the samples, from noise to prediction.
      class_names: the C names.
    """
    figure, (ax,) = new_figure(WIDTH, 2.0)
    at = np.append(timesteps, timesteps[-1] - max(1, round(len(timesteps) / 100)))
    low, mean, high = states
    top = np.argsort(-mean[-1], kind="stable")[:5]
    for c in np.sort(top):
        ax.fill_between(at, low[:, c], high[:, c], color=colour(c), alpha=0.12, linewidth=0)
        ax.plot(
            at,
            mean[:, c],
            color=colour(c),
            label=shown(_short(class_names[c])),
        )
    ax.invert_xaxis()
    ax.set(xlabel="t", ylabel="label vector")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)
    return to_svg(figure, name, "The label vector over the reverse steps")


@styled
def scatter(name: str, title: str, points: np.ndarray, labels: np.ndarray) -> str:
    """Points [N, 2] in the colours of their classes [N]; those of label -1 are gray."""
    figure, (ax,) = new_figure(2.4, 2.5)
    for c in np.unique(labels):
        ink = MUTED if c < 0 else colour(c)
        ax.plot(*points[labels == c].T, "o", color=ink, markersize=2.6, markeredgewidth=0)
    ax.set(xticks=(), yticks=())
    ax.set_title(title, fontsize=11)  # the page shows these smaller than the others
    for side in ax.spines.values():
        side.set_visible(True)
    return to_svg(figure, name, title)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def _frames(**axes: Axes) -> None:
    """Give the rectangle that spans the limits of each axes an id."""
    for name, ax in axes.items():
        ax.patch.set_gid(f"{name}-frame")
        ax.patch.set(facecolor=INK, alpha=0.0)


@styled
def rows(
    name: str,
    title: str,
    points: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[float] | None],
) -> str:
    """A line for each row of a table: its runs as dots, their mean and its interval.

    Args:
      name: of the figure.
      title: of the axis.
      points: row to the values of its runs.
      intervals: row to low and high, or None.
    """
    figure, (ax,) = new_figure(WIDTH, 0.7 + 0.25 * len(points))
    for place, (row, values) in enumerate(points.items()):
        interval = intervals[row]
        if interval is not None:
            ax.plot(interval, [place, place], color=FIRST, linewidth=1)
        ax.plot(values, [place] * len(values), "o", color=MUTED, markersize=3)
        ax.plot([np.mean(values)], [place], "|", color=FIRST, markersize=12, markeredgewidth=2)
    ax.set(
        yticks=range(len(points)),
        yticklabels=[textwrap.fill(shown(row), 22) for row in points],
        xlabel=title,
    )
    ax.invert_yaxis()
    return to_svg(figure, name, title)
