"""What a trunk is, and its entry in the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from diffmic_jax.nn.preprocess import Preprocess
from diffmic_jax.types import Array


@runtime_checkable
class Trunk(Protocol):
    """What a trunk has beside being a module of Flax, ([B, H, W, 3], train) -> [B, h, w, F]."""

    preprocess: Preprocess
    """How its images are normalised."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbours of each grid of `pyramid`, ascending; an attribute will do."""
        ...

    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """Its features [B, ceil(H / stride), ceil(W / stride), ...] by stride.

        Those of the last stride are what the module itself returns. Usually this is the method
        with `nn.compact`, and `__call__` picks the last.
        """
        ...

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Names of its parameters' first level, from the input to the output.

        Each entry is a block: the names whose parameters have the same depth.
        """
        ...


def look(grids: Mapping[int, Array]) -> Float[Array, "b s"]:
    """Means [B, S] over the positions of all grids of a `pyramid` but the last.

    Of a trunk with one grid, of that.
    """
    finer = sorted(grids)[:-1] or [*grids]
    return jnp.concatenate([grids[stride].mean((1, 2)) for stride in finer], axis=-1)


def staged_blocks(
    depths: tuple[int, ...], stem: tuple[str, ...], lead: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """The blocks of a trunk whose parameters are a stem, `stageS_I`, and a norm, as `Trunk` has it.

    Args:
      depths: blocks of each stage S.
      stem: names before the first stage.
      lead: names of what leads to each later stage, with {} for S; part of its first block.
    """
    groups = [stem]
    for stage, depth in enumerate(depths):
        names = tuple(name.format(stage) for name in lead) if stage else ()
        groups.append((*names, f"stage{stage}_0"))
        groups += [(f"stage{stage}_{i}",) for i in range(1, depth)]
    return (*groups, ("norm",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkEntry:
    """A trunk: how it is built, where its weights are, and which images fit."""

    kind: str
    """Its family: resnet, efficientnet, convnext, vit, efficientsam, dinov2, dinov3, swin, pvt."""
    make: Callable[..., nn.Module]
    """(dtype=..., and those of `options`) -> module ([B, H, W, 3], train) -> [B, h, w, F]."""
    options: tuple[str, ...] = ()
    """Which of width, stem, momentum, remat and drop_path apply to it."""
    multiple: int = 1
    """The sides of an image are multiples of it, in pixels."""
    published: str = ""
    """Its weights, as `weights.find` takes them; may be empty."""
    aliases: tuple[str, ...] = ()
    """Names of the same network in timm, without the tag of the weights."""
