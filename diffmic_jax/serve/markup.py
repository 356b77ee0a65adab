"""The page's HTML: the form, and the answer for an image. Plain words first, terms folded below."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.data.scan import EXTENSIONS
from diffmic_jax.inference.card import samples_of
from diffmic_jax.inference.evaluated import METRICS, folder_of, is_current, read_scores
from diffmic_jax.inference.load import Model
from diffmic_jax.method.task import SEPARATOR
from diffmic_jax.report import figures, gallery, page
from diffmic_jax.report.cases import Case, Original
from diffmic_jax.report.collect import Predicted, data_name
from diffmic_jax.report.style import CSS

HERE = Path(__file__).parent
FILES = {"page.css": "text/css", "page.js": "text/javascript"}
"""What the page loads, from this folder, and the kind of each."""
UNFAMILIAR = (
    "This does not look like the images that the classifier was trained on: do not rely on what "
    "follows."
)
FAMILIAR = (
    "Nothing tells it from the training images; that is a check of the network's own features, and "
    "can miss other kinds of images."
)
NOT_KNOWN = "Whether it looks like the training images is not known: the run has no detector."
_BARS = 12  # classes whose probabilities are shown before the details


@dataclasses.dataclass(frozen=True)
class About:
    """What the page says of its classifier."""

    model: Model
    coverage: float
    """Of the prediction sets, 0..1."""

    @property
    def name(self) -> str:
        """Of the data that it was trained on."""
        return data_name(self.model.config)

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """`metrics.json` of the test part, if there is one of this very model.

        Raises:
          InputError: it is damaged.
        """
        path = folder_of(self.model, "test") / METRICS
        return read_scores(path) if is_current(self.model, "test") else None

    @property
    def record(self) -> str:
        """How often it was right, as `right in 74% of 225 test images`."""
        scores = self.scores
        if scores is None:
            return "how often it is right is not known: it has no evaluation"
        if scores["accuracy"] is None:  # of several labels
            auroc = scores["auroc_macro"]
            mean = "" if auroc is None else f", mean AUROC {auroc:.2f}"
            return f"evaluated on {scores['n']:,} test images{mean}"
        return f"right in {scores['accuracy']:.0%} of {scores['n']:,} test images"


def document(about: About, content: str = "") -> str:
    """The page.

    Args:
      about: the classifier.
      content: HTML of an answer or a message, for browsers without scripts.
    """
    classes = ", ".join(about.model.task.class_names)
    accept = ",".join(sorted(EXTENSIONS))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Classify images: {page.text(about.name)}</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script></head>
<body>
<header><h1>Classify images <span>{page.text(about.name)}</span></h1>
<p>Tells apart: {page.text(classes)}. {page.text(about.record.capitalize())}.</p></header>
<main><p class="warning">Research software, not for diagnosis. Images are not stored and do not
leave the computer that serves this page.</p>
<form id="form" method="post" action="/image" enctype="multipart/form-data">
<label id="drop" for="file"><b>Drop images here, or choose them</b>
<span>PNG, JPEG, TIFF, BMP, WebP or DICOM; one for a close look, many for a table</span>
<input type="file" id="file" name="file" accept="{accept}" multiple required></label>
<p class="plain"><button>Classify</button> <button formaction="/batch">Table (CSV)</button></p>
</form>
<p id="status" role="status" aria-live="polite"></p>
<div id="answer" tabindex="-1">{content}</div>
<section id="many" aria-labelledby="many-title" hidden>
<h2 id="many-title">All images</h2>
<p class="tools"><label>Sort by <select id="sort">
<option value="given">order given</option><option value="name">name</option>
<option value="answer">answer</option><option value="unsure">least sure first</option>
<option value="unlike">unlike the training images first</option></select></label>
<button type="button" id="csv">Save table (CSV)</button></p>
<ul id="tiles"></ul></section></main>
{_about(about)}</body></html>
"""


def static(name: str) -> str:
    """The text of one of `FILES`; the style sheet begins with the report's."""
    text = (HERE / name).read_text(encoding="utf-8")
    return CSS + text if name == "page.css" else text


