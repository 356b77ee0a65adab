"""The networks that a fit trains for each member: their configurations, from its classifier's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffmic_jax import recipes
from diffmic_jax.config import Config
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import FEW, HIDDEN

ON_FEATURES: dict[str, Any] = {
    "guidance.tune": "head",
    "guidance.views": 2,
    "guidance.drop_path": 0.0,
    "guidance.mix": "none",
    "guidance.class_weights": "none",
    "guidance.frozen": True,
    "guidance.warmup_epochs": 0,
    "checkpoint.every_steps": 200,
}
"""A denoiser that learns on the features of a finished classifier."""
HEAD: dict[str, Any] = {
    "guidance.tune": "head",
    "guidance.views": 8,
    "guidance.drop_path": 0.0,
    "guidance.mix": "none",
    "checkpoint.every_steps": 200,
}
"""A last layer on features that do not change; with several labels it has layers before it."""


def classifier(plan: Plan) -> Config:
    """What is fine-tuned as a whole, or its last layer where the plan says so.

    Raises:
      InputError: the fields of the plan do not go together.
    """
    return recipes.get("strong").changed(plan.changes)


def has_head(plan: Plan) -> bool:
    """Whether there are few enough images for a head to be worth its time."""
    return plan.data.learnable < FEW and plan.changes["guidance.tune"] == "full"


def head(own: Config, plan: Plan) -> Config:
    """The last layer alone, beside a classifier.

    Raises:
      InputError: the fields do not go together.
    """
    layers = {name: plan.given.get(name, value) for name, value in HIDDEN.items()}
    several = plan.data.several and own.guidance.network == "classifier"
    return own.changed(HEAD | (layers if several else {}))


def diffusion(own: Config, place: Path) -> Config:
    """A diffusion on the features of the classifier in a workdir.

    Raises:
      InputError: the fields do not go together.
    """
    on_features = own.changed(ON_FEATURES | {"guidance.checkpoint": str(place)})
    same = ("data", "model", "guidance", "checkpoint", "eval", "seed")
    kept = {name: getattr(on_features, name) for name in same}
    of_classifier = {
        "train.batch_size": own.train.batch_size,
        "sampling.flips": own.sampling.flips,
    }
    return dataclasses.replace(recipes.get("plus"), **kept).changed(of_classifier)
