"""Which values of a configuration go together; what depends on the data is checked with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmic_jax.errors import InputError

if TYPE_CHECKING:
    from diffmic_jax.config import Config


def check_together(config: Config) -> None:
    """Refuse values that do not go together.

    Raises:
      InputError: naming the fields and the fix.
    """
    for check in (_check_sizes, _check_sampling, _check_guidance, _check_denoiser):
        check(config)


def check_training(config: Config) -> None:
    """Refuse values that no training should have, though earlier ones had and can be used.

    Raises:
      InputError: naming the fields and the fix.
    """
    guidance = config.guidance
    if guidance.class_weights != "none" and guidance.mix != "none":
        raise InputError(
            f"config.guidance.class_weights={guidance.class_weights} weighs images of one class, "
            f"and config.guidance.mix={guidance.mix} makes images of two; set one of them to none"
        )


def _check_sizes(config: Config) -> None:
    batch_size, parts = config.train.batch_size, config.train.accumulate
    if batch_size % parts:
        raise InputError(
            f"config.train.accumulate={parts} does not divide config.train.batch_size={batch_size}"
            "; choose a divisor"
        )
    if config.guidance.region_size > config.data.image_size:
        raise InputError(
            f"config.guidance.region_size={config.guidance.region_size} is out of range; give 1 to "
            f"{config.data.image_size}, the image's size"
        )


def _check_sampling(config: Config) -> None:
    sampling, conditioning = config.sampling, config.denoiser.conditioning
    if bool(config.denoiser.encoder) != bool(sampling.num_steps):
        raise InputError(
            f"config.sampling.num_steps={sampling.num_steps} does not go with "
            f"config.denoiser.encoder={config.denoiser.encoder!r}; a denoiser needs steps, and "
            "steps a denoiser"
        )
    if sampling.num_steps > config.diffusion.num_train_steps:
        raise InputError(
            f"config.sampling.num_steps={sampling.num_steps} is out of range; give at most "
            f"{config.diffusion.num_train_steps}, the length of the chain"
        )
    if sampling.clip and not (len(sampling.clip) == 2 and sampling.clip[0] < sampling.clip[1]):
        raise InputError(
            f"config.sampling.clip={sampling.clip} is no range; give (low, high) or ()"
        )
    if sampling.initial == "random_map" and conditioning != "map":
        raise InputError(
            "config.sampling.initial=random_map needs config.denoiser.conditioning=map"
        )
    if sampling.initial == "random_map" and sampling.start_std == "matched":
        raise InputError(
            "config.sampling.start_std=matched is of normal noise, and config.sampling.initial="
            "random_map starts with none; give start_std=unit"
        )
    if sampling.initial == "map" and conditioning in ("none", "dual"):
        raise InputError(
            f"config.sampling.initial=map needs a condition of one label, but "
            f"config.denoiser.conditioning={conditioning}; give sampling.initial=mean"
        )


def _check_guidance(config: Config) -> None:
    guidance = config.guidance
    if guidance.loss in ("ldam", "prototype") and guidance.network != "classifier":
        raise InputError(
            f"config.guidance.loss={guidance.loss} needs config.guidance.network=classifier, which "
            "has a normalised last layer for it"
        )
    for name, asked in (("hidden", guidance.hidden), ("dropout", guidance.dropout)):
        if asked and guidance.network != "classifier":
            raise InputError(
                f"config.guidance.{name}={asked} needs config.guidance.network=classifier, not "
                f"{guidance.network}; leave it out"
            )
    if guidance.hidden and min(guidance.hidden) < 1:
        raise InputError(
            f"config.guidance.hidden={guidance.hidden} has a layer without width; give at least 1"
        )
    if guidance.weight_decay and guidance.optimizer != "adamw":
        raise InputError(
            f"config.guidance.weight_decay={guidance.weight_decay:g} needs "
            f"config.guidance.optimizer=adamw, not {guidance.optimizer}"
        )
    soft = {"label_smoothing": guidance.label_smoothing, "mix": guidance.mix}
    for name, value in soft.items():
        if value not in (0, "none") and guidance.loss in ("focal", "ldam", "prototype"):
            raise InputError(
                f"config.guidance.{name}={value} has no meaning in the loss {guidance.loss}, which "
                "takes labels of one class; give guidance.loss=fused, branches, ohem or "
                "logit_adjusted"
            )
    # As `Method.on_features`.
    alone = config.denoiser.encoder in ("", "guidance") and not config.denoiser.local_encoder
    alone = alone and guidance.network == "classifier"
    if guidance.mix in ("cutmix", "both") and guidance.tune == "head" and alone:
        raise InputError(
            f"config.guidance.mix={guidance.mix} cuts images, but with config.guidance.tune=head "
            "a classifier learns from their features; give none or mixup"
        )
    if guidance.drop_path and guidance.tune != "full":
        raise InputError(
            f"config.guidance.drop_path={guidance.drop_path:g} needs config.guidance.tune=full, "
            f"not {guidance.tune}, whose trunks are in evaluation mode; give 0"
        )
    if guidance.class_weights == "deferred" and config.denoiser.encoder:
        raise InputError(
            "config.guidance.class_weights=deferred needs a recipe without diffusion, such as "
            "classifier; give balanced"
        )


def _check_denoiser(config: Config) -> None:
    denoiser, train = config.denoiser, config.train
    if denoiser.parameterization == "posterior" and denoiser.conditioning not in ("fused", "dual"):
        raise InputError(
            "config.denoiser.parameterization=posterior needs a guidance prediction as its prior, "
            f"but config.denoiser.conditioning={denoiser.conditioning}; give fused or dual"
        )
    if not (train.noise_weight or train.label_weight):
        raise InputError(
            "config.train.noise_weight and config.train.label_weight are both 0, so that the "
            "denoiser has nothing to learn; give one of them"
        )
    if denoiser.encoder == "guidance" and denoiser.pretrained:
        raise InputError(
            f"config.denoiser.pretrained={denoiser.pretrained} needs a trunk to go into, but "
            "config.denoiser.encoder=guidance has none; give denoiser.pretrained= (empty)"
        )
    if denoiser.pretrained == "guidance" and denoiser.encoder != config.guidance.backbone:
        raise InputError(
            "config.denoiser.pretrained=guidance needs an encoder like the guidance's trunk; give "
            f"denoiser.encoder={config.guidance.backbone}"
        )
