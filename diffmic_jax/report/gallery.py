"""Single images on a page: regions, saliency, probabilities, and the path of the label vector."""

from __future__ import annotations

import numpy as np

from diffmic_jax.method.task import SEPARATOR
from diffmic_jax.report import figures, page
from diffmic_jax.report.cases import LEVEL, Case
from diffmic_jax.report.collect import Predicted, Results

MISTAKES = 6
"""Errors that are shown, at most."""
GALLERY = 12
"""Images that are shown, about."""
SHOWN_CLASSES = 5
"""The most probable ones of an image."""


def most_confident_mistakes(results: Results) -> np.ndarray:
    """Positions of the wrong predictions with the highest confidence, `MISTAKES` at most."""
    p, label = results.probabilities, results.label
    if results.task.multi_label:
        # By the class with the largest error.
        worst = (np.abs(p - label) * results.task.known(label)).max(axis=1)
        wrong = worst > 0.5
    else:
        worst = p.max(axis=1)
        wrong = p.argmax(axis=1) != label
    found = np.flatnonzero(wrong)
    return found[np.argsort(-worst[found], kind="stable")][:MISTAKES]


def first_of_each_class(results: Results) -> np.ndarray:
    """Positions of the first images of each class, in the order of the split."""
    count = max(1, GALLERY // results.task.num_classes)
    chosen: list[int] = []
    for of_class in results.task.multi_hot(results.label).T:
        chosen += [i for i in np.flatnonzero(of_class).tolist() if i not in chosen][:count]
    return np.array(chosen, int)


def card(name: str, shown: Predicted, i: int, case: Case) -> page.Raw:
    """Everything about image i.

    Args:
      name: of the card, unique on the page.
      shown: predictions.
      i: position in them.
      case: what the model computes for the image.
    """
    names = shown.task.class_names
    label = None if shown.label is None else shown.task.name(shown.label[i])
    diffuses = len(case.timesteps) > 0
    parts = [
        f"<h3>{page.text(shown.ids[i])}</h3>",
        _verdict(shown.prediction[i], label),
        f'<div class="views">{_regions_on(case)}{_saliency_on(case)}</div>',
        _patches(case),
        _classes(shown, i),
        figures.trajectory(name, case.timesteps, case.states, names) if diffuses else "",
    ]
    return page.Raw(f'<article class="case">{"".join(parts)}</article>\n')


def _verdict(prediction: str, label: str | None) -> str:
    """The predicted class, and the label where it is known."""
    predicted = f"predicted <b>{page.text(prediction or 'none')}</b>"
    if label is None:
        return f"<p>{predicted}</p>"
    kind = "right" if prediction == label else "wrong"
    return (
        f'<p>label <b>{page.text(label or "none")}</b>, <span class="{kind}">{predicted}</span></p>'
    )


def _regions_on(case: Case) -> str:
    """The image with its regions; the more attention, the thicker the line."""
    side, region = len(case.image), case.region_size
    boxes = "".join(
        f'<rect x="{column}" y="{row}" width="{region}" height="{region}" fill="none" '
        f'style="stroke: var(--c{k})" stroke-width="{side * (0.008 + 0.03 * a):.2f}"/>'
        for k, ((row, column), a) in enumerate(zip(case.corners, case.attention, strict=True))
    )
    return (
        f'<div class="view"><img alt="the image" src="{page.picture(case.image)}">'
        f'<svg viewBox="0 0 {side} {side}">{boxes}</svg></div>'
    )


def _saliency_on(case: Case) -> str:
    """The image in gray under the saliency in colour."""
    gray = np.repeat(case.image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    s = case.saliency[..., None]
    # From blue over white to red.
    cold, mid, hot = (np.array(c) for c in ((40, 70, 200), (245, 245, 245), (210, 30, 30)))
    mixed = np.where(s < 0.5, cold + 2 * s * (mid - cold), mid + (2 * s - 1) * (hot - mid))
    heat = page.picture(mixed.astype(np.uint8))
    return (
        f'<div class="view"><img alt="" src="{page.picture(gray)}">'
        f'<img class="heat" alt="saliency" src="{heat}"></div>'
    )


def _patches(case: Case) -> str:
    """The regions with the attention of each."""
    side, region = len(case.image), case.region_size
    cells = []
    for k, ((row, column), a) in enumerate(zip(case.corners, case.attention, strict=True)):
        patch = case.image[row : row + region, column : column + region]
        # The network pads what lies outside of the image; here it is cut off.
        cut = "" if row + region <= side and column + region <= side else " (cut)"
        cells.append(
            f'<div class="region"><div style="--r: var(--c{k}); '
            f'background-image: url({page.picture(np.ascontiguousarray(patch))})"></div>'
            f"{a:.0%}{cut}</div>"
        )
    return f'<div class="regions">{"".join(cells)}</div>'


def _classes(shown: Predicted, i: int) -> str:
    """Probabilities of the most probable classes."""
    p = shown.probabilities[i]
    top = np.argsort(-p, kind="stable")[:SHOWN_CLASSES]
    rows = [
        (
            shown.task.class_names[c],
            page.Raw(f"<b>{p[c]:.2f}</b>"),
            f"{shown.low[i, c]:.2f}-{shown.high[i, c]:.2f}",
            f"{shown.vote[i, c]:.0%}",
            f"{shown.guidance[i, c]:.2f}",
        )
        for c in top
    ]
    header = ("class", "p", f"{LEVEL}% of samples", "votes", "guidance")
    below = ""
    if shown.sets is not None:
        members = shown.sets[i].replace(SEPARATOR, ", ") or "no class"
        below = f"<p><small>prediction set: {page.text(members)}</small></p>"
    return page.table(header, rows) + below
