"""Two classifiers on the same images: is the difference more than chance?

- McNemar's test on the images that exactly one of them gets right, by the exact binomial
  distribution: under no difference each of them is equally likely to be the one. Where images come
  in groups it is the sign test on these: images of one lesion are not so many witnesses.
- A paired bootstrap: both are measured on the same resamples, by group where groups are known, and
  the interval is of the difference. It therefore does not contain what is hard for both.
- Mean total variation: how far the two predictive distributions are apart, whether or not they are
  right; 0 for equal ones, 1 for certain predictions of which none agree. It shows whether a faster
  sampler still gives the predictions of a slower one.

Intervals are of single comparisons: among many compared runs, some differ by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads stats when it is used: few commands test anything
from jaxtyping import Float, Int, Shaped

from diffmic_jax.data.files import believed, read_json, read_table
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import metrics
from diffmic_jax.evaluation.resampling import defined
from diffmic_jax.method.task import DOUBT, SEPARATOR, UNKNOWN, Task

GROUPS = "groups.csv"
"""Of an evaluation: the lesion or patient of each image."""


class Evaluated(NamedTuple):
    """What `predictions.csv` holds of N images."""

    ids: list[str]
    task: Task
    label: np.ndarray
    """[N] class indices, or [N, C] multi-hot."""
    probabilities: np.ndarray
    """[N, C]."""
    thresholds: tuple[float, ...] = ()
    """Multi-label, of the classes, as the evaluation had them; empty: 0.5."""


def compare(
    probabilities: tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n c"]],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int = 1000,
    thresholds: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> dict[str, Any]:
    """Compare the predictions of two classifiers.

    Args:
      probabilities: [N, C] of the first and of the second.
      labels: [N] class indices, or with several labels [N, C] multi-hot.
      task: what the classes are.
      groups: [N] what is resampled as a whole.
      bootstrap: number of resamples.
      thresholds: multi-label, of the classes: the first's and the second's; default 0.5.

    Returns:
      n; `total_variation`, the mean over images (multi-label: and over labels) of half the
      L1 distance between the two distributions; `metrics`:
      name -> `first`, `second`, `difference` (second minus first), `ci95` of it and
      `p_bootstrap`, twice the share of resamples on the other side of 0, the data counted as one
      more (Davison and Hinkley 1997); `mcnemar` (None if multi-label): images that `only_first`
      and `only_second` gets right, and `p`, of the exact sign test over groups: in how many either
      gets more right. Where every image is a group of its own this is McNemar's.
    """
    both = list(zip(probabilities, thresholds, strict=True))
    points = [metrics.compute(p, labels, task, bootstrap=0, thresholds=own) for p, own in both]
    resampled = differences(probabilities, labels, task, groups, bootstrap, thresholds)
    rows = {
        name: _difference(first, second, resampled[name])
        for name in task.metrics
        if (first := points[0][name]) is not None and (second := points[1][name]) is not None
    }
    return {
        "n": len(labels),
        "total_variation": _total_variation(*probabilities, task),
        "metrics": rows,
        "mcnemar": None if task.multi_label else _mcnemar(probabilities, labels, groups),
    }


def differences(
    probabilities: tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n c"]],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    task: Task,
    groups: Shaped[np.ndarray, " n"],
    bootstrap: int = 1000,
    thresholds: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> dict[str, np.ndarray]:
    """Second minus first in each metric over the resamples [bootstrap], NaN where undefined.

    The same images have the same resamples. Arguments as in `compare`.
    """
    first, second = (
        metrics.bootstrap_scalars(
            p, labels, task, groups=groups, bootstrap=bootstrap, thresholds=own
        )
        for p, own in zip(probabilities, thresholds, strict=True)
    )
    return {name: second[name] - first[name] for name in first}


def interval(resampled: Float[np.ndarray, " n"]) -> tuple[list[float] | None, float | None]:
    """The central 95% of differences in resamples, and p, twice the share on 0's other side.

    Neither where it is defined in hardly any resample. So many resamples cannot show a smaller p
    than two in their number: the data counts as one of them.
    """
    found = defined(resampled)
    if not found.size:
        return None, None
    fewer = min((found <= 0).sum(), (found >= 0).sum())
    low_high: list[float] = np.percentile(found, [2.5, 97.5]).tolist()
    return low_high, float(min(1.0, 2 * (1 + fewer) / (1 + len(found))))


def _difference(first: float, second: float, resampled: np.ndarray) -> dict[str, Any]:
    """The row of a metric, of its two values and of the differences in the resamples."""
    ci95, p = interval(resampled)
    return {
        "first": first,
        "second": second,
        "difference": second - first,
        "ci95": ci95,
        "p_bootstrap": p,
    }


def _total_variation(first: np.ndarray, second: np.ndarray, task: Task) -> float:
    apart = np.abs(first - second)
    # A label of several is a distribution over present and absent: half of twice the distance.
    return float(apart.mean() if task.multi_label else apart.sum(axis=1).mean() / 2)


def _mcnemar(
    probabilities: tuple[np.ndarray, np.ndarray], labels: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    first, second = (p.argmax(axis=1) == labels for p in probabilities)
    gained = second.astype(int) - first
    names, member = np.unique(groups, return_inverse=True)
    by_group = np.bincount(member, weights=gained, minlength=len(names))
    lost, won = int((by_group < 0).sum()), int((by_group > 0).sum())
    p = scipy.stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    return {
        "only_first": int((gained < 0).sum()),
        "only_second": int((gained > 0).sum()),
        "p": float(p),
    }


def compare_workdirs(
    first: Path,
    second: Path,
    split: str = "test",
    bootstrap: int = 1000,
    kinds: tuple[str, str] = ("prob", "prob"),
    run: Path | None = None,
) -> dict[str, Any]:
    """Compare two runs by their `predictions.csv` on a split.

    Args:
      first: a run's folder, or one that `evaluate --out` wrote.
      second: likewise.
      split: of runs, which evaluation.
      bootstrap: number of resamples.
      kinds: of probabilities, of each of them: `prob`, `calibrated` or `guidance`.
      run: whose split has the groups; default the first of them that has one.

    Raises:
      InputError: one is not evaluated, or they were evaluated on other images or labels.
    """
    return compare(**pair(first, second, split, kinds, run), bootstrap=bootstrap)


def pair(
    first: Path,
    second: Path,
    split: str = "test",
    kinds: tuple[str, str] = ("prob", "prob"),
    run: Path | None = None,
) -> dict[str, Any]:
    """The arguments of `compare`, but for `bootstrap`, for two runs.

    Arguments and errors as in `compare_workdirs`.
    """
    paths = [
        own if (own := folder / "predictions.csv").exists() else folder / "eval" / split / own.name
        for folder in (first, second)
    ]
    ours, theirs = map(read_predictions, paths, kinds)
    order = _matched(ours, theirs, paths)
    runs = [run] if run else [f for f in (first, second) if _groups_file(f)]
    return {
        "probabilities": (ours.probabilities, theirs.probabilities[order]),
        "labels": ours.label,
        "task": ours.task,
        "groups": groups_of((runs or [first])[0], ours.ids),
        "thresholds": (ours.thresholds, theirs.thresholds),
    }


def _matched(ours: Evaluated, theirs: Evaluated, paths: Sequence[Path]) -> list[int]:
    """Where each of our images is among theirs.

    Raises:
      InputError: classes, images or labels are not the same.
    """
    if ours.task.class_names != theirs.task.class_names:
        raise InputError(
            f"{paths[1]}: has the classes {','.join(theirs.task.class_names)}, not "
            f"{','.join(ours.task.class_names)} as {paths[0]}; compare runs on the same data"
        )
    rows = {image: row for row, image in enumerate(theirs.ids)}
    if rows.keys() != set(ours.ids):
        count = len(rows.keys() ^ set(ours.ids))
        raise InputError(
            f"{paths[1]}: {count} images are not in both this and {paths[0]}; "
            "compare runs with the same split"
        )
    order = [rows[image] for image in ours.ids]
    if not np.array_equal(ours.label, theirs.label[order]):
        raise InputError(f"{paths[1]}: has other labels than {paths[0]}; compare like with like")
    return order


def read_predictions(path: Path, kind: str = "prob") -> Evaluated:
    """Read back a `predictions.csv` of an evaluation.

    Args:
      path: of the file.
      kind: of probabilities, `prob`; from `uncertainty.csv` beside it `calibrated`, or `guidance`,
        those of the guidance prediction.

    Raises:
      InputError: it is not there, has no labels or no such probabilities, or is damaged.
    """
    with believed(path, "evaluate that run again"):
        return _evaluated(path, kind)


def _evaluated(path: Path, kind: str) -> Evaluated:
    rows = read_rows(path)
    names = tuple(key.removeprefix("prob_") for key in rows[0] if key.startswith("prob_"))
    if "label" not in rows[0] or not names:
        raise InputError(f"{path}: has no labels; name a run that was evaluated")
    ids, labels = [row["id"] for row in rows], [row["label"] for row in rows]
    source = rows if kind == "prob" else read_rows(path.with_name("uncertainty.csv"))
    if f"{kind}_{names[0]}" not in source[0]:
        raise InputError(f"{path}: has no {kind} probabilities; name a run with a validation part")
    by_id = {row["id"]: row for row in source}
    p = np.array([[float(by_id[image][f"{kind}_{name}"]) for name in names] for image in ids])
    beside = path.with_name("metrics.json")
    scores = read_json(beside) if beside.exists() else {}
    ordered = scores.get("rps", 0) is not None  # as it was for the run
    if set(labels) <= set(names) and np.allclose(p.sum(axis=1), 1, atol=1e-3):
        indices = np.array([names.index(label) for label in labels])
        return Evaluated(ids, Task(class_names=names, ordered=ordered), indices, p)
    members = [label.split(SEPARATOR) for label in labels]
    hot = np.array(
        [[UNKNOWN if DOUBT + name in own else name in own for name in names] for own in members],
        int,
    )
    scores = scores.get("guidance", {}) if kind == "guidance" else scores
    own = thresholds_of(scores, names)
    return Evaluated(ids, Task(class_names=names, multi_label=True), hot, p, own)


def thresholds_of(scores: dict[str, Any], names: Sequence[str]) -> tuple[float, ...]:
    """The thresholds of the classes in a `metrics.json`, whose own order is that of the alphabet.

    There are none where an image has one class.
    """
    classes = scores.get("per_class", {})
    known = [classes.get(name, {}).get("threshold") for name in names]
    return () if None in known else tuple(known)


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV of an evaluation, at least one; some columns have to be there.

    Raises:
      InputError: it is not there or empty.
    """
    try:
        rows = read_table(path, *columns)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); evaluate that run first"
        ) from error
    if not rows:
        raise InputError(f"{path}: is empty; evaluate that run again")
    return rows


