"""Plain vision transformers: EfficientSAM's image encoder, and ViT as a classifier.

EfficientSAM (Xiong et al. 2023) has no class token; its tokens are taken before the neck that it
puts behind them, and there is no final norm. ViT (Dosovitskiy et al. 2021) has both.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import DropPath
from diffmic_jax.nn.names import Map, block
from diffmic_jax.nn.preprocess import IMAGENET
from diffmic_jax.types import Array

PATCH = 16
"""Side of a patch in pixels."""
GRID = 14
"""Patches along each side of the images (224 px) whose positions the table holds."""

small = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP four times as wide."""

    num_heads: int
    dtype: Any = jnp.float32

    drop_path: float = 0.0
    """Share of the images that leave each of its halves out in training."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """[B, N, D] -> [B, N, D]."""
        # flax's fast variance, E[x^2] - E[x]^2, loses digits that torch keeps.
        norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype, use_fast_variance=False)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        batch, tokens, width = x.shape
        qkv = dense(3 * width, name="qkv")(norm(name="norm1")(x))
        heads = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        seen = jax.nn.dot_product_attention(*jnp.moveaxis(heads, 2, 0))  # softmax in float32
        drop = partial(DropPath(rate=self.drop_path), train=train)
        x = x + drop(dense(width, name="proj")(seen.reshape(x.shape)))
        y = dense(4 * width, name="fc1")(norm(name="norm2")(x))
        return x + drop(dense(width, name="fc2")(jax.nn.gelu(y, approximate=False)))


class ViT(nn.Module):
    """Trunk of transformer blocks over patches of 16x16 px."""

    depth: int
    num_features: int
    """Width of the tokens."""
    num_heads: int
    dtype: Any = jnp.float32
    remat: bool = False
    """As in `ResNet`."""
    drop_path: float = 0.0
    """As in `ResNet`."""
    class_token: bool = False
    """Have a class token and a final norm; the mean of the features is then that token."""

    preprocess = IMAGENET
    strides = (PATCH,)

    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """Its one grid, as `Trunk` has it."""
        return {PATCH: self(image, train)}

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b h//16 w//16 {self.num_features}"]:
        """[B, H, W, 3] -> [B, H / 16, W / 16, num_features]; stochastic depth in training.

        Raises:
          ValueError: a side is no multiple of 16. Padding would show the network an edge that no
            image it was trained on has, and leaving out the rest would lose pixels silently.
        """
        height, width = image.shape[1:3]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"image of {height}x{width} px: a ViT needs sides that are multiples of {PATCH}"
            )
        x = nn.Conv(
            self.num_features,
            kernel_size=(PATCH, PATCH),
            strides=(PATCH, PATCH),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=small,
            name="patch_embed",
        )(image)
        # The first row is a class token's; without one it is there for the published weights.
        table = self.param("pos_embed", small, (1, 1 + GRID * GRID, self.num_features))
        grid = x.shape
        x = (x + positions(table, *grid[1:3]).astype(self.dtype)).reshape(grid[0], -1, grid[-1])
        if self.class_token:
            first = self.param("cls_token", small, (1, 1, grid[-1])) + table[:, :1]
            first = jnp.broadcast_to(first.astype(self.dtype), (grid[0], 1, grid[-1]))
            x = jnp.concatenate([first, x], axis=1)
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
            block = kind(
                num_heads=self.num_heads, dtype=self.dtype, drop_path=rate, name=f"blocks_{i}"
            )
            x = block(x, train)
        if self.class_token:
            x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, use_fast_variance=False, name="norm")(
                x
            )
            first, x = x[:, :1], x[:, 1:]
            # The heads take the mean of a trunk's features over their positions.
            x = x - x.mean(axis=1, keepdims=True) + first
        return x.reshape(grid)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Patches and positions, every block, the norm, as `Trunk` has it."""
        names = ((f"blocks_{i}",) for i in range(self.depth))
        return ("patch_embed", "pos_embed", "cls_token"), *names, ("norm",)

    def torch_names(self) -> Map:
        """A ViT of timm without its head, or EfficientSAM's image encoder without its neck."""
        modules = {"": "", "patch_embed": "patch_embed.proj", "norm": "norm"}
        for i in range(self.depth):
            modules |= block(f"blocks_{i}", f"blocks.{i}")
        if self.class_token:
            return Map(modules, left_out=r"head\..*")
        return Map(modules, left_out=r"neck\..*", prefix="image_encoder.")


def positions(
    table: Float[Array, "1 n d"], height: int, width: int
) -> Float[Array, "{height} {width} d"]:
    """Position embeddings for a grid of another size: [1, 1 + 14 * 14, D] -> [height, width, D]."""
    rows, columns = (jnp.asarray(bicubic(GRID, size), table.dtype) for size in (height, width))
    grid = table[0, 1:].reshape(GRID, GRID, -1)
    return jnp.einsum("yi,xj,ijd->yxd", rows, columns, grid, precision="highest")


def bicubic(size: int, new_size: int) -> Float[np.ndarray, "{new_size} {size}"]:
    """Weights [new_size, size], float64, that resample one axis as torch's bicubic mode does.

    Cubic convolution with a = -0.75, pixel centres at half integers, the border repeated, and no
    smoothing before a reduction; `jax.image.resize` differs in the first and the last.
    """
    a = -0.75
    centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
        source = np.floor(centre).astype(int) + tap
        d = np.abs(centre - source)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
        inside = np.clip(source, 0, size - 1)
        weights[np.arange(new_size), inside] += np.where(d <= 1, near, far)
    return weights


def entry(
    *,
    depth: int,
    num_features: int,
    num_heads: int,
    class_token: bool = False,
    published: str = "",
    aliases: tuple[str, ...] = (),
) -> TrunkEntry:
    """A ViT for the registry."""
    make = partial(
        ViT,
        depth=depth,
        num_features=num_features,
        num_heads=num_heads,
        class_token=class_token,
    )
    return TrunkEntry(
        kind="vit" if class_token else "efficientsam",
        make=make,
        options=("remat", "drop_path"),
        multiple=PATCH,
        published=published,
        aliases=aliases,
    )


TRUNKS = {
    "efficientsam_ti": entry(
        depth=12,
        num_features=192,
        num_heads=3,
        published="yunyangx/EfficientSAM/efficient_sam_vitt.pt",
    ),
    "efficientsam_s": entry(
        depth=12,
        num_features=384,
        num_heads=6,
        published="yunyangx/EfficientSAM/efficient_sam_vits.pt",
    ),
    "vit_s16": entry(
        depth=12,
        num_features=384,
        num_heads=6,
        class_token=True,
        published="timm/deit_small_patch16_224.fb_in1k",
        aliases=("deit_small_patch16_224", "vit_small_patch16_224"),
    ),
    "vit_b16": entry(
        depth=12,
        num_features=768,
        num_heads=12,
        class_token=True,
        published="timm/deit_base_patch16_224.fb_in1k",
        aliases=("deit_base_patch16_224", "vit_base_patch16_224"),
    ),
}
"""Name -> entry of the registry."""