def _about(about: About) -> str:
    """What a user may ask next, folded."""
    model, scores = about.model, about.scores
    samples = samples_of(model)
    lines = [
        "Every image gets one of these classes, also one that shows none of them.",
        f"Recipe {model.method.name}, checkpoint of step {model.step:,}, images of "
        f"{model.config.data.image_size} px.",
    ]
    if samples > 1:
        lines.append(f"A prediction is the mean of {samples} samples of the diffusion.")
    if scores and scores["accuracy"] is not None and scores["ci95"]["accuracy"]:
        low, high = scores["ci95"]["accuracy"]
        lines.append(f"Accuracy {scores['accuracy']:.1%}, 95% interval {low:.1%} to {high:.1%}.")
    table = ""
    if scores:
        rows = [
            (name, f"{row['support']:,}", *map(_percent, (row["recall"], row["precision"])))
            for name, row in scores["per_class"].items()
        ]
        header = ("class", "test images", "of these found", "right where it is the answer")
        table = page.table(header, rows)
    listed = "".join(f"<li>{page.text(line)}</li>" for line in lines)
    return (
        "<footer><details><summary>About this classifier</summary>"
        f"<ul>{listed}</ul>{table}</details></footer>"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def answer(
    about: About, shown: Predicted, case: Case, original: Original, familiar: bool | None
) -> str:
    """Everything about one image.

    Args:
      about: the classifier.
      shown: its prediction.
      case: what the model computes for it.
      original: the image.
      familiar: it looks like the training images; None if that is not known.
    """
    strange = page.paragraph(UNFAMILIAR, "warning") if familiar is False else ""
    return (
        f'<article class="answer case" aria-label="{page.text(shown.ids[0])}">'
        f'<h2 tabindex="-1">{page.text(shown.ids[0])}</h2>{strange}<div class="sides">'
        f"{_stage(case, original)}<div>{_words(about, shown, familiar)}{_bars(shown)}"
        f"{_details(shown, case, original)}</div></div></article>"
    )


def _stage(case: Case, original: Original) -> str:
    """The image, large, with what can be laid over it."""
    regions = '<label><input type="checkbox" class="show-boxes"> regions looked at closely</label>'
    view = gallery.with_regions(case, original).removesuffix("</div>")
    return (
        f'<div class="stage">{view}{gallery.heat_map(case, original)}</div>'
        f"<fieldset><legend>Show on the image</legend>{regions * bool(len(case.corners))}"
        '<label><input type="checkbox" class="show-heat"> heat map '
        f"{gallery.colour_scale()}</label></fieldset></div>"
    )


def _words(about: About, shown: Predicted, familiar: bool | None) -> str:
    """The answer in words."""
    prediction = shown.prediction[0].replace(SEPARATOR, " and ") or "none of the classes"
    parts = []
    if shown.sets is None:
        parts.append(f'<p class="lead">{page.text(prediction)}</p>')
        parts.append(page.paragraph(f"{about.record.capitalize()}."))
    else:
        members = shown.sets[0].split(SEPARATOR) if shown.sets[0] else []
        lead = " or ".join(members) or "no class fits"
        if len(members) == len(shown.task.class_names):
            lead = "no class can be ruled out"
        top = shown.probabilities[0].max()
        parts.append(
            f'<p class="lead">{page.text(lead)} <small>({about.coverage:.0%} set)</small></p>'
        )
        parts.append(page.paragraph(f"Most probable: {prediction} ({top:.0%}); {about.record}."))
        parts.append(page.paragraph(_of_sets(about), "note"))
    if familiar is not False:
        parts.append(page.paragraph(FAMILIAR if familiar else NOT_KNOWN, "note"))
    return "".join(parts)


def _of_sets(about: About) -> str:
    """What a prediction set is, and how often the sets held the true class."""
    text = f"A {about.coverage:.0%} set is meant to hold the true class for {about.coverage:.0%}"
    after = (about.scores or {}).get("calibrated")
    sets = after and after["conformal"]
    if sets and sets["target"] == about.coverage:
        return f"{text} of such images; of the test images it did for {sets['coverage']:.0%}."
    return f"{text} of such images."


def _bars(shown: Predicted) -> str:
    """Probabilities, the largest first."""
    p = shown.probabilities[0]
    rows = []
    for c in np.argsort(-p, kind="stable")[:_BARS]:
        bar = (
            f'<svg class="bar" aria-hidden="true"><rect class="ground" width="100%" '
            f'height="100%"/><rect width="{100 * p[c]:.1f}%" height="100%"/></svg>'
        )
        rows.append((shown.task.class_names[c], page.Raw(bar), f"{p[c]:.0%}"))
    body = "".join(
        f'<tr><th scope="row">{page.text(name)}</th><td>{bar}</td><td>{share}</td></tr>'
        for name, bar, share in rows
    )
    more = len(p) - len(rows)
    rest = (
        page.paragraph(f"{more} less probable classes are not shown.", "note") if more > 0 else ""
    )
    return (
        '<table class="bars"><caption>How probable each class is</caption>'
        f"<tbody>{body}</tbody></table>{rest}"
    )


def _details(shown: Predicted, case: Case, original: Original) -> str:
    """The technical part."""
    path = ""
    if case.has_path:
        path = figures.trajectory("path", case.timesteps, case.states, shown.task.class_names)
    notes = []
    if len(case.timesteps):
        notes.append("guidance: the first estimate, which the diffusion refines")
    if case.has_spread:
        notes.append("range and votes: of single samples, a measure of the sampler's noise alone")
    if len(case.corners):
        notes.append("regions: what the network looked at closely, with the share of its attention")
    notes.append("heat map: the grid of the network's own saliency, scaled within the image")
    listed = "".join(f"<li>{note}</li>" for note in notes)
    return (
        "<details><summary>Details for experts</summary>"
        f"{gallery.classes(shown, 0, case)}{gallery.patches(case, original)}{path}"
        f'<ul class="note">{listed}</ul></details>'
    )
