"""What a label is: how many classes an image has, their names, and what can be measured of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real

from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX, Link
from diffmic_jax.errors import InputError
from diffmic_jax.types import Array

SCALARS = (
    "accuracy",
    "f1_macro",
    "balanced_accuracy",
    "auroc_macro",
    "f1_weighted",
    "average_precision",
    "mcc",
    "kappa_quadratic",
    "nll",
    "brier",
    "rps",
    "ece",
)
"""Scalar metrics of an evaluation; null where a task does not have one."""
SINGLE_LABEL_ONLY = ("accuracy", "balanced_accuracy", "mcc", "kappa_quadratic", "rps")
ORDINAL = ("kappa_quadratic", "rps")
"""Of these, the metrics of classes that have an order."""
SEPARATOR = "|"
"""Between the names of several classes of one image."""
DOUBT = "?"
"""Before the name of a class of which it is not known whether it applies."""
UNKNOWN = -1
"""In the place of 0 or 1 for such a class; no loss and no metric counts it."""


def name_classes(names: Iterable[str], members: Iterable[Any]) -> str:
    """A set of classes [C], zeros, ones and `UNKNOWN`, as text 'a|?b'."""
    return SEPARATOR.join(
        DOUBT * (member < 0) + name for name, member in zip(names, members, strict=True) if member
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """The kind of label that a data set has.

    A label is an int32 class index, or with `multi_label` a vector [C] of zeros and ones, and of
    `UNKNOWN`.
    """

    class_names: tuple[str, ...]
    """The C classes in label order."""
    multi_label: bool = False
    """Any number of classes applies to an image, not exactly one."""
    ordered: bool = True
    """The order of the classes is one of degrees, not only that of a list."""

    @classmethod
    def of_checkpoint(cls, meta: Mapping[str, Any]) -> Task:
        """The task that a checkpoint's metadata describe."""
        return cls(
            class_names=tuple(meta["class_names"]),
            multi_label=meta["multi_label"],
            ordered=meta.get("ordered", True),
        )

    def for_checkpoint(self) -> dict[str, Any]:
        """As JSON, the inverse of `of_checkpoint`."""
        return dataclasses.asdict(self) | {"class_names": list(self.class_names)}

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def link(self) -> Link:
        """Softmax, or sigmoid for several labels."""
        return SIGMOID if self.multi_label else SOFTMAX

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scalar metrics that are defined for such labels."""
        undefined: tuple[str, ...] = SINGLE_LABEL_ONLY if self.multi_label else ()
        undefined += () if self.ordered else ORDINAL
        return tuple(name for name in SCALARS if name not in undefined)

    def targets(
        self, label: Int[Array, " b"] | Real[Array, "b c"]
    ) -> Float[Array, "b {self.num_classes}"]:
        """Clean labels y0 [B, C] float32: one-hot of class indices [B], multi-hot [B, C] as is.

        What is unknown is NaN, also after labels are mixed.
        """
        if self.multi_label:
            return jnp.where(jnp.asarray(label) < 0, jnp.nan, jnp.asarray(label, jnp.float32))
        return jax.nn.one_hot(label, self.num_classes)

    def correct(
        self, logits: Float[Array, "b c"], target: Float[Array, "b c"]
    ) -> Float[Array, " b"] | Float[Array, "b c"]:
        """How right logits [B, C] are, 0 or 1: [B], or with several labels [B, C].

        Of mixed images, whose labels [B, C] are no whole numbers, it is the share that is right.
        NaN where the label is.
        """
        if self.multi_label:
            return jnp.where(logits > 0, target, 1 - target)
        return (target * jax.nn.one_hot(logits.argmax(-1), self.num_classes)).sum(axis=-1)

    def multi_hot(
        self, label: Int[np.ndarray, " n"] | Real[np.ndarray, "n c"] | Bool[np.ndarray, "n c"]
    ) -> Float64[np.ndarray, "n {self.num_classes}"]:
        """`targets` on the host and in float64: [N, C]; what is unknown is 0, see `known`."""
        if self.multi_label:
            return np.maximum(np.asarray(label, np.float64), 0)
        one_hot: np.ndarray = np.eye(self.num_classes)[label]
        return one_hot

    def known(self, label: np.ndarray) -> Bool[np.ndarray, "n {self.num_classes}"]:
        """Which entries of `multi_hot` are known: [N, C]."""
        if self.multi_label:
            return np.asarray(label) >= 0
        return np.ones((len(label), self.num_classes), bool)

    def predicted(
        self, probabilities: Float[np.ndarray, "n c"], thresholds: Sequence[float] = ()
    ) -> Int[np.ndarray, " n"] | Bool[np.ndarray, "n c"]:
        """Predicted labels of probabilities [N, C].

        Args:
          probabilities: [N, C].
          thresholds: [C] with several labels: the probability from which a class is predicted;
            default 0.5.

        Returns:
          [N] the most probable class, the first on ties; with several labels [N, C] bool.
        """
        if self.multi_label:
            return probabilities >= (thresholds or 0.5)
        most_probable: np.ndarray = probabilities.argmax(axis=1)
        return most_probable

    def name(self, label: Any) -> str:
        """A label as text: the class name, or with several labels the names as 'a|b'."""
        return self.names_of(label) if self.multi_label else self.class_names[int(label)]

    def names_of(self, members: Iterable[Any]) -> str:
        """As `name_classes`."""
        return name_classes(self.class_names, map(int, members))

    def counts(self, label: Int[np.ndarray, " n"] | Real[np.ndarray, "n c"]) -> tuple[int, ...]:
        """Images of each class, [C]."""
        if self.multi_label:
            return tuple((label > 0).sum(axis=0).tolist())
        return tuple(np.bincount(label, minlength=self.num_classes).tolist())

    def check(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Refuse labels that are not of this task.

        Args:
          probabilities: [N, C].
          labels: [N], or [N, C] with several labels.

        Raises:
          ValueError: the shapes do not fit each other or the task.
          InputError: there is no image, or a label is out of range.
        """
        shape = (len(labels), self.num_classes)
        if probabilities.shape != shape or labels.shape != shape[: 1 + self.multi_label]:
            raise ValueError(
                f"probabilities {probabilities.shape} and labels {labels.shape} do not belong to "
                f"the {self.num_classes} classes"
            )
        if not len(labels):
            raise InputError("metrics: the split has no image; choose a split that has some")
        top = 1 if self.multi_label else self.num_classes - 1
        if labels.min() < (UNKNOWN if self.multi_label else 0) or labels.max() > top:
            raise InputError(
                f"metrics: labels run from {labels.min()} to {labels.max()}; they must be in "
                f"0..{top}"
            )
