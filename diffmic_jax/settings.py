"""What a configuration may say, and what a named recipe decides.

A recipe is a set of values, not a branch of the code. `RECIPES` holds what a named recipe decides;
`resolve` fills those values into every field that the user left open.
"""

from __future__ import annotations

import math
import runpy
import sys
from collections import ChainMap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from diffmic_jax.data.cache import ON_BAD_IMAGE
from diffmic_jax.diffusion.schedules import KINDS
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import DTYPES, GUIDANCE, INITIALS, PRIORS, SAMPLERS, TIMESTEPS
from diffmic_jax.method.objectives import DENOISED, GUIDANCE_LOSSES, NORMALISED, READOUTS, WEIGHTS
from diffmic_jax.nn.resnet import STAGE_SIZES
from diffmic_jax.nn.trunks import BACKBONES, TRANSFORMERS
from diffmic_jax.nn.vit import PATCH, SIZES

ENCODERS: Collection[str] = ChainMap[str, Any](SIZES, STAGE_SIZES, {"": ()})

_V1: dict[str, Any] = {
    "guidance.network": "dcg",
    "guidance.backbone": "resnet50",
    "guidance.crop_channels": "all",
    "guidance.loss": "fused",
    "guidance.amsgrad": True,
    "guidance.frozen": False,
    "guidance.warmup_epochs": 10,
    "denoiser.encoder": "resnet18",
    "denoiser.pretrained": "",
    "denoiser.local_encoder": "",
    "denoiser.conditioning": "dual",
    "denoiser.predicts": "noise",
    "denoiser.gates": "uniform",
    "denoiser.guidance_features": False,
    "denoiser.guidance_dropout": 0.0,
    "denoiser.guidance_swap": 0.0,
    "denoiser.encoder_updates": 1,
    "diffusion.precision": "float64",
    "diffusion.timesteps": "antithetic",
    "train.batch_size": 32,
    "train.warmup_fraction": 0.04,
    "train.learning_rate": 1e-3,
    "train.clip_norm": 1.0,
    "train.final_learning_rate": 0.0,
    "train.rate_per_epoch": False,
    "train.loss_weight": "uniform",
    "train.noise_weight": 1.0,
    "train.mmd_weight": 0.5,
    "train.label_weight": 0.0,
    "train.label_balance": 0.0,
    "train.ema": False,
    "sampling.sampler": "ancestral",
    "sampling.num_steps": 100,
    "sampling.start": "full",
    "sampling.initial": "mean",
    "sampling.clip": (),
    "sampling.readout": "clip",
    "sampling.antithetic": False,
    "sampling.stop": 0,
    "sampling.average": False,
    "sampling.withhold": 0.0,
    "sampling.guess_weight": 0.0,
}
_NO_DIFFUSION: dict[str, Any] = _V1 | {
    "guidance.warmup_epochs": 0,
    "denoiser.encoder": "",
    "denoiser.conditioning": "fused",
    "sampling.num_steps": 0,
    "sampling.num_samples": 1,
}
RECIPES: dict[str, dict[str, Any]] = {
    # The paper, with evaluation that can be defended.
    "v1": _V1,
    # What the authors' public code computes.
    "v1_public": _V1
    | {
        "guidance.crop_channels": "first",
        "denoiser.conditioning": "fused",
        "denoiser.encoder_updates": 3,
        "diffusion.precision": "public",
        "sampling.start": "truncated",
        "sampling.readout": "softmax",
        "sampling.num_samples": 1,
    },
    # DiffMIC-v2: a map of labels, a frozen guidance, ten steps.
    "v2": _V1
    | {
        "guidance.backbone": "resnet18",
        "guidance.crop_channels": "first",
        "guidance.loss": "branches",
        "guidance.amsgrad": False,
        "guidance.frozen": True,
        "guidance.warmup_epochs": 100,
        "denoiser.encoder": "efficientsam_s",
        "denoiser.pretrained": "auto",
        "denoiser.local_encoder": "resnet18",
        "denoiser.conditioning": "map",
        "diffusion.timesteps": "uniform",
        "train.batch_size": 64,
        "train.warmup_fraction": 0.0,
        "train.clip_norm": 0.0,
        "train.final_learning_rate": 1e-5,
        "train.rate_per_epoch": True,
        "train.loss_weight": "focal",
        "sampling.sampler": "ddim",
        "sampling.num_steps": 10,
        "sampling.start": "leading",
        "sampling.initial": "map",
        "sampling.clip": (-1.0, 1.0),
    },
    # Ours: what the guess, the image, and both say of the class, each read without noise.
    "diffmic_plus": _V1
    | {
        "guidance.frozen": True,
        "denoiser.encoder": "resnet50",
        "denoiser.pretrained": GUIDANCE,
        "denoiser.predicts": "posterior",
        "denoiser.gates": "ones",
        "denoiser.guidance_dropout": 0.5,
        "train.learning_rate": 3e-4,
        "train.noise_weight": 0.0,
        "train.mmd_weight": 0.0,
        "train.label_weight": 1.0,
        "train.label_balance": 0.3,
        "sampling.num_steps": 1,
        "sampling.num_samples": 2,
        "sampling.withhold": 0.5,
        "sampling.guess_weight": 1 / 3,
    },
    # What diffusion is compared with: a plain classifier, and the guidance by itself (GMIC).
    "classifier": _NO_DIFFUSION
    | {"guidance.network": "classifier", "guidance.backbone": "resnet18"},
    "gmic": _NO_DIFFUSION,
}

