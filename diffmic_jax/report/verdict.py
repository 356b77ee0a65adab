"""What a reader wants to know first: how good it is, against what, and whether to believe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmic_jax.evaluation.compare import interval
from diffmic_jax.evaluation.resampling import resample_weights
from diffmic_jax.report import page
from diffmic_jax.report.collect import Results

GUIDANCE = (
    "the guidance alone (the network that gives a first estimate, which the diffusion refines)"
)
"""What the guidance is, where a page first names it."""
BASELINES = {
    "majority": "always the commonest class",
    "metadata": "a tree on the size, the stored form and the borders of the files",
    "pixels": "extremely randomised trees on 32 x 32 pixels",
}
CALIBRATED = 0.05
"""Distance of confidence from accuracy up to which probabilities are called believable; with
several labels, the expected calibration error."""


def verdict(
    results: Results,
    comparison: Mapping[str, Any],
    baselines: Mapping[str, Any],
    groups: np.ndarray,
    leaked: int = 0,
) -> page.Raw:
    """A few sentences: the result, the guidance, the best baseline, the probabilities.

    Args:
      results: of the split.
      comparison: what `compare.compare` returns, the guidance first.
      baselines: those of the audit.
      groups: [N] what is resampled as a whole.
      leaked: how many of the images are of a group that is in training too.
    """
    name = "auroc_macro" if results.task.multi_label else "accuracy"
    sentences = [_result(results, name)]
    if results.diffuses:
        sentences.append(_against(GUIDANCE, comparison["metrics"].get(name)))
    sentences += [_against_baseline(results, baselines, groups, name), *_probabilities(results)]
    if leaked:
        sentences.insert(
            1,
            f"{leaked:,} of these images show a lesion or patient that is in training or "
            "validation too, which makes the results look better than they are on new ones.",
        )
    first, *rest = filter(None, sentences)
    return page.Raw(
        f'<div class="verdict"><p><b>{page.text(first)}</b> {page.text(" ".join(rest))}</p></div>\n'
    )


def _result(results: Results, name: str) -> str:
    scores, who = results.scores, results.answers[0].title
    between = ""
    if low_high := scores["ci95"][name]:
        low, high = low_high
        between = f" (95% interval {low:.1%} to {high:.1%})"
    if name == "accuracy":
        return f"The {who} is right in {scores[name]:.1%} of {scores['n']:,} images{between}."
    if scores[name] is None:
        return f"No AUROC is defined on these {scores['n']:,} images."
    return f"The {who} has a mean AUROC of {scores[name]:.1%} on {scores['n']:,} images{between}."


def _against(other: str, found: Mapping[str, Any] | None, value: str = "") -> str:
    """Better, worse or neither than another classifier, by the interval of the difference."""
    if found is None or found["ci95"] is None:
        return ""
    low, high = found["ci95"]
    if low == high == 0:
        return f"It is right as often as {other}{value}, in every resample."
    gap = f"{100 * found['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    if low > 0:
        return f"It is better than {other}{value}: {gap}."
    if high < 0:
        return f"It is worse than {other}{value}: {gap}."
    return f"It is not clearly better or worse than {other}{value}: {gap}."


def _against_baseline(
    results: Results, baselines: Mapping[str, Any], groups: np.ndarray, name: str
) -> str:
    """Against the best of the classifiers that see no disease."""
    if name != "accuracy":
        found = baselines["pixels"]
        if not found or found[name] is None:
            return ""
        return f"{BASELINES['pixels'].capitalize()} have {found[name]:.1%}."
    right = {kind: _right(results, baselines[kind]) for kind in BASELINES}
    known = {kind: correct for kind, correct in right.items() if correct is not None}
    if not known:
        return ""
    best = max(known, key=lambda kind: known[kind].mean())
    own = results.probabilities.argmax(axis=1) == results.label
    gaps = own.astype(float) - known[best]
    resampled = [w @ gaps / w.sum() for w in resample_weights(groups, results.resamples)]
    low_high = interval(np.array(resampled))[0] if resampled else None
    found = {"difference": gaps.mean(), "ci95": low_high}
    shown = f"the best shortcut, {BASELINES[best]}"
    return _against(shown, found, f" ({known[best].mean():.1%})")


def _right(results: Results, found: Mapping[str, Any] | None) -> np.ndarray | None:
    """[N] where a baseline is right; None where it has not seen all of the images."""
    predictions = (found or {}).get("predictions", {})
    if not predictions.keys() >= {*results.ids}:
        return None
    names = [results.task.name(label) for label in results.label]
    pairs = zip(results.ids, names, strict=True)
    return np.array([float(predictions[image] == name) for image, name in pairs])


def _probabilities(results: Results) -> Sequence[str]:
    """Whether the probabilities can be believed, as they are and with a temperature."""
    scores, after = results.scores, results.scores["calibrated"]
    if results.task.multi_label:
        kind = "can be believed" if scores["ece"] <= CALIBRATED else "cannot be taken as they are"
        return [f"Its probabilities {kind} (calibration error {scores['ece']:.3f})."]
    mean, accuracy = results.probabilities.max(axis=1).mean(), scores["accuracy"]
    low, high = scores["ci95"]["accuracy"] or (accuracy, accuracy)
    side = "too high" if mean > accuracy else "too low"
    if abs(mean - accuracy) <= CALIBRATED and low <= mean <= high:
        verb = "can be believed on average"
    else:
        verb = f"are {'perhaps ' * bool(low <= mean <= high)}{side}"
    told = f"Its probabilities {verb}: it is {mean:.1%} sure and {accuracy:.1%} right"
    if after and results.calibrated is not None and not verb.startswith("can"):
        sure = results.calibrated.max(axis=1).mean()
        told += f"; with a temperature fitted {results.held_out}, {sure:.1%} sure"
    return [f"{told}."]
