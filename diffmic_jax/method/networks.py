"""The two networks of a configuration, and what it may ask of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.method import longtail
from diffmic_jax.method.task import Task
from diffmic_jax.nn import preprocess, trunks
from diffmic_jax.nn.baselines.classifier import PlainClassifier
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SHARED = "shared"
"""Value of `guidance.local_trunk`: the trunk of the whole image."""
OF_GUIDANCE = "guidance"
"""Value of `denoiser.encoder` and `denoiser.pretrained`: what the guidance has."""


def check_networks(config: Config) -> None:
    """Refuse trunks that do not exist, or do not fit the images or the regions.

    Raises:
      InputError: naming the field.
    """
    size, guidance, denoiser = config.data.image_size, config.guidance, config.denoiser
    check_region = partial(trunks.check, size=guidance.region_size, what="regions")
    trunks.check(guidance.backbone, size, "guidance.backbone")
    _check_drop_path(config, "backbone", guidance.backbone)
    if guidance.network == "dcg":
        local = local_trunk(config)
        field = "local_trunk" if local == guidance.local_trunk else "backbone"
        check_region(local, field=f"guidance.{field}")
        _check_drop_path(config, field, local)
        _check_stride(config)
    if denoiser.encoder not in ("", OF_GUIDANCE):
        trunks.check(denoiser.encoder, size, "denoiser.encoder")
    if denoiser.local_encoder:
        check_region(denoiser.local_encoder, field="denoiser.local_encoder")


def local_trunk(config: Config) -> str:
    """Name of the trunk that classifies the regions."""
    named = config.guidance.local_trunk
    return config.guidance.backbone if named in ("", SHARED) else named


def _check_drop_path(config: Config, field: str, name: str) -> None:
    """Refuse stochastic depth for a trunk that does not have it."""
    rate = config.guidance.drop_path
    if rate and "drop_path" not in trunks.entry(name).options:
        raise InputError(
            f"config.guidance.drop_path={rate:g} is not there for config.guidance.{field}={name}; "
            "give 0"
        )


def _check_stride(config: Config) -> None:
    """Refuse a grid that the guidance's trunk does not have."""
    stride, trunk = config.guidance.saliency_stride, _trunk(config, config.guidance.backbone)
    if stride and stride not in trunk.strides:
        known = ", ".join(map(str, trunk.strides))
        raise InputError(
            f"config.guidance.saliency_stride={stride}: {config.guidance.backbone} has features of "
            f"stride {known} px; choose one of these, or 0 for the last"
        )


def _trunk(config: Config, name: str, momentum: float = 0.9, drop_path: float = 0.0) -> Any:
    """A trunk with the configuration's width, stem, dtype and memory use."""
    return trunks.build(
        name,
        drop_path=drop_path,
        width=config.model.width,
        stem=config.model.stem,
        momentum=momentum,
        dtype=DTYPES[config.train.dtype],
        remat=config.train.remat,
    )


def make_guidance(config: Config, task: Task) -> DCG | PlainClassifier:
    """The guidance network."""
    own, dtype = config.guidance, DTYPES[config.train.dtype]
    trunk = partial(_trunk, config, drop_path=own.drop_path)
    if own.network == "classifier":
        scale = longtail.COSINE_SCALE if own.loss in longtail.NORMALISED else 0.0
        return PlainClassifier(
            num_classes=task.num_classes,
            global_trunk=trunk(own.backbone),
            region_size=own.region_size,
            cosine_scale=scale,
            hidden=own.hidden,
            dropout=own.dropout,
            dtype=dtype,
        )
    return DCG(
        num_classes=task.num_classes,
        global_trunk=trunk(own.backbone),
        local_trunk=None if own.local_trunk == SHARED else trunk(local_trunk(config)),
        saliency_stride=own.saliency_stride,
        saliency_weights=own.saliency_weights,
        num_regions=own.num_regions,
        region_size=own.region_size,
        region_overlap=own.region_overlap,
        crop_channels=own.crop_channels,
        dtype=dtype,
    )


def make_denoiser(config: Config, task: Task) -> Denoiser:
    """The denoiser."""
    own = config.denoiser
    # Three updates by the same batch statistics are one with the cubed momentum.
    momentum = 0.9**own.encoder_updates
    local = _trunk(config, own.local_encoder, momentum) if own.local_encoder else None
    return Denoiser(
        num_classes=task.num_classes,
        encoder=None if own.encoder == OF_GUIDANCE else _trunk(config, own.encoder, momentum),
        feature_dim=own.feature_dim,
        num_train_steps=config.diffusion.num_train_steps,
        num_projections=3 if own.conditioning == "dual" and config.train.mmd_weight else 1,
        encoder_momentum=momentum,
        local_encoder=local,
        preprocess=preprocess.of(trunks.build(config.guidance.backbone)),
        num_regions=config.guidance.num_regions,
        zero_output=own.parameterization != "eps",
        gates=own.gates,
        dtype=DTYPES[config.train.dtype],
    )
