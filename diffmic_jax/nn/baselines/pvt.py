"""Pyramid vision transformer v2 (Wang et al. 2022): attention over all tokens to fewer keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.depthwise import depthwise
from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import DropPath
from diffmic_jax.nn.names import MLP, Map, block
from diffmic_jax.nn.preprocess import IMAGENET_BICUBIC
from diffmic_jax.nn.vit import small
from diffmic_jax.types import Array


class Block(nn.Module):
    """Pre-norm block; keys and values come from a grid that is `reduction` times coarser."""

    num_heads: int
    reduction: int
    mlp_ratio: int
    drop_path: float = 0.0
    """Share of the images that leave each of its halves out in training."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], train: bool) -> Float[Array, "b h w f"]:
        """[B, H, W, F] -> [B, H, W, F]."""
        norm = partial(nn.LayerNorm, dtype=self.dtype, use_fast_variance=False)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        features = x.shape[-1]
        y = norm(epsilon=1e-6, name="norm1")(x)
        source = y
        if self.reduction > 1:
            step = (self.reduction,) * 2
            reduce = nn.Conv(
                features,
                kernel_size=step,
                strides=step,
                padding="VALID",
                dtype=self.dtype,
                name="reduce",
            )
            source = norm(epsilon=1e-5, name="reduce_norm")(reduce(y))

        def heads(z: Array) -> Array:
            return z.reshape(len(z), -1, self.num_heads, features // self.num_heads)

        keys, values = jnp.split(dense(2 * features, name="kv")(source), 2, axis=-1)
        query = dense(features, name="q")(y)
        seen = jax.nn.dot_product_attention(heads(query), heads(keys), heads(values))
        drop = partial(DropPath(rate=self.drop_path), train=train)
        x = x + drop(dense(features, name="proj")(seen.reshape(x.shape)))
        y = dense(self.mlp_ratio * features, name="fc1")(norm(epsilon=1e-6, name="norm2")(x))
        # Its zero padding takes the place of position embeddings.
        depthwise = partial(
            nn.Conv,
            feature_group_count=y.shape[-1],
            dtype=self.dtype,
            conv_general_dilated=_convolve_depthwise,
        )
        y = depthwise(y.shape[-1], (3, 3), padding=1, name="depthwise")(y)
        return x + drop(dense(features, name="fc2")(jax.nn.gelu(y, approximate=False)))


def _convolve_depthwise(
    x: Array, kernel: Array, strides: Any, padding: Any, **layout: Any
) -> Array:
    """`depthwise` as a layer of Flax calls it, without strides."""
    del strides, layout
    return depthwise(x, kernel, 1, tuple(padding))


class PVT(nn.Module):
    """Trunk of four stages, each with half the grid of the one before."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratios: tuple[int, ...]
    drop_path: float = 0.0
    """As in `ResNet`."""
    dtype: Any = jnp.float32

    preprocess = IMAGENET_BICUBIC

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage, as `Trunk` has it."""
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
        """The features of every stage, as `Trunk` has it."""
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        norm = partial(nn.LayerNorm, dtype=self.dtype, use_fast_variance=False)
        x = image
        stages = []
        sizes = zip(self.depths, self.widths, self.num_heads, self.mlp_ratios, strict=True)
        for stage, (depth, width, heads, ratio) in enumerate(sizes):
            side, step = (3, 2) if stage else (7, 4)
            embed = partial(nn.Conv, padding=side // 2, dtype=self.dtype)
            x = embed(width, (side, side), (step, step), name=f"embed{stage}")(x)
            x = norm(epsilon=1e-5, name=f"embed{stage}_norm")(x)
            kind = partial(
                Block, num_heads=heads, reduction=8 >> stage, mlp_ratio=ratio, dtype=self.dtype
            )
            for i in range(depth):
                x = kind(drop_path=next(rates), name=f"stage{stage}_{i}")(x, train)
            x = norm(epsilon=1e-6, name=f"norm{stage}")(x)
            stages.append(x)
        return dict(zip(self.strides, stages, strict=True))

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Every block, with what leads to its stage or the norm behind it, as `Trunk` has it."""
        groups: list[tuple[str, ...]] = []
        for stage, depth in enumerate(self.depths):
            names: list[tuple[str, ...]] = [(f"stage{stage}_{i}",) for i in range(depth)]
            names[0] = (f"embed{stage}", f"embed{stage}_norm", *names[0])
            names[-1] = (*names[-1], f"norm{stage}")
            groups += names
        return tuple(groups)

    def torch_names(self) -> Map:
        """A pyramid vision transformer v2 of timm."""
        modules = {"embed0": "patch_embed.proj", "embed0_norm": "patch_embed.norm"}
        for stage, depth in enumerate(self.depths):
            if stage:
                modules[f"embed{stage}"] = f"stages.{stage}.downsample.proj"
                modules[f"embed{stage}_norm"] = f"stages.{stage}.downsample.norm"
            modules[f"norm{stage}"] = f"stages.{stage}.norm"
            for i in range(depth):
                modules |= block(f"stage{stage}_{i}", f"stages.{stage}.blocks.{i}", LAYERS)
        return Map(modules, left_out=r"head\..*")


LAYERS = {
    "norm1": "norm1",
    "q": "attn.q",
    "kv": "attn.kv",
    "reduce": "attn.sr",
    "reduce_norm": "attn.norm",
    "proj": "attn.proj",
    "depthwise": "mlp.dwconv",
} | MLP
"""Layers of a block: ours -> timm's."""
TRUNKS = {
    "pvt_v2_b2": TrunkEntry(
        kind="pvt",
        make=partial(
            PVT,
            depths=(3, 4, 6, 3),
            widths=(64, 128, 320, 512),
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(8, 8, 4, 4),
        ),
        options=("drop_path",),
        multiple=32,
        published="timm/pvt_v2_b2.in1k",
    )
}
"""Name -> entry of the registry."""
