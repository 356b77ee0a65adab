"""Trunks by name, from an image to a grid of features: the one registry that every part uses.

A new trunk is an entry in the `TRUNKS` of its file; a new file is named in `_TRUNKS` as well.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffmic_jax.errors import InputError
from diffmic_jax.nn import convnext, dino, efficientnet, resnet, vit, weights
from diffmic_jax.nn.baselines import pvt, swin
from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.types import Variables

_TRUNKS: dict[str, TrunkEntry] = {
    **resnet.TRUNKS,
    **efficientnet.TRUNKS,
    **convnext.TRUNKS,
    **vit.TRUNKS,
    **dino.TRUNKS,
    **swin.TRUNKS,
    **pvt.TRUNKS,
}


def register(name: str, entry: TrunkEntry) -> None:
    """Add a trunk.

    Raises:
      ValueError: the name is taken.
    """
    if name in _TRUNKS:
        raise ValueError(f"there is a trunk {name!r} already")
    _TRUNKS[name] = entry


def names(kind: str = "") -> tuple[str, ...]:
    """Our names of all trunks, or of those of one kind."""
    return tuple(name for name, entry in _TRUNKS.items() if kind in ("", entry.kind))


def entry(name: str) -> TrunkEntry:
    """The entry of a trunk, by our name or timm's.

    Args:
      name: as `resnet50`, `resnet50.tv_in1k`, `timm/resnet50.tv_in1k` or `vit_small_patch16_224`.
        The tag after the dot names weights and is ignored.

    Raises:
      InputError: there is no such trunk; the known ones are listed.
    """
    plain = name.removeprefix("timm/").partition(".")[0]
    for own, found in _TRUNKS.items():
        if plain in (own, *found.aliases):
            return found
    raise InputError(f"trunk {name!r} is unknown; choose one of {', '.join(_TRUNKS)}")


def check(name: str, size: int, field: str, what: str = "images") -> None:
    """Refuse a trunk that does not exist, or that images do not fit.

    Args:
      name: of the trunk.
      size: side of the images in pixels.
      field: of the configuration, as `guidance.backbone`, that names the trunk.
      what: the images are.

    Raises:
      InputError: one line that names the field and the fix.
    """
    try:
        multiple = entry(name).multiple
    except InputError as error:
        raise InputError(f"config.{field}: {error}") from error
    if size % multiple:
        raise InputError(
            f"config.{field}={name} does not fit {what} of {size} px; give a multiple of "
            f"{multiple} px"
        )


def build(
    name: str,
    *,
    width: int = 64,
    stem: str = "imagenet",
    momentum: float = 0.9,
    dtype: Any = jnp.float32,
    remat: bool = False,
    drop_path: float = 0.0,
) -> nn.Module:
    """A trunk as a module ([B, H, W, 3], train) -> [B, h, w, F].

    Options that do not apply to it are ignored.

    Args:
      name: as in `entry`.
      width: channels of a ResNet's first stage.
      stem: first layers of a ResNet, `imagenet` or `small`.
      momentum: of the running statistics of a ResNet.
      dtype: of the computation.
      remat: recompute each block in the backward pass: less memory.
      drop_path: stochastic depth at its last block.

    Raises:
      InputError: the trunk or the stem is unknown.
    """
    found = entry(name)
    options = {
        "width": width,
        "stem": stem,
        "momentum": momentum,
        "remat": remat,
        "drop_path": drop_path,
    }
    return found.make(dtype=dtype, **{option: options[option] for option in found.options})


def published(name: str, *, width: int = 64, stem: str = "imagenet") -> str:
    """The hub's name of the published weights of a trunk.

    Raises:
      InputError: there are none for such a trunk.
    """
    found = entry(name)
    changed = (width, stem) != (64, "imagenet") and "width" in found.options
    if changed or not found.published:
        raise InputError(f"None are known for {name}, width {width}, stem {stem}")
    return found.published


def create(name: str, pretrained: bool | str | Path = False) -> tuple[nn.Module, Variables]:
    """A trunk and its variables.

    Args:
      name: as in `entry`.
      pretrained: True loads the published weights, from the hub's cache or the hub; a file, or the
        name of a model on the hub, loads that; False initialises at random with key 0.

    Returns:
      The module, and `{"params": ...}` with `"batch_stats"` where it has any. Then
      `module.apply(variables, x, train=False)` is a feature map [B, h, w, F] of normalised images
      x [B, H, W, 3].

    Raises:
      InputError: the trunk is unknown, or the weights cannot be found or do not fit.
    """
    module = build(name)
    if pretrained is False:
        init = jax.jit(partial(module.init, train=False))
        return module, dict(init(jax.random.key(0), jnp.zeros(weights.IMAGE_SHAPE)))
    source = _tagged(name, published(name)) if pretrained is True else str(pretrained)
    path = weights.find(source, "pretrained", entry(name).published)
    return module, weights.trunk_variables(module, path)


def _tagged(name: str, published: str) -> str:
    """The published weights, unless the name has the tag of others."""
    if "." in name and name.removeprefix("timm/") != published.removeprefix("timm/"):
        raise InputError(
            f"{name}: pretrained=True loads {published}; for other weights, which have to be of "
            f"images normalised by ImageNet's mean and std, give pretrained={_on_hub(name)!r}"
        )
    return published


def _on_hub(name: str) -> str:
    return f"timm/{name.removeprefix('timm/')}"
