"""The sections of a report that show the numbers of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import entr

from diffmic_jax.evaluation.referral import SHARE, referral_curve
from diffmic_jax.inference.card import of_fewer_classes
from diffmic_jax.inference.ood import FALSE_ALARMS
from diffmic_jax.report import figures, page
from diffmic_jax.report.collect import Answer, Results
from diffmic_jax.report.page import Raw

TITLES = {
    "accuracy": "accuracy",
    "f1_macro": "macro-F1",
    "f1_weighted": "weighted F1",
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "macro AUROC",
    "average_precision": "mean average precision",
    "kappa_quadratic": "quadratic kappa",
    "nll": "NLL (lower is better)",
    "brier": "Brier score (lower is better)",
    "rps": "Ranked probability score (lower is better)",
    "ece": "ECE (lower is better)",
}
LOSSES = {"loss": "denoiser", "guidance_loss": "guidance"}
VALIDATION = {"val_accuracy": "accuracy", "val_f1_macro": "macro-F1", "val_auroc_macro": "AUROC"}


def headline(results: Results, comparison: dict[str, Any], baselines: dict[str, Any]) -> str:
    """Diffusion, guidance prediction, their difference, and baselines; one column of them without
    diffusion.

    Args:
      results: of the split.
      comparison: what `compare.compare` returns, the guidance first.
      baselines: of the audit, shown where they are of these images.
    """
    scores = results.scores
    shortcuts = _shortcuts(results, baselines)
    rows = []
    for name in (each for each in TITLES if scores[each] is not None):
        cells: list[str] = [
            page.with_interval(own[name], own["ci95"][name]) for *_, own in results.answers
        ]
        if results.diffuses:
            found = comparison["metrics"].get(name)
            cells.append(page.with_interval(found["difference"], found["ci95"]) if found else "-")
        cells += [page.number(row[name]) if name in row else "" for row in shortcuts.values()]
        rows.append((TITLES[name], *cells))
    header = [each.title for each in results.answers] + ["difference"] * results.diffuses
    table = page.table(("", *header, *shortcuts), rows, "headline", "stack")
    note = _headline_note(results, comparison, baselines if shortcuts else {})
    return table + page.paragraph(note, "note")


def _shortcuts(results: Results, baselines: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The baselines that are of these very images, by their titles."""
    titles = {
        "pixels": "trees on 32 px",
        "metadata": "tree on metadata",
        "majority": "largest class",
    }
    rows = {title: baselines[name] for name, title in titles.items() if baselines[name]}
    if results.task.multi_label:
        return rows
    ids = {*results.ids}
    return {title: row for title, row in rows.items() if row["predictions"].keys() == ids}


def _headline_note(results: Results, comparison: dict[str, Any], baselines: dict[str, Any]) -> str:
    note = (
        f"{results.scores['n']:,} images. In brackets: 95% intervals by bootstrap, of whole groups "
        "(lesions, patients) where these are known."
    )
    if results.diffuses:
        note += (
            " The guidance gives a first estimate of the class by itself; the diffusion refines it."
            " The difference is paired, image by image."
        )
    else:
        note += " There is no denoiser: the guidance is the classifier."
    only = comparison["mcnemar"]
    if results.diffuses and only:
        note += (
            f" Correct by the {results.who} alone: {only['only_second']}; by the guidance alone: "
            f"{only['only_first']} (exact sign test, p = {only['p']:.2g})."
        )
    if baselines:
        note += (
            " The last columns: what classifiers reach that learned in seconds from "
            f"{baselines['trained_on']:,} of the training images: extremely randomised trees on "
            "32 x 32 pixels, and a tree on size, stored form and borders."
        )
    return " ".join(filter(None, (note, of_fewer_classes(results.scores))))


