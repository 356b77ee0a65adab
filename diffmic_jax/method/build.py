"""From a configuration to the objects of a run: the one place where names become things."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from diffmic_jax.diffusion import losses, priors, process, samplers
from diffmic_jax.diffusion.schedules import Schedule, make_schedule
from diffmic_jax.errors import InputError
from diffmic_jax.method import longtail
from diffmic_jax.method.objectives import (
    COSINE_SCALE,
    DENOISED,
    FOR_ONE_LABEL,
    GUIDANCE_LOSSES,
    MULTI_LABEL,
    NORMALISED,
    READOUTS,
    SINGLE_LABEL,
    WEIGHTS,
    Counts,
    Denoised,
    Link,
    label_loss,
)
from diffmic_jax.nn.baselines.classifier import Classifier
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.resnet import STAGE_SIZES, resnet
from diffmic_jax.nn.trunks import trunk
from diffmic_jax.nn.vit import vit
from diffmic_jax.types import Array, Guidance, Prior

NETWORKS = ("guidance", "denoiser")
GUIDANCE = "guidance"
"""`denoiser.pretrained`: the encoder starts as the guidance's trunk is when the denoiser begins."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training in which some of the networks learn."""

    name: str
    learns: tuple[str, ...]
    steps: int
    class_weights: tuple[float, ...] = ()
    """[C] of the images in the guidance's loss; empty: all count the same."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How labels are drawn at prediction."""

    initial: Callable[[Prior, Array], Array]
    """(prior, noise [S, B, *L, C]) -> the state to start from."""
    run: Callable[..., Array]
    """(eps_fn, y_init, prior_mean, noise [n, ...]) -> y0_hat; `return_states` as in samplers."""
    timesteps: np.ndarray
    """[n] descending, those that `run` visits; none where the guidance is the whole classifier."""
    num_samples: int
    readout: Callable[[Array], Array]
    """Draws [S, B, C] -> probabilities [B, C]."""
    antithetic: bool = False
    """Whether every second draw has the noise of the one before it with the other sign."""
    withhold: float = 0.0
    """Share of the draws, the first ones, that are not told the guess."""
    guess_weight: float = 0.0
    """Share of the guidance's own answer in the probabilities."""

    @property
    def num_steps(self) -> int:
        """n, reverse steps."""
        return len(self.timesteps)

    @property
    def told(self) -> np.ndarray:
        """[S] whether a draw is told the guess; [1] if all are."""
        first = round(self.withhold * self.num_samples)
        return np.arange(self.num_samples if first else 1) >= first


@dataclasses.dataclass(frozen=True)
class Optimization:
    """What the optimizers need to know."""

    learning_rate: float
    """Peak rate of the denoiser."""
    final_learning_rate: float
    """What it falls to."""
    guidance_learning_rate: float
    guidance_amsgrad: bool
    """AMSGrad for the guidance, or Adam."""
    warmup_steps: float
    """Joint steps over which the denoiser's rate rises from 0."""
    joint_steps: int
    steps_per_rate: int
    """Steps that the rate stays the same: 1, or those of an epoch."""
    clip_norm: float
    """Largest global norm of the denoiser's gradients; 0: no limit."""
    ema: bool
    accumulate: int = 1
    """Parts that a batch is taken in, one after the other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that a training or prediction step runs; hashable by identity."""

    name: str
    num_classes: int
    image_size: int
    link: Link
    schedule: Schedule
    guidance: DCG | Classifier
    denoiser: Denoiser | None
    """None where the guidance is the whole classifier: nothing is diffused."""
    cells: tuple[int, ...]
    """L: () for a label vector, (size, size) for a map of labels."""
    timesteps: Callable[[Array, tuple[int, ...], int], Array]
    """(key, [B, *L], T) -> timesteps to train on."""
    priors: Callable[[Guidance], tuple[Prior, ...]]
    guidance_loss: Callable[[Guidance, Array], Array]
    """(guidance, labels [B, C]) -> [B]."""
    loss_weight: Callable[[Guidance, Array], Array]
    """(guidance, labels [B, C]) -> weight of each image in the noise MSE, [B]."""
    mmd_weight: float
    optimization: Optimization
    phases: tuple[Phase, ...]
    sampling: Sampling
    denoised: Callable[[Array, Array, Array, Prior], Denoised]
    """(the denoiser's output, y_t, t, prior) -> what it says."""
    learns: tuple[str, ...]
    """The networks that a step trains."""
    class_weights: tuple[float, ...] = ()
    """As in `Phase`."""
    noise_weight: float = 1.0
    """Of the noise MSE."""
    label_weight: float = 0.0
    """Of the loss of the denoised label."""
    label_loss: Callable[[Array, Array], Array] = losses.cross_entropy
    """(logits, labels [B, *L, C]) -> [B, *L]."""
    guidance_dropout: float = 0.0
    """Share of the training images whose guess the denoiser is not told."""
    guidance_swap: float = 0.0
    """Share of those for which it is told that for another image."""
    inherits: bool = False
    """Before its first step the denoiser takes over the guidance's trunk as its encoder."""
    share_guidance: bool = False
    """Where the guidance learns, the diffusion sees it in training mode."""

    @property
    def num_steps(self) -> int:
        """Training steps in all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def warmup_steps(self) -> int:
        """Steps before the last phase, in which the denoiser does not learn."""
        return self.num_steps - self.phases[-1].steps

    def in_phase(self, phase: Phase) -> Recipe:
        """The same recipe as that phase trains it."""
        return dataclasses.replace(self, learns=phase.learns, class_weights=phase.class_weights)

    def phase_at(self, step: int) -> Phase:
        """The phase that trains step `step` (0-based)."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


