"""Which evaluations in a workdir are of a model: `metrics.json` says of what it is.

A best checkpoint may change after an evaluation, and results of other files may be copied into a
workdir. Whatever shows results asks here first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmic_jax.inference.load import Model

METRICS = "metrics.json"
PROVENANCE = ("step", "state_sha256", "sampling")
"""Keys of `metrics.json` that say what it is of; files of earlier versions have none."""


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
    return path.exists() and not difference(model, json.loads(path.read_text()))


def evaluations(model: Model) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The evaluated parts of a model.

    Returns:
      The scores of each part, and of each part that was evaluated with something else, with what.
    """
    own: dict[str, dict[str, Any]] = {}
    other: dict[str, str] = {}
    for path in sorted((model.home / "eval").glob(f"*/{METRICS}")):
        scores = json.loads(path.read_text())
        if differs := difference(model, scores):
            other[path.parent.name] = differs
        else:
            own[path.parent.name] = scores
    return own, other
