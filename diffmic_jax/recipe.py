"""From a configuration to the objects of a run: the one place where names become things.

A recipe is a set of values, not a branch of the code. `RECIPES` holds what a named recipe decides;
`resolve` fills those values into every field that the user left open, `make_recipe` builds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from diffmic_jax.data.cache import ON_BAD_IMAGE
from diffmic_jax.diffusion import losses, priors, samplers
from diffmic_jax.diffusion.schedules import KINDS, Schedule, make_schedule
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.resnet import STAGE_SIZES, resnet
from diffmic_jax.types import Array, Guidance, InputError, Prior

RECIPES: dict[str, dict[str, Any]] = {
    # The paper, with evaluation that can be defended.
    "v1": {
        "guidance.crop_channels": "all",
        "denoiser.conditioning": "dual",
        "denoiser.encoder_updates": 1,
        "diffusion.precision": "float64",
        "sampling.start": "full",
        "sampling.readout": "clip",
    },
    # What the authors' public code computes.
    "v1_public": {
        "guidance.crop_channels": "first",
        "denoiser.conditioning": "fused",
        "denoiser.encoder_updates": 3,
        "diffusion.precision": "public",
        "sampling.start": "truncated",
        "sampling.readout": "softmax",
        "sampling.num_samples": 1,
    },
}
NETWORKS = ("guidance", "denoiser")


@dataclasses.dataclass(frozen=True)
class Link:
    """What the guidance's logits mean."""

    activate: Callable[[Array], Array]
    """Logits [B, C] -> probabilities [B, C]."""
    loss: Callable[[Array, Array], Array]
    """(logits [B, C], labels [B, C]) -> [B]."""


SINGLE_LABEL = Link(jax.nn.softmax, losses.cross_entropy)
MULTI_LABEL = Link(jax.nn.sigmoid, losses.binary_cross_entropy)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training in which some of the networks learn."""

    name: str
    learns: tuple[str, ...]
    steps: int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How labels are drawn at prediction."""

    run: Callable[..., Array]
    """(eps_fn, y_init, prior_mean, noise [n, ...]) -> y0_hat; `return_states` as in samplers."""
    num_steps: int
    num_samples: int
    readout: Callable[[Array], Array]
    """Draws [S, B, C] -> probabilities [B, C]."""


