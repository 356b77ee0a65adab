"""An audit's report as text of a screen or so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CLASSES_SHOWN = 20
_BAD_SHOWN = 50
_SHOWN = 3  # of anything else

TOLD_BY = {
    "size": "size",
    "form": "stored form (mode, file ending)",
    "border": "even borders",
    "together": "size, form and border together",
}
BASELINES = {
    "majority": "always the largest class",
    "metadata": "a tree on size, stored form and borders",
    "pixels": "extremely randomised trees on 32 x 32 pixels",
}
"""What each of `shortcuts.baselines` is."""


def summary(report: Mapping[str, Any]) -> str:
    """The report as text of a screen or so; what should be mended or told is marked by `!`."""
    classes = len(report["class_names"])
    lines = [
        f"{report['name']}: {report['n']:,} images, {classes:,} classes",
        "",
        *_table(report),
        "",
        *_leak_lines(report),
        *_guess_lines(report),
        *_lacking_lines(report),
        *_few_lines(report),
        *_exact_lines(report),
        *_near_lines(report),
        *_shape_lines(report),
        *_tell_lines(report),
        *_baseline_lines(report),
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
        f"{_mark(report['leaked_images'])}Leaks: {report['leaked_images']:,} of {test:,} test"
        " images show a lesion or patient of training or validation "
        f"({report['leaked_groups']:,} in all);",
        f"  {report['leaked_validation_images']:,} validation images show one of training",
        *(f"! {line}" for line in ungrouped(report)),
    ]


def ungrouped(report: Mapping[str, Any]) -> list[str]:
    """How many images have no group, where others have: of these no leak can be counted."""
    counts = {part: n for part, n in report.get("ungrouped", {}).items() if n}
    listed = ", ".join(f"{n:,} {part}" for part, n in counts.items())
    return [f"The group of {listed} images is not known: whether they leak is not either."] * bool(
        counts
    )


def _guess_lines(report: Mapping[str, Any]) -> list[str]:
    found = report["group_guess"]
    if not found:
        return []
    test = report["n_by_split"]["test"]
    lines = [
        f"{_mark(found['leaked_images'])}Names may tell patients: --group_regex='{found['regex']}'"
        f" makes {found['groups']:,} groups, as {' and '.join(found['example'])};",
        f"  by it {found['leaked_images']:,} of {test:,} test images share a group with training or"
        " validation",
    ]
    if not report["multi_label"]:
        lines.append(
            f"  two images of a group have equal labels in {found['same_label']:.0%} of pairs,"
            f" any two in {found['chance']:.0%}; if it is right, train with it too"
        )
    return lines


def _lacking_lines(report: Mapping[str, Any]) -> list[str]:
    """Classes that cannot be learned."""
    nobody = "none" if report["multi_label"] else None
    lacking = [name for name, n in report["counts"]["train"].items() if not n and name != nobody]
    if not lacking:
        return []
    return [f"! Not in training, so it cannot be learned: {', '.join(lacking[:_CLASSES_SHOWN])}"]


def _few_lines(report: Mapping[str, Any]) -> list[str]:
    few = [
        f"{name} ({row['images']}: up to +/- {100 * row['margin']:.0f} points)"
        for name, row in report["few_to_test"].items()
    ]
    if not few:
        return []
    return [f"! Classes with few test images: {', '.join(few[:_CLASSES_SHOWN])}"]


def _tell_lines(report: Mapping[str, Any]) -> list[str]:
    tells = report["tells"]
    if not tells:
        return []
    majority = tells["majority"]
    lines = [f"! {told_line(name, rows)}" for name, rows in told_classes(tells).items()]
    if lines:
        return lines + _form_lines(report["forms"])
    best = max((tells[group]["accuracy"] for group in TOLD_BY if group in tells), default=None)
    if best is None:
        return ["Size, form and border are the same in all images"]
    return [
        f"No class can be told by size, form or border: a tree on them is right in {best:.0%},"
        f" the largest class alone in {majority:.0%}"
    ]


def told_line(name: str, rows: Mapping[str, Any]) -> str:
    """By what a class can be told, and how well; `rows` as `told_classes` returns them for it."""
    row = next(iter(rows.values()))
    return (
        f"{name} can be told by {' or '.join(TOLD_BY[group] for group in rows)}"
        f"{' alone' * ('together' not in rows)}: {row['found']:,} of its {row['images']:,} images "
        f"are found, with {row['others']:,} of other classes"
    )


def told_classes(tells: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Class -> group of numbers -> how it is told; by all together only where no group suffices.

    Args:
      tells: as `shortcuts.tells` returns it.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in TOLD_BY:
        for name, row in tells.get(group, {}).get("classes", {}).items():
            if group != "together" or name not in found:
                found.setdefault(name, {})[group] = row
    return found


def _form_lines(forms: Mapping[str, Any]) -> list[str]:
    wide = max(len(name) for name in forms)
    return [
        f"  {name:{wide}}  {row['size']} in {row['size_share']:.0%}, {row['mode']} in "
        f"{row['mode_share']:.0%}, border {row['border']:.0%} of the side"
        for name, row in list(forms.items())[:_CLASSES_SHOWN]
    ]


def _baseline_lines(report: Mapping[str, Any]) -> list[str]:
    rows = {name: report["baselines"][name] for name in BASELINES}
    rows = {name: row for name, row in rows.items() if row}
    if not rows:
        return []
    lines = [f"What a classifier has to beat on this test part{'':12}accuracy  macro-F1     AUROC"]
    for name, row in rows.items():
        cells = (row[metric] for metric in ("accuracy", "f1_macro", "auroc_macro"))
        numbers = "".join("         -" if cell is None else f"{cell:10.3f}" for cell in cells)
        lines.append(f"  {BASELINES[name]:57}{numbers}")
    return lines


def _exact_lines(report: Mapping[str, Any]) -> list[str]:
    clusters = report["exact_duplicates"]
    lines = [
        f"{_mark(report['conflicting_labels'])}Clusters of exact duplicates: {len(clusters):,}"
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
    lines.append(
        f"{_mark(count)}Test images with a duplicate in another split: {count:,} of {test:,}"
    )
    return lines


def _shape_lines(report: Mapping[str, Any]) -> list[str]:
    bad, constant, side = report["unreadable"], report["constant"], report["side"]
    lines = [f"{_mark(len(bad))}Unreadable images: {len(bad):,}"]
    lines += [f"  {row['reason']}" for row in bad[:_BAD_SHOWN]]
    lines += [f"  ... {len(bad) - _BAD_SHOWN:,} more, in the JSON of --out"] * (
        len(bad) > _BAD_SHOWN
    )
    lines.append(f"Images of a single colour: {len(constant):,}")
    lines += [f"  {_few(constant)}"] * bool(constant)
    for title in ("sizes", "modes"):
        texts = [f"{value} ({count:,})" for value, count in report[title].items()]
        lines.append(f"{title.capitalize()}: {_few(texts)}")
    if side:
        numbers = ", ".join(f"{name} {value:g}" for name, value in side.items())
        lines.append(f"Shorter side: {numbers} pixels")
    return lines


def _mark(count: int) -> str:
    return "! " if count else ""


def _image(name: str, split: str, label: str) -> str:
    return f"{name} ({split}: {label or 'none'})"


def _few(texts: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f", ... {more:,} more" if more > 0 else "")
