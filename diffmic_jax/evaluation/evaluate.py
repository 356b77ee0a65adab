"""Evaluation of a split: every image once, whatever the batch size and the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffmic_jax.evaluation import metrics
from diffmic_jax.evaluation.referral import referral
from diffmic_jax.method.build import Recipe
from diffmic_jax.method.train_step import fold, predict_step
from diffmic_jax.nn.folded import Folded
from diffmic_jax.training import parallel
from diffmic_jax.types import Array, Batch, Variables


class Answers(NamedTuple):
    """What is kept of the predictions of N images."""

    probabilities: np.ndarray
    """[N, C]."""
    spread: np.ndarray
    """[N, C] standard deviation between the draws."""
    guidance: np.ndarray
    """[N, C] probabilities of the guidance alone."""
    label: np.ndarray
    """[N] or [N, C]."""
    draws: np.ndarray
    """[N, S, C] what each draw says by itself, read out as the mean of the draws is."""


Predictor = Callable[[Batch, Array], Answers]
"""From a batch on the host and the random key of the draws to the answers of its real rows."""


def make_predictor(recipe: Recipe, mesh: Mesh) -> Callable[[Variables], Predictor]:
    """The prediction step, compiled, with only what evaluation needs as its result.

    Returns:
      A function that makes parameters and statistics ready, once for all batches.
    """

    def step(ready: tuple[Variables, Folded | None], batch: Batch, key: Array) -> tuple[Array, ...]:
        variables, denoiser = ready
        answer = predict_step(recipe, variables, batch, key, denoiser)
        guidance = recipe.link.activate(answer.guidance.fused)
        draws = jax.vmap(lambda draw: recipe.sampling.readout(draw[None]), 0, 1)(answer.y0_hat)
        return answer.probabilities, answer.spread, guidance, draws

    compiled, prepare = parallel.jit_predict(mesh, step), jax.jit(partial(fold, recipe))

    def predictor(variables: Variables) -> Predictor:
        ready = variables, prepare(variables)

        def predict(batch: Batch, key: Array) -> Answers:
            real = np.asarray(batch.mask) > 0
            *parts, draws = compiled(ready, parallel.from_all_rows(mesh, batch), key)
            return Answers(*(np.asarray(part)[real] for part in (*parts, batch.label, draws)))

        return predict

    return predictor


def answer(
    predict: Predictor,
    batches: Iterable[Batch],
    key: Array,
    *,
    title: str = "",
) -> Answers:
    """Run a predictor over padded batches and join the real rows, in order."""
    show = None if title and parallel.is_main_process() else True
    bar = tqdm(batches, desc=title, unit="batch", leave=False, disable=show)
    parts = [predict(batch, key) for batch in bar]
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def score(
    answers: Answers,
    class_names: tuple[str, ...],
    *,
    groups: np.ndarray | None = None,
    bootstrap: int = 0,
    thresholds: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> dict[str, Any]:
    """Metrics of the diffusion, and under `guidance` those of the guidance alone.

    Args:
      answers: of a split.
      class_names: in label order.
      groups: [N] what is resampled as one; default each image.
      bootstrap: resamples for the intervals.
      thresholds: multi-label, of the diffusion's and of the guidance's classes.
    """
    labels = answers.label
    if groups is None:
        groups = np.arange(len(labels))

    def compute(probabilities: np.ndarray, thresholds: Sequence[float]) -> dict[str, Any]:
        found = metrics.compute(
            probabilities,
            labels,
            class_names,
            groups=groups,
            bootstrap=bootstrap,
            thresholds=thresholds,
        )
        found["referral"] = (
            referral(probabilities, labels, groups=groups, bootstrap=bootstrap)
            if labels.ndim == 1
            else None
        )
        return found

    own, alone = thresholds
    return compute(answers.probabilities, own) | {"guidance": compute(answers.guidance, alone)}


def table(scores: dict[str, Any], diffuses: bool = True) -> str:
    """A small text table of the headline metrics: diffusion above guidance alone.

    Without diffusion these are the same, and told once.
    """
    names = ("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece")
    lines = [f"{'':16}" + "".join(f"{name:>19}" for name in names)]
    both = [("diffusion", scores), ("guidance alone", scores["guidance"])]
    shown = both if diffuses else [("classifier", scores)]
    for title, values in shown:
        cells = ["-" if values[name] is None else f"{values[name]:.4f}" for name in names]
        lines.append(f"{title:16}" + "".join(f"{cell:>19}" for cell in cells))
    low_high = scores["ci95"].get("accuracy")
    if low_high:
        lines.append(
            f"{scores['n']} images; 95% interval of the {shown[0][0]}'s accuracy "
            f"{low_high[0]:.4f} to {low_high[1]:.4f}"
        )
    return "\n".join(lines)
