"""Single images in the report: what was seen, where, and how the answer came about."""

from __future__ import annotations

import numpy as np

from diffmic_jax.data.files import joined
from diffmic_jax.report import figures, page
from diffmic_jax.report.cases import LEVEL, Case
from diffmic_jax.report.collect import Results

MISTAKES = 6
GALLERY = 12


def most_confident_mistakes(results: Results) -> np.ndarray:
    """Positions of the wrong answers with the highest confidence, `MISTAKES` at most."""
    p, label = results.probabilities, results.label
    if results.multi_label:
        # The question that was answered worst.
        worst = np.abs(p - label).max(axis=1)
        wrong = worst > 0.5
    else:
        worst = p.max(axis=1)
        wrong = p.argmax(axis=1) != label
    found = np.flatnonzero(wrong)
    return found[np.argsort(-worst[found], kind="stable")][:MISTAKES]


def first_of_each_class(results: Results) -> np.ndarray:
    """Positions of the first images of each class, in the order of the split: nobody chose them."""
    count = max(1, GALLERY // len(results.class_names))
    chosen: list[int] = []
    for c in range(len(results.class_names)):
        of_class = results.label[:, c] == 1 if results.multi_label else results.label == c
        chosen += [i for i in np.flatnonzero(of_class).tolist() if i not in chosen][:count]
    return np.array(chosen, int)


def card(name: str, results: Results, i: int, case: Case, region: int, t: np.ndarray) -> page.Raw:
    """Everything about image i.

    Args:
      name: of the card, the page's only one.
      results: of the split.
      i: position in it.
      case: what the model did.
      region: side of a region in pixels.
      t: [n] timesteps, descending; none where nothing was diffused.
    """
    names, said = results.class_names, results.prediction[i]
    parts = [
        f"<h3>{page.text(results.ids[i])}</h3>",
        _verdict(said, None if results.label is None else joined(names, results.label[i])),
        f'<div class="views">{_regions_on(case, region)}{_saliency_on(case)}</div>',
        _patches(case, region),
        _classes(results, i),
        figures.trajectory(name, t, case.states, names) if len(t) else "",
    ]
    return page.Raw(f'<article class="case">{"".join(parts)}</article>\n')


def _verdict(said: str, true: str | None) -> str:
    """What an image was called, and what it is where that is known."""
    called = f"called <b>{page.text(said or 'none')}</b>"
    if true is None:
        return f"<p>{called}</p>"
    kind = "right" if said == true else "wrong"
    return f'<p>{page.text(true or "none")} <span class="{kind}">{called}</span></p>'


def _regions_on(case: Case, region: int) -> str:
    """The image with its regions; the more attention, the thicker the line."""
    side = len(case.image)
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


def _patches(case: Case, region: int) -> str:
    """The regions by themselves with the attention that each gets."""
    side = len(case.image)
    cells = []
    for k, ((row, column), a) in enumerate(zip(case.corners, case.attention, strict=True)):
        patch = case.image[row : row + region, column : column + region]
        # What hangs over the border is cut off here, and filled up for the network.
        cut = "" if row + region <= side and column + region <= side else " (cut)"
        cells.append(
            f'<div class="region"><div style="--r: var(--c{k}); '
            f'background-image: url({page.picture(np.ascontiguousarray(patch))})"></div>'
            f"{a:.0%}{cut}</div>"
        )
    return f'<div class="regions">{"".join(cells)}</div>'


def _classes(results: Results, i: int) -> str:
    """Probabilities of the most probable classes, five at most."""
    p = results.probabilities[i]
    top = np.argsort(-p, kind="stable")[:5]
    rows = [
        (
            results.class_names[c],
            page.Raw(f"<b>{p[c]:.2f}</b>"),
            f"{results.low[i, c]:.2f}-{results.high[i, c]:.2f}",
            f"{results.vote[i, c]:.0%}",
            f"{results.guidance[i, c]:.2f}",
        )
        for c in top
    ]
    header = ("class", "p", f"{LEVEL}% of draws", "votes", "guidance")
    below = ""
    if results.sets is not None:
        kept = results.sets[i].replace("|", ", ") or "no class"
        below = f"<p><small>prediction set: {page.text(kept)}</small></p>"
    return page.table(header, rows) + below