CHOICES: dict[str, Collection[str]] = {
    "data.on_bad_image": ON_BAD_IMAGE,
    "guidance.network": ("dcg", "classifier"),
    "guidance.backbone": BACKBONES,
    "guidance.stem": ("imagenet", "small"),
    "guidance.crop_channels": ("all", "first"),
    "guidance.loss": GUIDANCE_LOSSES,
    "guidance.class_weights": ("none", "balanced", "deferred"),
    "denoiser.encoder": ENCODERS,
    "denoiser.local_encoder": ChainMap[str, Any](STAGE_SIZES, {"": ()}),
    "denoiser.stem": ("imagenet", "small"),
    "denoiser.conditioning": PRIORS,
    "denoiser.predicts": DENOISED,
    "denoiser.gates": ("uniform", "ones"),
    "diffusion.schedule": KINDS,
    "diffusion.precision": ("float64", "public"),
    "diffusion.timesteps": TIMESTEPS,
    "train.dtype": DTYPES,
    "train.on_nan": ("stop", "skip"),
    "train.loss_weight": WEIGHTS,
    "sampling.sampler": SAMPLERS,
    "sampling.start": ("full", "truncated", "leading"),
    "sampling.initial": INITIALS,
    "sampling.readout": READOUTS,
}
"""The words that a field may hold."""


LATER: dict[str, Any] = {
    "guidance.class_weights": "none",
    "train.patience": 0,
    "train.remat": False,
    "train.accumulate": 1,
    "train.share_guidance": False,
    "sampling.rederive_eps": False,
}
"""Fields that runs of earlier versions lack, with what these did."""


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
        "denoiser.map_size": any_size,
        "diffusion.num_train_steps": (2, math.inf),
        "diffusion.beta_start": beta,
        "diffusion.beta_end": beta,
        "train.batch_size": any_size,
        "train.epochs": any_size,
        "train.max_steps": (0, math.inf),
        "train.patience": (0, math.inf),
        "train.learning_rate": (0, math.inf),
        "train.warmup_fraction": share,
        "train.final_learning_rate": (0, math.inf),
        "train.clip_norm": (0, math.inf),
        "train.mmd_weight": (0, math.inf),
        "train.noise_weight": (0, math.inf),
        "train.label_weight": (0, math.inf),
        "train.label_balance": share,
        "denoiser.guidance_dropout": share,
        "denoiser.guidance_swap": share,
        "train.log_every": any_size,
        "train.max_minutes": (0, math.inf),
        "train.hang_minutes": (0, math.inf),
        "train.model_shards": any_size,
        "train.accumulate": any_size,
        "sampling.num_steps": (
            1 if config.denoiser.encoder else 0,
            config.diffusion.num_train_steps,
        ),
        "sampling.num_samples": any_size,
        "sampling.stop": (0, config.diffusion.num_train_steps - 1),
        "sampling.eta": share,
        "sampling.withhold": share,
        "sampling.guess_weight": share,
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
        if value is None or not (low <= value <= high and math.isfinite(value)):
            fix = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise InputError(f"config.{field}={value} is out of range; give {fix}")
    clip = tuple(config.sampling.clip)
    if clip and not (len(clip) == 2 and clip[0] < clip[1]):
        raise InputError(f"config.sampling.clip={clip} is no range; give (low, high) or ()")
    _check_fit(config)


