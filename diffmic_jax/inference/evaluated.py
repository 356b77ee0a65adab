"""Which evaluations in a workdir are of a model: `metrics.json` says of what it is.

A best checkpoint may change after an evaluation, and results of other files may be copied into a
workdir. Whatever shows results asks here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmic_jax.data.files import fits, read_json
from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import Model

METRICS = "metrics.json"
EXTERNAL = "external"
"""The folder of evaluations on other data; those on the parts of the run's own are in `eval`."""
PROVENANCE = ("step", "state_sha256", "sampling")
"""Keys of `metrics.json` that say what it is of; files of earlier versions have none."""

NUMBER = (int, float)
_MAYBE = (*NUMBER, None)
_INTERVAL = (None, [NUMBER, NUMBER])
_CLASS = {"support": NUMBER, "recall": _MAYBE, "precision": _MAYBE, "auroc": _MAYBE}
_REFERRAL = {
    **dict.fromkeys(("share", "errors", "errors_referred"), NUMBER),
    **dict.fromkeys(("accuracy_kept", "error_auroc", "gain"), _MAYBE),
    "gain_ci95": _INTERVAL,
}
_ONE = {
    "n": int,
    **dict.fromkeys(("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro"), _MAYBE),
    **dict.fromkeys(("nll", "ece"), _MAYBE),
    "ci95": {...: _INTERVAL},
    "per_class": {...: _CLASS},
    "ci95_per_class": {...: {...: _INTERVAL}},
    "operating_points": {...: {...: _MAYBE}},
    "confusion": (None, [[NUMBER, ...], ...]),
    "referral": (None, _REFERRAL),
}
_SHAPE = {**_ONE, "guidance": _ONE}
"""Of `metrics.json`: what is shown of it wherever results are shown."""
_SAMPLING = {...: (str, bool, *_MAYBE, [NUMBER, ...])}
_OF_WHAT = {"step": int, "state_sha256": str, "sampling": _SAMPLING}


def read_scores(path: Path) -> dict[str, Any]:
    """The scores of a `metrics.json`, which may be a stranger's.

    Raises:
      InputError: it is not what `evaluate` writes.
    """
    found = read_json(path)
    own = {name: shape for name, shape in _OF_WHAT.items() if name in found}
    if not fits(found, {**_SHAPE, **own}):
        raise InputError(f"{path}: not what evaluate writes; delete it, and evaluate again")
    return found


def folder_of(model: Model, split: str) -> Path:
    """Where the evaluation of a model on a part of its data goes."""
    return model.home / "eval" / split


def difference(model: Model, scores: Mapping[str, Any]) -> str:
    """In which way the scores are of another model, in words; '' if they are not."""
    wanted = model.provenance
    found = {name: scores[name] for name in PROVENANCE if name in scores}
    if found.get("step", model.step) != model.step:
        return f"of step {found['step']}, not {model.step}"
    if found.get("state_sha256", model.fingerprint) != model.fingerprint:
        return f"of another training's step {model.step}"
    theirs = found.get("sampling", wanted["sampling"])
    changed = [
        f"{name} {theirs.get(name)}, not {value}"
        for name, value in wanted["sampling"].items()
        if theirs.get(name) != value
    ]
    return f"of another sampling ({'; '.join(changed)})" if changed else ""


def is_current(model: Model, split: str) -> bool:
    """Whether the evaluation of a part is there, and of this model."""
    path = folder_of(model, split) / METRICS
    return path.exists() and not difference(model, read_scores(path))


def evaluations(model: Model) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The evaluated parts of a model, and after them its other data, as `external/NAME`.

    Returns:
      The scores of each part, and of each part that was evaluated with something else, with what.
    """
    own: dict[str, dict[str, Any]] = {}
    other: dict[str, str] = {}
    for folder in ("eval", EXTERNAL):
        for path in sorted((model.home / folder).glob(f"*/{METRICS}")):
            part = path.parent.name if folder == "eval" else f"{EXTERNAL}/{path.parent.name}"
            scores = read_scores(path)
            if differs := difference(model, scores):
                other[part] = differs
            else:
                own[part] = scores
    return own, other
