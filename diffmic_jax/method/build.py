"""From a configuration and a task to the `Method`: the one place where names become objects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache, partial

from diffmic_jax.config import Config
from diffmic_jax.diffusion import priors, process
from diffmic_jax.diffusion.parameterization import PARAMETERIZATIONS, Denoised
from diffmic_jax.diffusion.schedules import Schedule, make_schedule
from diffmic_jax.errors import InputError
from diffmic_jax.method import longtail
from diffmic_jax.method.longtail import Counts
from diffmic_jax.method.mixing import MIXES
from diffmic_jax.method.networks import (
    OF_GUIDANCE,
    check_networks,
    make_denoiser,
    make_guidance,
)
from diffmic_jax.method.objectives import (
    GUIDANCE_LOSSES,
    IMAGE_WEIGHTS,
    Objective,
    label_loss,
    smoothed,
    timestep_weight,
)
from diffmic_jax.method.optimizers import Optimization, make_optimization
from diffmic_jax.method.sampling import Sampling, make_sampling
from diffmic_jax.method.task import Task
from diffmic_jax.method.tuning import make_tuning
from diffmic_jax.nn import preprocess
from diffmic_jax.nn.baselines.classifier import PlainClassifier
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.preprocess import Preprocess
from diffmic_jax.types import Array, Guidance, Prior, Timestep, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training in which one network or both learn."""

    name: str
    steps: int
    guidance: bool = False
    """The guidance learns."""
    denoiser: bool = False
    """The denoiser learns."""
    class_weights: tuple[float, ...] = ()
    """[C] of the images in the guidance's loss; empty: all count the same."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """All that a training or prediction step computes; hashable by identity, so static in `jit`."""

    name: str
    """Of the recipe that it started from."""
    task: Task
    image_size: int
    """Side of the images in pixels."""
    schedule: Schedule
    guidance: DCG | PlainClassifier
    denoiser: Denoiser | None
    """None where the guidance is the whole classifier: nothing is diffused."""
    cells: tuple[int, ...]
    """L: () for a label vector (v1), (K, K) for a map of labels (v2)."""
    timesteps: Callable[[Array, tuple[int, ...], int], Array]
    """(key, [B, *L], T) -> timesteps to train on."""
    priors: Callable[[Guidance], tuple[Prior, ...]]
    """Guidance prediction -> the main stream's prior, then one for each MMD term."""
    denoised: Callable[[Array, Array, Timestep, Prior], Denoised]
    """(the denoiser's output, y_t, t, prior) -> estimates of noise and label."""
    objective: Objective
    optimization: Optimization
    steps_per_epoch: int
    phases: tuple[Phase, ...]
    phase: Phase
    """The one that a training step is in."""
    sampling: Sampling
    inherits: bool
    """Before its first step the denoiser's encoder becomes a copy of the guidance's trunk."""

    @property
    def preprocess(self) -> Preprocess:
        """What the guidance takes; its images are the denoiser's as well."""
        return preprocess.of(self.guidance.global_trunk)

    @property
    def on_features(self) -> bool:
        """Whether training can see features for images: nothing that reads these learns."""
        own = self.denoiser
        alone = own is None or (own.encoder is None and own.local_encoder is None)
        plain = isinstance(self.guidance, PlainClassifier) and alone
        return plain and self.optimization.tuning.tune == "head"

    @property
    def num_steps(self) -> int:
        """Training steps in all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def warmup_steps(self) -> int:
        """Steps before the last phase, in which the denoiser does not learn."""
        return self.num_steps - self.phases[-1].steps

    def learning(self, network: str, params: Variables) -> Variables:
        """The part of a network's parameters that learns in the phases in which it does."""
        return self.optimization.tuning.learning(params) if network == "guidance" else params

    def in_phase(self, phase: Phase) -> Method:
        """The same method, training as that phase does."""
        return dataclasses.replace(self, phase=phase)

    def phase_at(self, step: int) -> Phase:
        """The phase that trains step `step` (0-based)."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


NOT_READ = {"seed": 0, "data.fold": 0, "guidance.checkpoint": ""}
"""Fields that a method does not depend on."""


def build(config: Config, task: Task, *, steps_per_epoch: int = 0, counts: Counts = ()) -> Method:
    """The method of a configuration.

    The same one for the same arguments: what was compiled for a run is used again where the run
    goes on, is loaded, or is trained with another seed, in the same process.

    Args:
      config: what to build.
      task: the labels, from the data or the checkpoint.
      steps_per_epoch: full batches in an epoch; 0 if nothing will be trained.
      counts: training images of each class; empty if nothing will be trained.

    Raises:
      InputError: a trunk does not exist or does not fit the images, the sampler cannot start on the
        schedule, or the labels do not have the loss.
    """
    return _build(config.changed(NOT_READ), task, steps_per_epoch, counts)


@lru_cache(maxsize=16)
def _build(config: Config, task: Task, steps_per_epoch: int, counts: Counts) -> Method:
    check_networks(config)
    if task.multi_label:
        _check_several_labels(config)
    guidance = make_guidance(config, task)
    counts = counts or (1,) * task.num_classes  # where nothing is trained, any will do
    diffusion, denoiser = config.diffusion, config.denoiser
    schedule = make_schedule(
        diffusion.schedule, diffusion.num_train_steps, precision=diffusion.precision
    )
    phases = _phases(config, steps_per_epoch, counts)
    size = config.guidance.num_regions
    parameterization = PARAMETERIZATIONS[denoiser.parameterization]
    return Method(
        name=config.recipe,
        task=task,
        image_size=config.data.image_size,
        schedule=schedule,
        guidance=guidance,
        denoiser=make_denoiser(config, task) if denoiser.encoder else None,
        cells=(size, size) if denoiser.conditioning == "map" else (),
        timesteps=process.TIMESTEPS[diffusion.timesteps],
        priors=_priors(config, task),
        denoised=partial(parameterization, link=task.link, schedule=schedule),
        objective=_objective(config, task, schedule, counts),
        optimization=make_optimization(config, steps_per_epoch, make_tuning(config, guidance)),
        steps_per_epoch=steps_per_epoch,
        phases=phases,
        phase=phases[-1],
        sampling=make_sampling(config.sampling, schedule, task.link),
        inherits=denoiser.pretrained == OF_GUIDANCE,
    )


def _check_several_labels(config: Config) -> None:
    """Refuse what has no meaning where any number of classes applies to an image."""
    loss, weighing = config.guidance.loss, config.guidance.class_weights
    if loss in longtail.SINGLE_LABEL_ONLY or weighing != "none":
        raise InputError(
            f"config.guidance.loss={loss} with class_weights={weighing} needs images of one class; "
            "give loss=fused and class_weights=none"
        )
    if config.train.label_balance:
        raise InputError(
            f"config.train.label_balance={config.train.label_balance:g} needs images of one class; "
            "give 0"
        )
    if config.data.balance:
        raise InputError(
            f"config.data.balance={config.data.balance:g} needs images of one class; give 0"
        )


def _priors(config: Config, task: Task) -> Callable[[Guidance], tuple[Prior, ...]]:
    """The priors of `denoiser.conditioning`; only the main one where MMD has no weight."""
    conditioning = config.denoiser.conditioning
    options = {"size": config.guidance.num_regions} if conditioning == "map" else {}
    every = partial(priors.PRIORS[conditioning], activate=task.link.activate, **options)
    return every if config.train.mmd_weight else lambda guidance: every(guidance)[:1]


def _objective(config: Config, task: Task, schedule: Schedule, counts: Counts) -> Objective:
    """The losses of `config.guidance` and `config.train`."""
    train, link = config.train, task.link
    loss = partial(GUIDANCE_LOSSES[config.guidance.loss], link=link, counts=counts)
    return Objective(
        guidance_loss=smoothed(loss, config.guidance.label_smoothing, link),
        mix=MIXES[config.guidance.mix],
        image_weight=partial(IMAGE_WEIGHTS[train.loss_weight], link=link),
        timestep_weight=partial(timestep_weight, kind=train.timestep_weight, schedule=schedule),
        label_loss=partial(label_loss, link=link, counts=counts, balance=train.label_balance),
        weights=train,
        conditioning_dropout=config.denoiser.conditioning_dropout,
    )


def _phases(config: Config, steps_per_epoch: int, counts: Counts) -> tuple[Phase, ...]:
    """Guidance alone, then the denoiser, if there is one, with the guidance unless that is frozen.

    Cut at `train.max_steps` if that is set. Deferred class weights have a phase of their own, the
    last fifth of `train.epochs` (DRW, Cao et al. 2019, who start it after 160 of 200).
    """
    guidance = config.guidance
    weights = ()
    if guidance.class_weights != "none":
        weights = tuple(longtail.class_weights(counts).tolist())
    whole = config.train.epochs * steps_per_epoch
    limit = config.train.max_steps or math.inf
    warmup = int(min(guidance.warmup_epochs * steps_per_epoch, limit))
    joint = int(min(whole, limit - warmup))
    balanced = weights if guidance.class_weights == "balanced" else ()
    alone = partial(Phase, guidance=True, class_weights=balanced)
    first = alone(name="warmup", steps=warmup)
    if guidance.class_weights == "deferred":
        plain = min(whole - whole // 5, joint)
        last = alone(name="reweighted", steps=joint - plain, class_weights=weights)
        return first, alone(name="classifier", steps=plain), last
    if not config.denoiser.encoder:
        return first, alone(name="classifier", steps=joint)
    if guidance.frozen:
        return first, Phase(name="denoiser", steps=joint, denoiser=True)
    return first, alone(name="joint", steps=joint, denoiser=True)
