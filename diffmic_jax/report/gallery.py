"""Single images on a page: regions, saliency, probabilities, and the path of the label vector."""

from __future__ import annotations

import numpy as np

from diffmic_jax.method.task import SEPARATOR
from diffmic_jax.report import figures, page
from diffmic_jax.report.cases import LEVEL, Case, Original
from diffmic_jax.report.collect import Predicted, Results
from diffmic_jax.report.svg import NUM_COLOURS

MISTAKES = 6
"""Errors that are shown, at most."""
GALLERY = 12
"""Images that are shown, about."""
SHOWN_CLASSES = 5
"""The most probable ones of an image."""


def most_confident_mistakes(results: Results) -> np.ndarray:
    """Positions of the wrong predictions with the highest confidence, `MISTAKES` at most."""
    p, label = results.probabilities, results.label
    if results.task.multi_label:  # by the class with the largest error
        worst = (np.abs(p - label) * results.task.known(label)).max(axis=1)
    else:
        worst = p.max(axis=1)
    found = np.flatnonzero(~results.right)
    return found[np.argsort(-worst[found], kind="stable")][:MISTAKES]


def first_of_each_class(results: Results) -> np.ndarray:
    """Positions of the first images of each class, in the order of the split."""
    count = max(1, GALLERY // results.task.num_classes)
    chosen: list[int] = []
    for of_class in results.task.multi_hot(results.label).T:
        chosen += [i for i in np.flatnonzero(of_class).tolist() if i not in chosen][:count]
    return np.array(chosen, int)


def card(name: str, shown: Predicted, i: int, case: Case, original: Original) -> page.Raw:
    """Everything about image i.

    Args:
      name: of the card, unique on the page.
      shown: predictions.
      i: position in them.
      case: what the model computes for the image.
      original: the image as it is in its file.
    """
    names = shown.task.class_names
    parts = [
        f"<h3>{page.text(shown.ids[i])}</h3>",
        _verdict(shown, i),
        f'<div class="views">{with_regions(case, original)}{with_saliency(case, original)}</div>',
        patches(case, original),
        classes(shown, i, case),
        figures.trajectory(name, case.timesteps, case.states, names) if case.has_path else "",
    ]
    return page.Raw(f'<article class="case">{"".join(parts)}</article>\n')


def colour_scale() -> str:
    """The colours of the saliency."""
    scale = "".join(
        f'<rect x="{10 * k}" width="10" height="12" fill="{_hex(colour)}"/>'
        for k, colour in enumerate(_heat(np.linspace(0, 1, 12)))
    )
    return (
        '<span class="scale">low <svg viewBox="0 0 120 12" role="img" '
        f'aria-label="from blue, low, to red, high">{scale}</svg> high</span>'
    )


def legend(regions: bool, diffuses: bool, paths: bool, several: bool) -> page.Raw:
    """How to read a card.

    Args:
      regions: the guidance looks at regions.
      diffuses: there is a denoiser.
      paths: cards show the path of the label vector.
      several: networks answer together.
    """
    left, grid = "Left: the image.", "the grid of the network's evidence for its classes"
    if regions:
        grid = "the grid on which the network looks for regions"
        left = (
            "Left: the image with the regions that the network looked at closely; the thicker the "
            "line, the more attention, and below each region with its share."
        )
    if several:
        left = f"Drawn is what the first of the networks looks at. {left}"
    more = " The guidance is the first estimate, which the diffusion refines." if diffuses else ""
    if paths:
        more += (
            " The curves are the label vector from noise to the prediction: mean and middle "
            f"{LEVEL}% of the samples. The range in the table is of single samples, each read out "
            "by itself; p, the readout of their mean, may lie outside of it."
        )
    return page.Raw(
        f'<p class="note">{left} Right: the saliency, {grid}, as coarse as it is and scaled '
        f"within the image: {colour_scale()}.{more}</p>\n"
    )


def _verdict(shown: Predicted, i: int) -> str:
    """The predicted class, and the label where it is known."""
    predicted = f"predicted <b>{page.text(shown.prediction[i] or 'none')}</b>"
    if not isinstance(shown, Results):
        return f"<p>{predicted}</p>"
    label = shown.task.name(shown.label[i])
    kind = "right" if shown.right[i] else "wrong"
    return (
        f'<p>label <b>{page.text(label or "none")}</b>, <span class="{kind}">{predicted}</span></p>'
    )


def with_regions(case: Case, original: Original) -> str:
    """The image with its regions; the more attention, the thicker the line."""
    height, width = original.pixels.shape[:2]
    left, top, side = original.square
    scale = side / len(case.image)
    boxes = "".join(
        f'<rect class="region-{k % NUM_COLOURS}" x="{left + scale * column:.1f}" '
        f'y="{top + scale * row:.1f}" width="{scale * case.region_size:.1f}" '
        f'height="{scale * case.region_size:.1f}" stroke-width="{side * (0.008 + 0.03 * a):.2f}"/>'
        for k, ((row, column), a) in enumerate(zip(case.corners, case.attention, strict=True))
    )
    if width != height:  # the rest is cut off before the networks see the image
        boxes = f'<rect class="square" x="{left}" y="{top}" width="{side}" height="{side}"/>{boxes}'
    return (
        f'<div class="view"><img alt="the image" width="{width}" height="{height}" '
        f'src="{page.picture(original.pixels)}">'
        f'<svg class="boxes" viewBox="0 0 {width} {height}" aria-hidden="true">{boxes}</svg></div>'
    )


def with_saliency(case: Case, original: Original) -> str:
    """The image in gray under the saliency in colour."""
    gray = original.pixels.mean(axis=2, keepdims=True)
    gray = np.repeat(gray, 3, axis=2).astype(np.uint8)
    height, width = gray.shape[:2]
    return (
        f'<div class="view"><img alt="" width="{width}" height="{height}" '
        f'src="{page.picture(gray)}">{heat_map(case, original)}</div>'
    )


def heat_map(case: Case, original: Original) -> str:
    """The saliency over an image, in cells as large as those of its grid."""
    height, width = original.pixels.shape[:2]
    left, top, side = original.square
    return (
        f'<svg class="heat" viewBox="0 0 {width} {height}" role="img" aria-label="saliency">'
        f'<image x="{left}" y="{top}" width="{side}" height="{side}" preserveAspectRatio="none" '
        f'href="{page.picture(_heat(case.saliency))}"/></svg>'
    )


def _heat(saliency: np.ndarray) -> np.ndarray:
    """Values 0..1 as colours [..., 3] uint8, from blue over white to red."""
    s = saliency[..., None]
    cold, mid, hot = (np.array(c) for c in ((40, 70, 200), (245, 245, 245), (210, 30, 30)))
    mixed = np.where(s < 0.5, cold + 2 * s * (mid - cold), mid + (2 * s - 1) * (hot - mid))
    colours: np.ndarray = mixed.astype(np.uint8)
    return colours


def _hex(colour: np.ndarray) -> str:
    return "#" + bytes(colour.tolist()).hex()


def patches(case: Case, original: Original) -> str:
    """The regions with the attention of each."""
    left, top, side = original.square
    scale, inner = side / len(case.image), len(case.image) - case.region_size
    cells = []
    for k, ((row, column), a) in enumerate(zip(case.corners, case.attention, strict=True)):
        low = (top + scale * row, left + scale * column)
        rows, columns = (slice(round(at), round(at + scale * case.region_size)) for at in low)
        patch = np.ascontiguousarray(original.pixels[rows, columns])
        # The network pads what lies outside of the square; here it is cut off or shows the rest.
        cut = "" if max(row, column) <= inner else " (cut)"
        cells.append(
            f'<div class="region"><img class="region-{k % NUM_COLOURS}" '
            f'alt="region {k + 1}" src="{page.picture(patch)}">{a:.0%}{cut}</div>'
        )
    return f'<div class="regions">{"".join(cells)}</div>'


def classes(shown: Predicted, i: int, case: Case) -> str:
    """Probabilities of the most probable classes."""
    p = shown.probabilities[i]
    top = np.argsort(-p, kind="stable")[:SHOWN_CLASSES]
    spread = case.has_spread
    rows: list[tuple[object, ...]] = []
    for c in top:
        cells: tuple[object, ...] = (shown.task.class_names[c], page.Raw(f"<b>{p[c]:.2f}</b>"))
        if spread:
            cells += (f"{shown.low[i, c]:.2f}-{shown.high[i, c]:.2f}", f"{shown.vote[i, c]:.0%}")
        guided = (f"{shown.guidance[i, c]:.2f}",) if len(case.timesteps) else ()
        rows.append(cells + guided)
    header = ("class", "p", *(f"{LEVEL}% of samples", "votes") * spread)
    header += ("guidance",) if len(case.timesteps) else ()
    below = ""
    if shown.sets is not None:
        members = shown.sets[i].replace(SEPARATOR, ", ") or "no class"
        below = f"<p><small>prediction set: {page.text(members)}</small></p>"
    return page.table(header, rows) + below
