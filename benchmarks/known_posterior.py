"""How near each network comes to p(y | x) where that is known: diffusions and plain cross-entropy.

    python benchmarks/known_posterior.py --out=runs/known-posterior

Features are normal; labels are drawn from probabilities that two of the features determine and that
are never certain, as where raters disagree. Every network sees the same features and labels in the
same order; all but `linear` have three hidden layers of the same width. The guidance that the
diffusions start with is a linear layer that learned nothing, so all they know is their own.

OUT/study.csv has, for each seed, the mean total variation from the true probabilities on new
features, 0..1: after several numbers of steps with fresh examples in each; and with 1,000 examples
in all, at the last step and at the one of forty looks that has the lowest NLL on 250 more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax import recipes
from diffmic_jax.data.files import write_table
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.predict_step import predict_step
from diffmic_jax.method.state import init_state
from diffmic_jax.method.task import Task
from diffmic_jax.method.train_step import train_step
from diffmic_jax.types import Array, Batch, Variables

BATCH, WIDTH = 128, 64
FEATURES = 64
"""Of a ResNet18 of width 8, which is in the state and never runs."""
COMMON = {
    "data.image_size": 32,
    "model.width": 8,
    "guidance.backbone": "resnet18",
    "guidance.pretrained": "",
    "guidance.tune": "head",
    "guidance.optimizer": "amsgrad",
    "guidance.weight_decay": 0.0,
    "guidance.learning_rate": 1e-3,
    "guidance.label_smoothing": 0.0,
    "guidance.warmup_epochs": 0,
    "sampling.flips": "none",
}
PLAIN = {"guidance.hidden": (WIDTH, WIDTH, WIDTH), "guidance.rate": "constant"}
DIFFUSION = {
    "guidance.network": "classifier",
    "guidance.frozen": True,
    "denoiser.encoder": "guidance",
    "denoiser.pretrained": "",
    "denoiser.local_encoder": "",
    "denoiser.conditioning": "fused",
    "denoiser.gates": "ones",
    "denoiser.feature_dim": WIDTH,
    "train.mmd_weight": 0.0,
    "train.timestep_weight": "label",
    "sampling.num_steps": 10,
    "sampling.num_samples": 16,
    "sampling.start_std": "matched",
    "sampling.readout": "chain",
}
NOISE = {"denoiser.parameterization": "eps", "train.timestep_weight": "noise"}
PUBLISHED = {
    "sampling.num_steps": 100,
    "sampling.num_samples": 1,
    "sampling.start_std": "unit",
    "sampling.readout": "clip",
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("strong", PLAIN),
    "plain-dropout": ("strong", PLAIN | {"guidance.dropout": 0.5}),
    "linear": ("strong", PLAIN | {"guidance.hidden": ()}),
    "eps-published": ("v1", DIFFUSION | NOISE | PUBLISHED),
    "eps": ("v1", DIFFUSION | NOISE),
    "v": ("v1", DIFFUSION | {"denoiser.parameterization": "v"}),
    "y0": ("v1", DIFFUSION | {"denoiser.parameterization": "y0"}),
    "edm": ("v1", DIFFUSION | {"denoiser.parameterization": "edm", "train.timestep_weight": "edm"}),
    "posterior": (
        "v1",
        DIFFUSION
        | {"denoiser.parameterization": "posterior", "train.timestep_weight": "noise"}
        | {"train.noise_weight": 0.0, "train.label_weight": 1.0},
    ),
}
"""Recipe and changes of each network."""


def make_method(row: str, steps: int, **changes: Any) -> Method:
    """The method of a row, for a training of one epoch of `steps` steps; `a__b` changes a.b."""
    recipe, own = ROWS[row]
    own = COMMON | own | {name.replace("__", "."): x for name, x in changes.items()}
    config = recipes.get(recipe).changed(own | {"train.epochs": 1, "train.batch_size": BATCH})
    return build(config, Task(class_names=("a", "b", "c")), steps_per_epoch=steps)


def probabilities(features: Float[Array, "n f"]) -> Float[Array, "n 3"]:
    """p(y | x): three classes by two of the features, never certain."""
    logits = jnp.stack([features[:, 0], features[:, 1], 0 * features[:, 0]], axis=1)
    return 0.1 + 0.7 * jax.nn.softmax(3 * logits)


def draw(key: Array, count: int) -> Batch:
    """Features, and labels drawn from their probabilities."""
    of_features, of_labels = jax.random.split(key)
    x = jax.random.normal(of_features, (count, FEATURES))
    label = jax.random.categorical(of_labels, jnp.log(probabilities(x)))
    return Batch(x, label.astype(jnp.int32), jnp.ones(count))


def trained(method: Method, seed: int, examples: int, parts: int) -> Iterator[Variables]:
    """The variables at the end of each part of an epoch of fresh examples, or of the same few."""
    init, order, data, noise = jax.random.split(jax.random.key(seed), 4)
    few = draw(data, examples) if examples else None

    def step(state, key):
        if few is None:
            batch = draw(key, BATCH)
        else:
            chosen = jax.random.choice(key, examples, (BATCH,), replace=False)
            batch = jax.tree.map(lambda part: part[chosen], few)
        return train_step(method, state, batch, noise)[0], None

    scan = jax.jit(partial(jax.lax.scan, step))
    state = init_state(method, init)
    for keys in jax.random.split(order, (parts, method.steps_per_epoch // parts)):
        state = scan(state, keys)[0]
        yield state.variables()


def predicted(method: Method) -> Callable[[Variables, Batch], Float[np.ndarray, "n 3"]]:
    """A compiled prediction from features."""
    predict = jax.jit(partial(predict_step, method))

    def of(variables: Variables, batch: Batch) -> np.ndarray:
        batch = batch._replace(image=batch.image[:, None])
        return np.asarray(predict(variables, batch, jax.random.key(4)).probabilities)

    return of


def total_variation(found: Float[np.ndarray, "n 3"], batch: Batch) -> float:
    """Mean distance between predicted and true probabilities, 0..1."""
    return float(np.abs(found - probabilities(batch.image)).sum(axis=1).mean() / 2)


def measure(
    method: Method, seed: int, examples: int = 0, parts: int = 1, held: int = 250
) -> dict[str, float]:
    """Total variations: at the `last` step, and of several parts at the one `chosen` by NLL.

    Args:
      method: what to train, for its whole epoch.
      seed: of the examples, the weights and the noise.
      examples: how many there are; 0: fresh ones in every step.
      parts: after how many parts of the epoch to look.
      held: number of further examples, which choose.
    """
    predict = predicted(method)
    choosing, new = draw(jax.random.key(seed + 2**20), held), draw(jax.random.key(2**21), 2048)
    looks: list[tuple[float, float]] = []
    for variables in trained(method, seed, examples, parts):
        p = predict(variables, choosing)[np.arange(held), choosing.label]
        nll = -np.log(np.maximum(p, np.finfo(np.float32).eps)).mean()
        looks.append((float(nll), total_variation(predict(variables, new), new)))
    return {"last": looks[-1][1]} | ({"chosen": min(looks)[1]} if parts > 1 else {})


def main() -> None:
    """Train every row with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--steps", default="400,4000")
    parser.add_argument("--few_steps", type=int, default=1000)
    args = parser.parse_args()
    runs = [(int(steps), 0, 1) for steps in args.steps.split(",")]
    runs.append((args.few_steps, 1000, 40))
    lines: list[dict[str, Any]] = []
    for row in args.rows.split(","):
        for seed in range(args.seeds):
            line: dict[str, Any] = {"row": row, "seed": seed, "split": "test", "status": "done"}
            for steps, examples, parts in runs:
                began = time.process_time()
                found = measure(make_method(row, steps), seed, examples, parts)
                name = f"{steps}_of_{examples}" if examples else f"{steps}"
                line |= {f"{name}.{look}": round(x, 5) for look, x in found.items()}
                line[f"{name}.cpu_seconds"] = round(time.process_time() - began, 2)
            lines.append(line)
            print(line, flush=True)
            write_table(args.out / "study.csv", list(lines[0]), [list(x.values()) for x in lines])


if __name__ == "__main__":
    main()