def training(results: Results) -> str:
    """The training curves."""
    if not results.log:
        return page.paragraph("The run has no training log: its parameters were converted.")
    warmup = [int(row["step"]) for row in results.log if row["phase"] == "warmup"]
    # Without a denoiser the phases do not differ.
    end = max(warmup, default=0) if any(row.get("loss") for row in results.log) else 0
    items = [page.figure(figures.curves(results.log, LOSSES, "training losses", end))]
    if any(row.get("val_accuracy") or row.get("val_auroc_macro") for row in results.log):
        items.append(page.figure(figures.curves(results.log, VALIDATION, "validation", end)))
    note = "Dotted line: the denoiser begins to learn." * bool(end)
    if results.networks > 1:
        note = f"Of the first of the {results.networks} networks that answer together. {note}"
    return page.grid(items) + (page.paragraph(note, "note") if note else "")


def classes(results: Results) -> str:
    """Confusion, scores of each class, ROC and precision-recall."""
    scores, names = results.scores, results.task.class_names
    parts = [page.confusion(scores["confusion"], names)] if scores["confusion"] else []
    metrics = {"precision": "precision", "recall": "recall", "f1": "F1", "auroc": "AUROC"}
    metrics["average_precision"] = "avg. precision"
    points = list(scores["operating_points"][names[0]])
    rows = []
    for name in names:
        values = scores["per_class"][name] | scores["operating_points"][name]
        interval = scores["ci95_per_class"][name]
        cells = [page.with_interval(values[m], interval[m]) for m in (*metrics, *points)]
        rows.append((name, values["support"], *cells))
    titles = [f"sens. at spec. {point.rsplit('_', 1)[1]}" for point in points]
    header = ("class", "images", *metrics.values(), *titles)
    parts.append(page.table(header, rows, "class-table", "stack"))
    note = (
        "Sensitivity at a specificity is read off the ROC curve of these images, so its threshold "
        "is slightly optimistic. "
        f"{'Blue: diffusion; dashed: guidance alone; n' if results.diffuses else 'N'}umbers: area "
        "under the curve; dotted: chance."
    )
    parts.append(page.paragraph(note, "note"))
    figures_ = [
        page.figure(figures.roc_and_pr(c, name, actual, lines))
        for c, (name, (actual, lines)) in enumerate(zip(names, _by_class(results), strict=True))
        if 0 < actual.sum() < len(actual)  # a curve needs images with and without the class
    ]
    return "".join([*parts, page.grid(figures_)])


def decisions(results: Results) -> str:
    """Decision curves: is acting on the probabilities worth more than acting on all, or on none?"""
    by_class = [*zip(results.task.class_names, _by_class(results), strict=True)]
    figures_ = [
        page.figure(figures.decisions(c, name, actual, lines))
        for c, (name, (actual, lines)) in enumerate(by_class)
        if 0 < actual.sum() < len(actual)
    ]
    note = (
        "Who acts on a class from a probability t on counts t / (1 - t) of a found image for each "
        "wrong alarm. Net benefit is what is left per image; dotted: acting on all images, and on "
        "none. Where the line is above both, the classifier is worth asking."
    )
    return page.grid(figures_) + page.paragraph(note, "note")


def _by_class(results: Results) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Of each class: member, and the probabilities of all, for the images of which it is known."""
    member, known = (of(results.label) for of in (results.task.multi_hot, results.task.known))
    for c, k in enumerate(known.T):
        yield member[k, c], {each.name: each.probabilities[k, c] for each in results.answers}


def reliability(results: Results) -> str:
    """Reliability diagrams: confidence against the observed frequency."""
    scores, shown = results.scores, [*results.answers]
    if results.calibrated is not None:
        after = scores["calibrated"]
        title = f"{shown[0].title} at temperature {after['temperature']:.2f}"
        shown.insert(1, Answer("calibrated", title, results.calibrated, after))
    items = []
    for name, title, p, own in shown:
        confidence, outcome = _confidences(p, results)
        items.append(page.figure(figures.reliability(name, title, confidence, outcome, own["ece"])))
    return page.grid(items) + _calibrated_note(results) + _familiar_note(scores)


def _confidences(p: np.ndarray, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and outcome of each predicted class; with several labels, of every class."""
    if results.task.multi_label:
        known = results.task.known(results.label)
        return p[known], results.label[known].astype(float)
    return p.max(axis=1), (p.argmax(axis=1) == results.label).astype(float)


