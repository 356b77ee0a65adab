"""ConvNeXt (Liu et al. 2022): depthwise 7x7 convolutions, then an MLP for each pixel."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.entry import TrunkEntry, staged_blocks
from diffmic_jax.nn.layers import Depthwise, DropPath, LayerScale
from diffmic_jax.nn.names import Map, Modules, block, renaming
from diffmic_jax.nn.preprocess import IMAGENET_BICUBIC
from diffmic_jax.nn.vit import small
from diffmic_jax.types import Array


class Block(nn.Module):
    """Residual block."""

    drop_path: float = 0.0
    """Share of the images that leave it out in training."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], train: bool) -> Float[Array, "b h w f"]:
        """[B, H, W, F] -> [B, H, W, F]."""
        features = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        y = Depthwise(size=7, use_bias=True, dtype=self.dtype, name="depthwise")(x)
        y = layer_norm(name="norm", dtype=self.dtype)(y)
        y = jax.nn.gelu(dense(4 * features, name="fc1")(y), approximate=False)
        y = LayerScale(initial=1e-6, name="scale")(dense(features, name="fc2")(y))
        return x + DropPath(rate=self.drop_path)(y, train)


class ConvNeXt(nn.Module):
    """Trunk of four stages, each with half the grid of the one before."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    remat: bool = False
    """As in `ResNet`."""
    drop_path: float = 0.0
    """As in `ResNet`."""

    preprocess = IMAGENET_BICUBIC

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbours of each stage's grid."""
        return tuple(4 << stage for stage in range(len(self.depths)))

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b _ _ {self.widths[-1]}"]:
        """[B, H, W, 3] -> [B, H / 32, W / 32, last width]; sides are multiples of 32."""
        return self.pyramid(image, train)[self.strides[-1]]

    @nn.compact
    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The features of every stage by stride; only the last are normalised."""
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        x: Array = image
        stages = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            x = self._reduce(x, stage, width)
            for i in range(depth):
                name = f"stage{stage}_{i}"
                x = kind(drop_path=next(rates), dtype=self.dtype, name=name)(x, train)
            stages.append(x)
        stages[-1] = PooledNorm(name="norm")(x)
        return dict(zip(self.strides, stages, strict=True))

    def _reduce(self, x: Array, stage: int, width: int) -> Array:
        """The grid of a stage [B, h, w, width], from images or the stage before."""
        side = (2, 2) if stage else (4, 4)
        make = partial(nn.Conv, kernel_size=side, strides=side, padding="VALID", kernel_init=small)
        convolve = make(width, dtype=self.dtype, name=f"reduce{stage}")
        norm = layer_norm(name=f"reduce{stage}_norm", dtype=self.dtype)
        reduced: Array = convolve(norm(x)) if stage else norm(convolve(x))
        return reduced

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """As `Trunk` has it."""
        return staged_blocks(
            self.depths, ("reduce0", "reduce0_norm"), ("reduce{}_norm", "reduce{}")
        )

    def torch_names(self) -> Map:
        """A ConvNeXt of timm, or the authors' own."""
        timms = self._modules(
            ("stem", "stages.{}.downsample", "stages.{}.blocks", "head.norm"), LAYERS
        )
        authors = self._modules(
            ("downsample_layers.0", "downsample_layers.{}", "stages.{}", "norm"), AUTHORS_LAYERS
        )
        left_out = r"head\.(fc\.)?(weight|bias)"
        return Map(timms, left_out=left_out, standard=renaming(timms, authors))

    def _modules(self, places: tuple[str, str, str, str], layers: Modules) -> Modules:
        """Names of all modules, from those of the stem, what leads to a stage, blocks and norm."""
        stem, down, blocks, norm = places
        modules = {"reduce0": f"{stem}.0", "reduce0_norm": f"{stem}.1", "norm": norm}
        for stage, depth in enumerate(self.depths):
            if stage:
                modules[f"reduce{stage}_norm"] = f"{down.format(stage)}.0"
                modules[f"reduce{stage}"] = f"{down.format(stage)}.1"
            for i in range(depth):
                ours, theirs = f"stage{stage}_{i}", f"{blocks.format(stage)}.{i}"
                modules |= block(ours, theirs, layers) | {f"{ours}/scale": theirs}
        return modules


class PooledNorm(nn.Module):
    """The layer norm behind the pooling, on the features before it.

    It is made for their mean over the positions, and applied to each of them: the mean of the
    result is the norm of the mean, as published, and a linear head still commutes with the mean.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        """[B, H, W, F] -> [B, H, W, F]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = wide.mean((1, 2), keepdims=True)
        mean = pooled.mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(pooled.var(-1, keepdims=True) + 1e-6)
        return ((wide - mean) * (factor * scale) + bias).astype(x.dtype)


def layer_norm(*, name: str, dtype: Any) -> nn.LayerNorm:
    """Over the features."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


LAYERS = {"depthwise": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""Layers of a block: ours -> timm's."""
AUTHORS_LAYERS = {"depthwise": "dwconv", "norm": "norm", "fc1": "pwconv1", "fc2": "pwconv2"}
"""Layers of a block: ours -> the authors'."""


def _entry(name: str, depths: tuple[int, ...], width: int) -> TrunkEntry:
    widths = tuple(width << stage for stage in range(len(depths)))
    return TrunkEntry(
        kind="convnext",
        make=partial(ConvNeXt, depths=depths, widths=widths),
        options=("remat", "drop_path"),
        multiple=32,
        published=f"timm/{name}.fb_in1k",
    )


TRUNKS = {
    name: _entry(name, depths, width)
    for name, depths, width in (
        ("convnext_tiny", (3, 3, 9, 3), 96),
        ("convnext_small", (3, 3, 27, 3), 96),
        ("convnext_base", (3, 3, 27, 3), 128),
    )
}
"""Name -> entry of the registry."""