def _groups_file(folder: Path) -> Path | None:
    """Of a run, or of an evaluation by itself."""
    paths = (folder / "split.csv", folder / GROUPS)
    return next((path for path in paths if path.exists()), None)


def groups_of(workdir: Path, ids: list[str]) -> np.ndarray:
    """The group of each image by the run's or the evaluation's own table, else the image itself."""
    path = _groups_file(workdir)
    rows = read_rows(path, "image", "group") if path else []
    known = {row["image"]: row["group"] for row in rows}
    return np.array([known.get(image) or image for image in ids])


def table(found: dict[str, Any], names: tuple[str, str]) -> str:
    """A text table of a comparison."""
    lines = [f"{'':18}{'first':>9}{'second':>9}{'difference':>12}   95% interval         p"]
    for name, row in found["metrics"].items():
        line = f"{name:18}{row['first']:9.4f}{row['second']:9.4f}{row['difference']:+12.4f}"
        if row["ci95"]:
            low, high = row["ci95"]
            line += f"   {low:+.4f} to {high:+.4f}  {row['p_bootstrap']:.3f}"
        lines.append(line)
    if found["mcnemar"]:
        only = found["mcnemar"]
        lines.append(
            f"correct in one alone: {only['only_first']} in the first, {only['only_second']} in "
            f"the second; McNemar p = {only['p']:.3g}"
        )
    lines.append(f"mean total variation between predictions: {found['total_variation']:.4f}")
    title = f"first {names[0]}, second {names[1]}, {found['n']} images, p by paired bootstrap"
    return "\n".join([title, *lines])
