"""ConvNeXt (Liu et al. 2022): depthwise 7x7 convolutions, then an MLP for each pixel."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import DropPath, LayerScale
from diffmic_jax.nn.names import Map, block, renamed
from diffmic_jax.nn.preprocess import IMAGENET
from diffmic_jax.nn.state_dict import StateDict
from diffmic_jax.nn.vit import small
from diffmic_jax.types import Array

KERNEL = 7
"""Side of the depthwise kernels in pixels."""


def depthwise(
    x: Float[Array, "b h w f"], kernel: Float[Array, "k k 1 f"], stride: int = 1
) -> Float[Array, "b -(-h//{stride}) -(-w//{stride}) f"]:
    """Convolve every feature by itself, padded by k // 2: [B, H, W, F] by [k, k, 1, F], k odd."""
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        (stride, stride),
        [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


class Depthwise(nn.Module):
    """A depthwise convolution of 7x7 px with a bias."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        """[B, H, W, F] -> [B, H, W, F]."""
        kernel = self.param("kernel", small, (KERNEL, KERNEL, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


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
        y = Depthwise(dtype=self.dtype, name="depthwise")(x)
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

    preprocess = dataclasses.replace(IMAGENET, interpolation="bicubic")

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
        """The stem, every block (the first of a stage with what leads to it), the norm."""
        groups: list[tuple[str, ...]] = [("reduce0", "reduce0_norm")]
        for stage, depth in enumerate(self.depths):
            lead = (f"reduce{stage}_norm", f"reduce{stage}") if stage else ()
            groups.append((*lead, f"stage{stage}_0"))
            groups += [(f"stage{stage}_{i}",) for i in range(1, depth)]
        return (*groups, ("norm",))

    def torch_names(self) -> Map:
        """A ConvNeXt of timm, or the authors' own."""
        modules = {"reduce0": "stem.0", "reduce0_norm": "stem.1", "norm": "head.norm"}
        for stage, depth in enumerate(self.depths):
            if stage:
                modules[f"reduce{stage}_norm"] = f"stages.{stage}.downsample.0"
                modules[f"reduce{stage}"] = f"stages.{stage}.downsample.1"
            for i in range(depth):
                ours, theirs = f"stage{stage}_{i}", f"stages.{stage}.blocks.{i}"
                modules |= block(ours, theirs, LAYERS) | {f"{ours}/scale": theirs}
        return Map(modules, left_out=r"head\.fc\..*", standard=_standard)


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


def _standard(state: StateDict) -> StateDict:
    return {renamed(name, RENAMED): value for name, value in state.items()}


LAYERS = {"depthwise": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""Layers of a block: ours -> timm's."""
RENAMED = (
    (r"downsample_layers\.0\.(.*)", r"stem.\1"),
    (r"downsample_layers\.([1-3])\.(.*)", r"stages.\1.downsample.\2"),
    (r"stages\.(\d)\.(\d+)\.dwconv\.(.*)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"stages\.(\d)\.(\d+)\.pwconv([12])\.(.*)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"stages\.(\d)\.(\d+)\.(gamma|norm\..*)", r"stages.\1.blocks.\2.\3"),
    (r"norm\.(.*)", r"head.norm.\1"),
    (r"head\.(weight|bias)", r"head.fc.\1"),
)
"""The authors' names -> timm's."""


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