def _familiar_note(scores: dict[str, Any]) -> str:
    """What the detector of unlike images says of these; empty without one."""
    share = scores.get("unfamiliar")
    if share is None:
        return ""
    return page.paragraph(
        f"{share:.1%} of these images do not look like the training images; of new ones of the "
        f"same kind about {FALSE_ALARMS:.0%} do not. There the probabilities mean nothing.",
        "note",
    )


def _calibrated_note(results: Results) -> str:
    after = results.scores["calibrated"]
    if after is None:
        return page.paragraph(
            "Not calibrated: the run has no validation part, or was evaluated with a sampling that "
            "it was not calibrated for.",
            "note",
        )
    text = (
        f"The temperature {after['temperature']:.3f} was fitted {results.held_out}; with it "
        f"the NLL is {after['nll']:.3f} and the ECE {after['ece']:.3f}."
    )
    if results.tempering:
        text = (
            f"The answer itself has a {results.tempering}, fitted {results.held_out}; a second "
            f"one of {after['temperature']:.3f}, fitted there to these answers, makes the NLL "
            f"{after['nll']:.3f} and the ECE {after['ece']:.3f}."
        )
    sets = after["conformal"]
    if sets:
        low, high = sets["expected"]
        range_ = f"95% of splits of these sizes, of independent images: {low:.1%} to {high:.1%}"
        if results.careful:
            range_ = "more than that is usual, since fewer networks answered for the held-out ones"
        text += (
            f" Prediction sets with a target coverage of {sets['target']:.0%} contain the true "
            f"class in {sets['coverage']:.1%} of the images ({range_}); they have "
            f"{sets['set_size']:.2f} classes on average, and {sets['empty']:.1%} are empty."
        )
    return page.paragraph(text)


def referral(results: Results) -> str:
    """Whether the uncertain predictions are the wrong ones."""
    if results.task.multi_label:
        return page.paragraph("Only for images with one label each.", "note")
    label, (first, *_) = results.label, results.answers
    lines = {
        f"{each.name}, by entropy": referral_curve(
            entr(each.probabilities).sum(axis=1), each.probabilities.argmax(axis=1) == label
        )
        for each in results.answers
    }
    if results.diffuses:
        correct = first.probabilities.argmax(axis=1) == label
        lines["diffusion, by std of samples"] = referral_curve(results.std, correct)
    rows = [
        (
            each.title,
            page.number(found["accuracy_kept"]),
            page.with_interval(found["gain"], found["gain_ci95"]),
            f"{found['errors_referred']} of {found['errors']}",
            page.number(found["error_auroc"]),
        )
        for each in results.answers
        for found in (each.scores["referral"],)
    ]
    header = ("", "accuracy of the rest", "gain", "errors referred", "AUROC for errors")
    return (
        page.paragraph(_verdict(results.scores["referral"]))
        + page.table(header, rows, "referral-table", "stack")
        + page.grid([page.figure(figures.referral(lines, SHARE))])
    )


def _verdict(found: dict[str, Any]) -> str:
    gain = found["gain_ci95"]
    if not found["errors"]:
        return "There is no error to refer."
    helps = "not known" if gain is None else "yes" if gain[0] > 0 else "not clearly"
    return (
        f"Does it help to refer the {found['share']:.0%} of images with the highest entropy to an "
        f"expert? {helps.capitalize()}: they contain {found['errors_referred']} of the "
        f"{found['errors']} errors, and the accuracy of the rest changes by {found['gain']:+.3f}."
    )


def facts(values: dict[str, object], config: dict[str, Any]) -> str:
    """Versions, and the configuration field by field."""
    rows = [(name, Raw(f"<code>{page.text(value)}</code>")) for name, value in values.items()]
    flat = [
        (f"{group}.{name}", Raw(f"<code>{page.text(value)}</code>"))
        for group, fields in config.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    ]
    flat += [(name, value) for name, value in config.items() if not isinstance(value, dict)]
    inside = page.table(("field", "value"), flat, "configuration", "facts")
    versions = page.table(("", ""), rows, "versions", "facts")
    return versions + Raw(f"<details><summary>All settings</summary>{inside}</details>")
