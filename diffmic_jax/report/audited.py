"""The section of a report about its data: what the audit found."""

from __future__ import annotations

from typing import Any

from diffmic_jax.data.audit_text import told_classes, told_line, ungrouped
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.report import page
from diffmic_jax.report.page import Raw

ORDER = (*PARTS, CLEAN)
FEW = "Classes with few test images, and by how much a sensitivity measured on them may be off"


def section(report: dict[str, Any]) -> str:
    """Images by class and part, and what a reviewer would ask about.

    Args:
      report: that `data.audit` made.
    """
    # A report that was read from its file has its keys in another order.
    counts = {part: report["counts"][part] for part in report["n_by_split"]}
    counts = dict(sorted(counts.items(), key=lambda item: ORDER.index(item[0])))
    names = [*report["class_names"], *["none"] * report["multi_label"]]
    rows: list[tuple[object, ...]] = [
        (name, *(f"{by_class[name]:,}" for by_class in counts.values())) for name in names
    ]
    rows.append(("images", *(f"{report['n_by_split'][part]:,}" for part in counts)))
    facts = [*_leaks(report), *_tells(report), *_few(report), *_copies(report)]
    listed = "".join(f"<li>{page.text(fact)}</li>" for fact in facts)
    return page.table(("class", *counts), rows, "audit-counts") + Raw(f"<ul>{listed}</ul>")


def _leaks(report: dict[str, Any]) -> list[str]:
    test, guess = report["n_by_split"]["test"], report["group_guess"]
    if report["groups_known"]:
        leaked = (
            f"{report['leaked_images']:,} of {test:,} test images show a lesion or patient that is "
            "in training or validation too."
        )
        return [leaked, *ungrouped(report)]
    lines = ["Groups (lesions, patients) are not known, so leaks by them cannot be counted."]
    if guess:
        lines.append(
            f"Names of images, as {guess['example'][0]}, may tell patients: by the pattern "
            f"{guess['regex']} {guess['leaked_images']:,} of {test:,} test images show one of "
            "training or validation (config.data.group_regex keeps them apart)."
        )
    return lines


def _tells(report: dict[str, Any]) -> list[str]:
    tells = report.get("tells")
    if not tells:
        return []
    lines = [f"{told_line(name, rows)}." for name, rows in told_classes(tells).items()]
    return lines or ["No class can be told by the size, stored form or borders of its images."]


def _few(report: dict[str, Any]) -> list[str]:
    few, none = [], []
    for name, row in report["few_to_test"].items():
        if row["images"]:
            few.append(f"{name} ({row['images']} images, {100 * row['margin']:.0f} points)")
        else:
            none.append(name)
    lines = [f"{FEW}: {', '.join(few)}."] if few else []
    return lines + ([f"No test image has {', '.join(none)}: not tested."] if none else [])


def _copies(report: dict[str, Any]) -> list[str]:
    if "duplicated_test_images" not in report:
        return []
    return [
        "Test images with an exact or near duplicate in training or validation: "
        f"{report['duplicated_test_images']:,}.",
        f"Clusters of exact duplicates: {len(report['exact_duplicates']):,}, "
        f"{report['exact_duplicates_across_splits']:,} of them across splits, "
        f"{report['conflicting_labels']:,} with conflicting labels.",
        f"Pairs of near duplicates across splits: {report['near_duplicates_across_splits']:,}.",
        f"Images that cannot be read: {len(report['unreadable']):,}; of a single colour: "
        f"{len(report['constant']):,}.",
    ]
