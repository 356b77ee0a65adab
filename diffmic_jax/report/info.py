"""A run in a few facts."""

from __future__ import annotations

from typing import Any

import jax

from diffmic_jax.inference.evaluated import evaluations
from diffmic_jax.inference.load import Model
from diffmic_jax.nn import preprocess, trunks


def describe(model: Model) -> dict[str, Any]:
    """What a workdir holds, as JSON.

    Returns:
      `classes`, `recipe`, `step`, `image_size` in pixels, `parameters` (their number),
      `parameters_sha256`, and for each evaluated part `<part>_accuracy` and `<part>_f1_macro`; or
      `<part>_not_shown` where the evaluation is of another checkpoint, and of which.
    """
    facts: dict[str, Any] = {
        "classes": list(model.task.class_names),
        "recipe": model.method.name,
        "step": model.step,
        "image_size": model.method.image_size,
        "parameters": num_parameters(model),
        "parameters_sha256": model.parameters_sha256,
    }
    found, other = evaluations(model)
    for part, scores in found.items():
        for name in ("accuracy", "f1_macro"):
            facts[f"{part}_{name}"] = scores[name]
    for part, what in other.items():
        facts[f"{part}_not_shown"] = what
    return facts


def describe_trunks() -> list[dict[str, Any]]:
    """Every trunk of the registry and the images that it takes, as JSON.

    Returns:
      For each its `name`; the `size` of its training's images and the `multiple` that sides are of,
      both in pixels; `mean` and `std` of each channel in units of 255; the `interpolation` of its
      training's images; and the names that it has in timm, `aliases`.
    """
    return [_trunk(name) for name in trunks.names()]


def _trunk(name: str) -> dict[str, Any]:
    entry, own = trunks.entry(name), preprocess.of(trunks.build(name))
    return {
        "name": name,
        "size": own.size,
        "multiple": entry.multiple,
        "mean": list(own.mean),
        "std": list(own.std),
        "interpolation": own.interpolation,
        "aliases": list(entry.aliases),
    }


def trunks_table(found: list[dict[str, Any]]) -> str:
    """What `describe_trunks` found, a line for each."""
    lines = [f"{'name':20}{'px':>4}{'multiple':>10}  {'mean':19}{'std':19}{'resized':10}also"]
    for row in found:
        mean, std = (" ".join(f"{value:.3f}" for value in row[name]) for name in ("mean", "std"))
        lines.append(
            f"{row['name']:20}{row['size']:>4}{row['multiple']:>10}  {mean:19}{std:19}"
            f"{row['interpolation']:10}{', '.join(row['aliases'])}".rstrip()
        )
    return "\n".join(lines)


def num_parameters(model: Model) -> int:
    """The number of parameters of all networks that answer."""
    trees = [each.variables["params"] for each in model.members]
    return sum(leaf.size for leaf in jax.tree.leaves(trees))
