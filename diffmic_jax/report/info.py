"""A run in a few facts."""

from __future__ import annotations

import json
from typing import Any

import jax

from diffmic_jax.inference.load import Model


def describe(model: Model) -> dict[str, Any]:
    """What a workdir holds, as JSON.

    Returns:
      `classes`, `recipe`, `step`, `image_size` in pixels, `parameters` (their number),
      `parameters_sha256`, and for each evaluated part `<part>_accuracy` and `<part>_f1_macro`.
    """
    facts: dict[str, Any] = {
        "classes": list(model.task.class_names),
        "recipe": model.method.name,
        "step": model.step,
        "image_size": model.method.image_size,
        "parameters": num_parameters(model),
        "parameters_sha256": model.parameters_sha256,
    }
    for path in sorted(model.workdir.glob("eval/*/metrics.json")):
        scores = json.loads(path.read_text())
        for name in ("accuracy", "f1_macro"):
            facts[f"{path.parent.name}_{name}"] = scores[name]
    return facts


def num_parameters(model: Model) -> int:
    """The number of parameters of both networks."""
    return sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"]))
