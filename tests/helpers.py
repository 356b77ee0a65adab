"""Small things that tests of several packages need."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from diffmic_jax.training import parallel
from diffmic_jax.types import Array, Variables


def check(what: str, ours: Array, reference: np.ndarray, atol: float) -> None:
    """Assert agreement in shape and value; `pytest -s` shows the largest error of each."""
    ours = np.asarray(ours, np.float64)
    assert ours.shape == reference.shape, what
    error = np.abs(ours - reference).max()
    print(f"golden {what}: largest error {error:.1e} of {atol:.1e} allowed")
    assert error <= atol, what


def channels_last(array: np.ndarray) -> np.ndarray:
    """[..., C, H, W] to [..., H, W, C]."""
    return np.moveaxis(array, -3, -1)


def arbitrary_variables(shapes: Variables) -> Variables:
    """Values for the shapes of a network; compiling a random initialisation takes seconds.

    Args:
      shapes: `{"params": ..., "batch_stats": ...}`, as `jax.eval_shape` gives them.
    """
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[0].key == "batch_stats" or path[-1].key == "scale":
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 1
            value = rng.uniform(-1, 1, leaf.shape) * np.sqrt(3 / fan_in)
        return jax.numpy.asarray(value, leaf.dtype)

    return jax.tree.map_with_path(fill, shapes)


def replicated(tree: Any) -> Any:
    """Shapes and types as `jax.eval_shape` gives them, with a sharding over all devices."""
    sharding = parallel.replicated(parallel.make_mesh())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def whole_scores(scores: dict[str, Any]) -> dict[str, Any]:
    """A `metrics.json` with all else that an evaluation writes of a classifier and its guidance."""
    rest = dict.fromkeys(("ci95", "per_class", "ci95_per_class", "operating_points"), {})
    names = ("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece")
    rest |= {"n": 1, **dict.fromkeys((*names, "confusion", "referral"))}
    return rest | scores | {"guidance": rest | scores.get("guidance", scores)}
