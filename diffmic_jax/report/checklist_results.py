"""What a reporting checklist says of results: the evaluations of a run in phrases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from diffmic_jax.inference.card import cell, of_fewer_classes
from diffmic_jax.inference.evaluated import EXTERNAL, evaluations
from diffmic_jax.inference.load import Model
from diffmic_jax.method.task import SCALARS

NOT_YET = "not evaluated yet"


def about_results(model: Model, grouped: bool) -> dict[str, str]:
    """By the names that the items use; `grouped`: it is known which images belong together."""
    found, _ = evaluations(model)
    unit = "groups" if grouped else "images"
    calibrated = (model.home / "calibration.json").exists()
    held = "images that members hold out" if len(model.by_fold) > 1 else "validation"
    elsewhere = {part: each for part, each in found.items() if part.startswith(EXTERNAL)}
    own = [part for part in found if part not in elsewhere]
    headline = partial(_headline, diffuses=model.method.denoiser is not None)
    return {
        "intervals": f"95% by bootstrap, {model.config.eval.bootstrap:,} resamples of {unit}; two "
        "runs by McNemar's test and paired bootstrap (`compare`)",
        "calibration": f"temperature and conformal sets, fitted on {held} (calibration.json); "
        + (
            "the answer has a temperature already"
            if model.tempering.diffusion
            else "reported beside the uncalibrated results"
        )
        if calibrated
        else "none",
        "internal": f"evaluated parts: {', '.join(own) or NOT_YET}",
        "external": _each(elsewhere, headline),
        "results": _each(found, headline),
        "per_class": _each(found, _classes),
        "errors": _each(found, _errors),
        "calibration_results": _each(found, _calibrated),
    }


def _each(found: Mapping[str, Any], describe: Callable[[Mapping[str, Any]], str]) -> str:
    return "; ".join(f"{part}: {describe(scores)}" for part, scores in found.items()) or NOT_YET


def _headline(scores: Mapping[str, Any], diffuses: bool) -> str:
    def line(values: Mapping[str, Any], names: Sequence[str]) -> str:
        known = [name for name in names if values[name] is not None]
        return ", ".join(f"{name} {cell(values, name)}" for name in known)

    alone = line(scores["guidance"], ("accuracy", "f1_macro", "auroc_macro"))
    own = f"n = {scores['n']:,}, {line(scores, SCALARS)}"
    parts = (own, f"guidance alone {alone}" * diffuses, of_fewer_classes(scores))
    return "; ".join(filter(None, parts))


def _classes(scores: Mapping[str, Any]) -> str:
    lines = []
    for name, values in scores["per_class"].items():
        shown = values | {"ci95": scores["ci95_per_class"][name]}
        measured = (f"{m} {cell(shown, m)}" for m in ("recall", "precision", "auroc"))
        lines.append(f"{name} ({values['support']:,}): {', '.join(measured)}")
    return "; ".join(lines)


def _errors(scores: Mapping[str, Any]) -> str:
    referral = scores.get("referral")
    if not referral:
        return "see per class"
    return (
        f"{referral['errors']:,} of {scores['n']:,} wrong; the {referral['share']:.0%} of the "
        f"highest entropy contain {referral['errors_referred']:,} of them; report.html shows the "
        "most confident ones"
    )


def _calibrated(scores: Mapping[str, Any]) -> str:
    after = scores.get("calibrated")
    if not after:
        return "none"
    text = f"ECE {scores['ece']:.3f}, with temperature {after['ece']:.3f}"
    if sets := after.get("conformal"):
        text += f"; conformal sets cover {sets['coverage']:.3f} (target {sets['target']:g})"
    return text