def _check_fit(config: ml_collections.ConfigDict) -> None:
    """Refuse values that do not go together."""
    batch_size, parts = config.train.batch_size, config.train.accumulate
    if batch_size % parts:
        raise InputError(
            f"config.train.accumulate={parts} does not divide config.train.batch_size={batch_size}"
            "; choose a divisor"
        )
    size, encoder = config.data.image_size, config.denoiser.encoder
    if encoder in SIZES and size % PATCH:
        raise InputError(
            f"config.data.image_size={size} does not fit {encoder}; give a multiple of {PATCH}"
        )
    if bool(encoder) != bool(config.sampling.num_steps):
        raise InputError(
            f"config.sampling.num_steps={config.sampling.num_steps} does not go with "
            f"config.denoiser.encoder={encoder!r}; a denoiser needs steps, and steps a denoiser"
        )
    backbone = config.guidance.backbone
    if backbone in TRANSFORMERS:
        if size % 32:
            raise InputError(
                f"config.data.image_size={size} does not fit {backbone}; give a multiple of 32"
            )
        if config.guidance.network != "classifier":
            raise InputError(
                f"config.guidance.backbone={backbone} needs config.guidance.network=classifier; "
                "for the regions of dcg give a ResNet"
            )
    loss = config.guidance.loss
    if loss in NORMALISED and config.guidance.network != "classifier":
        raise InputError(
            f"config.guidance.loss={loss} needs config.guidance.network=classifier, which has a "
            "normalised last layer for it"
        )
    if config.guidance.class_weights == "deferred" and encoder:
        raise InputError(
            "config.guidance.class_weights=deferred needs a recipe without diffusion, such as "
            "classifier; give balanced"
        )
    _check_denoiser(config)
    initial, conditioning = config.sampling.initial, config.denoiser.conditioning
    if initial == "random_map" and conditioning != "map":
        raise InputError(
            "config.sampling.initial=random_map needs config.denoiser.conditioning=map"
        )
    if initial == "map" and conditioning in ("none", "dual"):
        raise InputError(
            f"config.sampling.initial=map needs a condition of one label, but "
            f"config.denoiser.conditioning={conditioning}; give sampling.initial=mean"
        )


def _check_denoiser(config: ml_collections.ConfigDict) -> None:
    """Refuse losses and a start that the denoiser cannot have."""
    train, conditioning = config.train, config.denoiser.conditioning
    if config.denoiser.predicts == "posterior" and conditioning not in ("fused", "dual"):
        raise InputError(
            "config.denoiser.predicts=posterior needs a guess to start from, but "
            f"config.denoiser.conditioning={conditioning}; give fused or dual"
        )
    if not (train.noise_weight or train.label_weight):
        raise InputError(
            "config.train.noise_weight and config.train.label_weight are both 0, so that the "
            "denoiser has nothing to learn; give one of them"
        )
    guidance, denoiser = config.guidance, config.denoiser
    if denoiser.pretrained == GUIDANCE and (denoiser.encoder, denoiser.width, denoiser.stem) != (
        guidance.backbone,
        guidance.width,
        guidance.stem,
    ):
        raise InputError(
            "config.denoiser.pretrained=guidance needs an encoder like the guidance's trunk; give "
            f"denoiser.encoder={guidance.backbone}, denoiser.width={guidance.width} and "
            f"denoiser.stem={guidance.stem}"
        )
    if config.sampling.stop and config.sampling.start != "full":
        raise InputError(
            f"config.sampling.stop={config.sampling.stop} needs config.sampling.start=full; "
            "give that, or stop=0"
        )


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with every open field decided by its recipe.

    Raises:
      InputError: for an unknown recipe, or a field whose value cannot work.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    check_choice("recipe", config.recipe, RECIPES)
    _fill(config, open_fields(config.recipe))
    # Many draws are affordable, and needed, where the chain is short.
    draws = 8 if config.sampling.num_steps <= 10 else 1
    cells = config.guidance.num_regions
    _fill(config, {"sampling.num_samples": draws, "denoiser.map_size": cells})
    _check_values(config)
    return config


def open_fields(recipe: str) -> dict[str, Any]:
    """What the fields that a configuration leaves open, or an older run lacks, stand for."""
    return RECIPES.get(recipe, {}) | LATER


def _fill(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Give the fields that are still open, or that an older run did not have, a value."""
    for field, value in values.items():
        group, name = field.split(".")
        if config[group].get(name) is None:
            config[group][name] = value


def load_config(spec: str) -> ml_collections.ConfigDict:
    """A configuration as `--config` names it: FILE or FILE:RECIPE.

    Raises:
      InputError: there is no such file, or it is no configuration.
    """
    return call_in_file(spec, "get_config", f"--config={spec}")


def call_in_file(spec: str, name: str, what: str) -> Any:
    """What a function of a Python file of the user returns.

    Args:
      spec: FILE or FILE:ARGUMENT.
      name: of the function.
      what: how an error names the spec.

    Raises:
      InputError: there is no such file, or it is not as it should be.
    """
    file, _, argument = spec.partition(":")
    if not Path(file).is_file():
        raise InputError(f"{what}: no such file {file}; name one of the project's, or your own")
    # Such files import each other from the folder above theirs.
    sys.path.insert(0, str(Path(file).resolve().parent.parent))
    try:
        return runpy.run_path(file)[name](*filter(None, [argument]))
    except InputError:
        raise
    except Exception as error:  # it is the user's code: whatever goes wrong there
        raise InputError(f"{what}: cannot be used ({type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