@dataclasses.dataclass(frozen=True)
class Optimization:
    """What the optimizers need to know."""

    learning_rate: float
    """Peak rate of the denoiser."""
    guidance_learning_rate: float
    warmup_steps: float
    """Joint steps over which the denoiser's rate rises from 0."""
    joint_steps: int
    clip_norm: float
    """Largest global norm of the denoiser's gradients."""
    ema: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that a training or prediction step runs; hashable by identity."""

    name: str
    num_classes: int
    image_size: int
    link: Link
    schedule: Schedule
    guidance: DCG
    denoiser: Denoiser
    priors: Callable[[Guidance], tuple[Prior, ...]]
    mmd_weight: float
    optimization: Optimization
    phases: tuple[Phase, ...]
    sampling: Sampling
    learns: tuple[str, ...] = NETWORKS

    @property
    def num_steps(self) -> int:
        """Training steps in all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def warmup_steps(self) -> int:
        """Steps before the last phase, in which the denoiser does not learn."""
        return self.num_steps - self.phases[-1].steps

    def in_phase(self, phase: Phase) -> Recipe:
        """The same recipe with only that phase's networks learning."""
        return dataclasses.replace(self, learns=phase.learns)

    def phase_at(self, step: int) -> Phase:
        """The phase that trains step `step` (0-based)."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def softmax_readout(y0_hat: Array, link: Link) -> Array:
    """Softmax (multi-label: sigmoid) of the mean draw (public v1): [S, B, C] -> [B, C]."""
    return link.activate(y0_hat.mean(axis=0))


def clip_readout(y0_hat: Array, link: Link) -> Array:
    """Mean draw clipped to [0, 1] and, unless multi-label, renormalised: [S, B, C] -> [B, C].

    The mean of y0_hat estimates the class posterior, so no squashing is wanted. An answer without
    any positive entry carries no information and becomes uniform.
    """
    mean = jnp.clip(y0_hat.mean(axis=0), 0, 1)
    if link is MULTI_LABEL:
        return mean
    total = mean.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, mean / jnp.where(total > 0, total, 1), 1 / mean.shape[-1])


READOUTS = {"softmax": softmax_readout, "clip": clip_readout}
PRIORS = {"fused": (priors.fused_priors, 1), "dual": (priors.dual_priors, 3)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SAMPLERS: dict[str, Callable] = {"ancestral": samplers.ancestral, "ddim": samplers.ddim}

CHOICES: dict[str, Collection[str]] = {
    "data.on_bad_image": ON_BAD_IMAGE,
    "guidance.backbone": STAGE_SIZES,
    "guidance.stem": ("imagenet", "small"),
    "guidance.crop_channels": ("all", "first"),
    "denoiser.encoder": STAGE_SIZES,
    "denoiser.stem": ("imagenet", "small"),
    "denoiser.conditioning": PRIORS,
    "diffusion.schedule": KINDS,
    "diffusion.precision": ("float64", "public"),
    "train.dtype": DTYPES,
    "sampling.sampler": SAMPLERS,
    "sampling.start": ("full", "truncated", "leading"),
    "sampling.readout": READOUTS,
}
"""The words that a field may hold."""


def _ranges(config: ml_collections.ConfigDict) -> dict[str, tuple[float, float]]:
    """The smallest and the largest number that a field may hold."""
    any_size, share, beta = (1, math.inf), (0, 1), (1e-9, 0.9999)
    return {
        "seed": (0, 2**32 - 1),
        "data.image_size": any_size,
        "data.rotation": (0, 180),
        "data.num_workers": (0, math.inf),
        "data.max_pixels": any_size,
        "guidance.width": any_size,
        "guidance.num_regions": any_size,
        "guidance.region_size": (1, config.data.image_size),
        "guidance.warmup_epochs": (0, math.inf),
        "guidance.learning_rate": (0, math.inf),
        "denoiser.width": any_size,
        "denoiser.feature_dim": any_size,
        "denoiser.encoder_updates": any_size,
        "diffusion.num_train_steps": (2, math.inf),
        "diffusion.beta_start": beta,
        "diffusion.beta_end": beta,
        "train.batch_size": any_size,
        "train.epochs": any_size,
        "train.max_steps": (0, math.inf),
        "train.learning_rate": (0, math.inf),
        "train.warmup_fraction": share,
        "train.clip_norm": (1e-9, math.inf),
        "train.mmd_weight": (0, math.inf),
        "train.log_every": any_size,
        "sampling.num_steps": (1, config.diffusion.num_train_steps),
        "sampling.num_samples": any_size,
        "sampling.eta": share,
        "checkpoint.every_steps": (0, math.inf),
        "eval.batch_size": any_size,
        "eval.bootstrap": (0, math.inf),
    }


def _value(config: ml_collections.ConfigDict, field: str) -> Any:
    """The value of a field like `train.epochs`."""
    for name in field.split("."):
        config = config[name]
    return config


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """Refuse a word that a field does not know.

    Raises:
      InputError: naming the field and the choices.
    """
    if value not in choices:
        raise InputError(f"config.{field}={value!r} is unknown; choose one of {', '.join(choices)}")


def _check_values(config: ml_collections.ConfigDict) -> None:
    """Refuse a resolved configuration with a value that cannot work."""
    for field, choices in CHOICES.items():
        check_choice(field, _value(config, field), choices)
    for field, (low, high) in _ranges(config).items():
        value = _value(config, field)
        if not (low <= value <= high and math.isfinite(value)):
            fix = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise InputError(f"config.{field}={value} is out of range; give {fix}")
    clip = tuple(config.sampling.clip)
    if clip and not (len(clip) == 2 and clip[0] < clip[1]):
        raise InputError(f"config.sampling.clip={clip} is no range; give (low, high) or ()")


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with every open field decided by its recipe.

    Raises:
      InputError: for an unknown recipe, or a field whose value cannot work.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    check_choice("recipe", config.recipe, RECIPES)
    values = dict(RECIPES[config.recipe])
    # Many draws are affordable, and needed, where the chain is short.
    values.setdefault("sampling.num_samples", 8 if config.sampling.num_steps <= 10 else 1)
    for field, value in values.items():
        group, name = field.split(".")
        if config[group][name] is None:
            config[group][name] = value
    _check_values(config)
    return config


def _sampling(config: ml_collections.ConfigDict, schedule: Schedule, link: Link) -> Sampling:
    """The sampler of `config.sampling` over a schedule."""
    try:
        steps = samplers.timesteps(schedule, config.num_steps, config.start)
    except ValueError as error:
        raise InputError(f"config.sampling.start={config.start!r}: {error}") from error

    def run(
        eps_fn: Callable,
        y_init: Array,
        prior_mean: Array,
        noise: Array,
        return_states: bool = False,
    ) -> Array:
        extra: dict[str, Any] = {"return_states": return_states}
        if config.sampler == "ddim":
            extra |= {"eta": config.eta, "clip": tuple(config.clip) or None}
        return SAMPLERS[config.sampler](eps_fn, schedule, y_init, prior_mean, steps, noise, **extra)

    readout = partial(READOUTS[config.readout], link=link)
    return Sampling(run, len(steps), config.num_samples, readout)


def _networks(config: ml_collections.ConfigDict, num_classes: int) -> tuple[DCG, Denoiser]:
    """The two networks."""
    dtype = DTYPES[config.train.dtype]
    g, d = config.guidance, config.denoiser
    trunk = partial(resnet, g.backbone, g.width, g.stem, dtype=dtype)
    guidance = DCG(
        num_classes,
        trunk(),
        trunk(),
        g.num_regions,
        g.region_size,
        g.crop_channels,
        dtype,
    )
    # Three updates by the same batch statistics are one with the cubed momentum.
    momentum = 0.9**d.encoder_updates
    denoiser = Denoiser(
        num_classes,
        resnet(d.encoder, d.width, d.stem, momentum, dtype),
        d.feature_dim,
        config.diffusion.num_train_steps,
        PRIORS[d.conditioning][1],
        momentum,
        dtype,
    )
    return guidance, denoiser


def _phases(config: ml_collections.ConfigDict, steps_per_epoch: int) -> tuple[Phase, ...]:
    """Guidance alone, then both; cut at `train.max_steps` if that is set."""
    warmup = config.guidance.warmup_epochs * steps_per_epoch
    joint = config.train.epochs * steps_per_epoch
    limit = config.train.max_steps or math.inf
    warmup = int(min(warmup, limit))
    joint = int(min(joint, limit - warmup))
    return Phase("warmup", ("guidance",), warmup), Phase("joint", NETWORKS, joint)


def make_recipe(
    config: ml_collections.ConfigDict,
    num_classes: int,
    steps_per_epoch: int = 0,
    multi_label: bool = False,
) -> Recipe:
    """Build the recipe of a resolved configuration.

    Args:
      config: as `resolve` returns it.
      num_classes: C, from the data or the checkpoint.
      steps_per_epoch: full batches in an epoch; 0 if nothing will be trained.
      multi_label: any number of classes applies to an image.

    Raises:
      InputError: for a schedule that the sampler cannot start on.
    """
    diffusion = config.diffusion
    schedule = make_schedule(
        diffusion.schedule,
        diffusion.num_train_steps,
        diffusion.beta_start,
        diffusion.beta_end,
        diffusion.precision,
    )
    guidance, denoiser = _networks(config, num_classes)
    link = MULTI_LABEL if multi_label else SINGLE_LABEL
    train = config.train
    optimization = Optimization(
        train.learning_rate,
        config.guidance.learning_rate,
        train.warmup_fraction * train.epochs * steps_per_epoch,
        train.epochs * steps_per_epoch,
        train.clip_norm,
        train.ema,
    )
    return Recipe(
        config.recipe,
        num_classes,
        config.data.image_size,
        link,
        schedule,
        guidance,
        denoiser,
        partial(PRIORS[config.denoiser.conditioning][0], activate=link.activate),
        train.mmd_weight,
        optimization,
        _phases(config, steps_per_epoch),
        _sampling(config.sampling, schedule, link),
    )