PRIORS: dict[str, Callable] = {
    "none": priors.no_priors,
    "global": priors.global_priors,
    "local": priors.local_priors,
    "fused": priors.fused_priors,
    "dual": priors.dual_priors,
    "map": priors.map_priors,
}
TIMESTEPS = {"antithetic": process.antithetic_timesteps, "uniform": process.uniform_timesteps}
INITIALS = {
    "mean": priors.start_at_mean,
    "map": priors.start_at_map,
    "random_map": priors.start_at_random_map,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SAMPLERS: dict[str, Callable] = {"ancestral": samplers.ancestral, "ddim": samplers.ddim}


def _sampling(config: ml_collections.ConfigDict, schedule: Schedule, link: Link) -> Sampling:
    """The sampler of `config.sampling` over a schedule."""
    steps = np.zeros(0, int)
    try:
        if config.num_steps:
            steps = samplers.timesteps(schedule, config.num_steps, config.start, config.stop)
    except ValueError as error:
        raise InputError(f"config.sampling.start={config.start!r}: {error}") from error

    def run(
        eps_fn: Callable,
        y_init: Array,
        prior_mean: Array,
        noise: Array,
        return_states: bool = False,
    ) -> Array:
        extra: dict[str, Any] = {"return_states": return_states, "average": config.average}
        if config.sampler == "ddim":
            extra |= {
                "eta": config.eta,
                "clip": tuple(config.clip) or None,
                "rederive_eps": config.rederive_eps,
            }
        return SAMPLERS[config.sampler](eps_fn, schedule, y_init, prior_mean, steps, noise, **extra)

    readout = partial(READOUTS[config.readout], link=link)
    return Sampling(
        INITIALS[config.initial],
        run,
        steps,
        config.num_samples,
        readout,
        config.antithetic,
        config.withhold,
        config.guess_weight,
    )


def _networks(
    config: ml_collections.ConfigDict, num_classes: int
) -> tuple[DCG | Classifier, Denoiser | None]:
    """The two networks."""
    dtype = DTYPES[config.train.dtype]
    g, d = config.guidance, config.denoiser
    remat = config.train.remat
    backbone = partial(trunk, g.backbone, g.width, g.stem, dtype, remat)
    guidance: DCG | Classifier
    if g.network == "classifier":
        scale = COSINE_SCALE if g.loss in NORMALISED else 0.0
        guidance = Classifier(num_classes, backbone(), g.region_size, scale, dtype)
    else:
        guidance = DCG(
            num_classes,
            backbone(),
            backbone(),
            g.num_regions,
            g.region_size,
            g.crop_channels,
            dtype,
        )
    if not d.encoder:
        return guidance, None
    # Three updates by the same batch statistics are one with the cubed momentum.
    momentum = 0.9**d.encoder_updates
    small = partial(resnet, width=d.width, stem=d.stem, momentum=momentum, dtype=dtype, remat=remat)
    denoiser = Denoiser(
        num_classes,
        small(d.encoder) if d.encoder in STAGE_SIZES else vit(d.encoder, dtype, remat),
        d.feature_dim,
        config.diffusion.num_train_steps,
        3 if d.conditioning == "dual" and config.train.mmd_weight else 1,
        momentum,
        small(d.local_encoder) if d.local_encoder else None,
        g.num_regions,
        d.guidance_features,
        d.predicts == "posterior",
        d.gates == "ones",
        dtype,
    )
    return guidance, denoiser


def _priors(
    config: ml_collections.ConfigDict, link: Link
) -> Callable[[Guidance], tuple[Prior, ...]]:
    """The priors of `denoiser.conditioning`; only the main one where MMD has no weight."""
    conditioning = config.denoiser.conditioning
    options = {"size": config.denoiser.map_size} if conditioning == "map" else {}
    every = partial(PRIORS[conditioning], activate=link.activate, **options)
    return every if config.train.mmd_weight else lambda guidance: every(guidance)[:1]


def _phases(
    config: ml_collections.ConfigDict, steps_per_epoch: int, counts: Counts
) -> tuple[Phase, ...]:
    """Guidance alone, then the denoiser, if there is one, with the guidance unless that is frozen.

    Cut at `train.max_steps` if that is set. Deferred class weights have a phase of their own, the
    last fifth of `train.epochs` (DRW, Cao et al. 2019, who start it after 160 of 200).
    """
    weighing = config.guidance.class_weights
    weights = () if weighing == "none" else tuple(longtail.class_weights(counts).tolist())
    warmup = config.guidance.warmup_epochs * steps_per_epoch
    joint = config.train.epochs * steps_per_epoch
    limit = config.train.max_steps or math.inf
    warmup = int(min(warmup, limit))
    joint = int(min(joint, limit - warmup))
    balanced = weights if weighing == "balanced" else ()
    first = Phase("warmup", ("guidance",), warmup, balanced)
    if weighing == "deferred":
        whole = config.train.epochs * steps_per_epoch
        plain = min(whole - whole // 5, joint)
        last = Phase("reweighted", ("guidance",), joint - plain, weights)
        return first, Phase("classifier", ("guidance",), plain), last
    if not config.denoiser.encoder:
        return first, Phase("classifier", ("guidance",), joint, balanced)
    if config.guidance.frozen:
        return first, Phase("denoiser", ("denoiser",), joint)
    return first, Phase("joint", NETWORKS, joint, balanced)


def _optimization(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Optimization:
    """The rates of `config.train` and `config.guidance`."""
    train = config.train
    return Optimization(
        train.learning_rate,
        train.final_learning_rate,
        config.guidance.learning_rate,
        config.guidance.amsgrad,
        train.warmup_fraction * train.epochs * steps_per_epoch,
        train.epochs * steps_per_epoch,
        max(steps_per_epoch, 1) if train.rate_per_epoch else 1,
        train.clip_norm,
        train.ema,
        train.accumulate,
    )


def _check_several_labels(config: ml_collections.ConfigDict) -> None:
    """Refuse what has no meaning where any number of classes applies to an image."""
    loss, weighing = config.guidance.loss, config.guidance.class_weights
    if loss in FOR_ONE_LABEL or weighing != "none":
        raise InputError(
            f"config.guidance.loss={loss} with class_weights={weighing} needs images of one class; "
            "give loss=fused and class_weights=none"
        )
    if config.train.label_balance:
        raise InputError(
            f"config.train.label_balance={config.train.label_balance:g} needs images of one class; "
            "give 0"
        )


def make_recipe(
    config: ml_collections.ConfigDict,
    num_classes: int,
    steps_per_epoch: int = 0,
    multi_label: bool = False,
    counts: Counts = (),
) -> Recipe:
    """Build the recipe of a resolved configuration.

    Args:
      config: as `resolve` returns it.
      num_classes: C, from the data or the checkpoint.
      steps_per_epoch: full batches in an epoch; 0 if nothing will be trained.
      multi_label: any number of classes applies to an image.
      counts: training images of each class; empty if nothing will be trained.

    Raises:
      InputError: for a schedule that the sampler cannot start on, or a loss that the labels do not
        have.
    """
    if multi_label:
        _check_several_labels(config)
    counts = counts or (1,) * num_classes  # where nothing is trained, any will do
    diffusion = config.diffusion
    schedule = make_schedule(
        diffusion.schedule,
        diffusion.num_train_steps,
        diffusion.beta_start,
        diffusion.beta_end,
        diffusion.precision,
    )
    guidance, denoiser = _networks(config, num_classes)
    phases = _phases(config, steps_per_epoch, counts)
    link = MULTI_LABEL if multi_label else SINGLE_LABEL
    is_map = config.denoiser.conditioning == "map"
    return Recipe(
        config.recipe,
        num_classes,
        config.data.image_size,
        link,
        schedule,
        guidance,
        denoiser,
        (config.denoiser.map_size,) * 2 if is_map else (),
        TIMESTEPS[diffusion.timesteps],
        _priors(config, link),
        partial(GUIDANCE_LOSSES[config.guidance.loss], link=link, counts=counts),
        partial(WEIGHTS[config.train.loss_weight], link=link),
        config.train.mmd_weight,
        _optimization(config, steps_per_epoch),
        phases,
        _sampling(config.sampling, schedule, link),
        partial(DENOISED[config.denoiser.predicts], link=link, schedule=schedule),
        NETWORKS if denoiser else ("guidance",),
        noise_weight=config.train.noise_weight,
        label_weight=config.train.label_weight,
        label_loss=partial(
            label_loss, link=link, counts=counts, balance=config.train.label_balance
        ),
        guidance_dropout=config.denoiser.guidance_dropout,
        guidance_swap=config.denoiser.guidance_swap,
        inherits=config.denoiser.pretrained == GUIDANCE,
        share_guidance=config.train.share_guidance,
    )
