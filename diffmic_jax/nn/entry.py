"""What the registry of trunks knows of each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkEntry:
    """A trunk: how it is built, where its weights are, and which images fit."""

    kind: str
    """Its family: resnet, vit, efficientsam, swin or pvt."""
    make: Callable[..., nn.Module]
    """(dtype=..., and those of `options`) -> module ([B, H, W, 3], train) -> [B, h, w, F]."""
    options: tuple[str, ...] = ()
    """Which of width, stem, momentum and remat apply to it."""
    multiple: int = 1
    """The sides of an image are multiples of it, in pixels."""
    regions: bool = False
    """Whether its features have a place in the image, as the regions of DCG need."""
    published: str = ""
    """Repository, and file if it is not model.safetensors, of its weights on the hub; may be empty.

    Those of a classifier of ImageNet see images normalised as ours are.
    """
    aliases: tuple[str, ...] = ()
    """Names of the same network in timm, without the tag of the weights."""
