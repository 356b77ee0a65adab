"""Trunks by name: from an image to a grid of features."""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffmic_jax.nn import resnet, vit
from diffmic_jax.nn.baselines import pvt, swin

TRANSFORMERS = ChainMap[str, Any](vit.CLASSIFIERS, swin.SWIN, pvt.PVT_SIZES)
"""Trunks of classifiers that are no ResNets."""
BACKBONES = ChainMap[str, Any](resnet.STAGE_SIZES, TRANSFORMERS)


def trunk(
    name: str,
    width: int = 64,
    stem: str = "imagenet",
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> nn.Module:
    """A module (image [B, H, W, 3], train) -> [B, h, w, F]; width and stem are a ResNet's.

    Raises:
      ValueError: for a name not in `BACKBONES`.
    """
    if name in swin.SWIN:
        return swin.Swin(*swin.SWIN[name], dtype)
    if name in pvt.PVT_SIZES:
        return pvt.PVT(*pvt.PVT_SIZES[name], dtype)
    if name in vit.CLASSIFIERS:
        return vit.vit(name, dtype, remat)
    return resnet.resnet(name, width, stem, dtype=dtype, remat=remat)
