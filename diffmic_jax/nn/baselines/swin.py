"""Swin transformer (Liu et al. 2021): attention in windows, shifted in every other block."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from diffmic_jax.nn.entry import TrunkEntry, staged_blocks
from diffmic_jax.nn.layers import DropPath
from diffmic_jax.nn.names import Map, block
from diffmic_jax.nn.preprocess import IMAGENET_BICUBIC
from diffmic_jax.nn.vit import small
from diffmic_jax.types import Array

WINDOW = 7
"""Largest side of a window in tokens."""
PATCH = 4
"""Side of a token of the first stage in pixels."""


def window_side(height: int, width: int) -> int:
    """Side of the windows that tile a grid: the largest divisor of both sides up to 7."""
    return next(n for n in range(WINDOW, 0, -1) if height % n == 0 and width % n == 0)


def relative_positions(side: int) -> Integer[np.ndarray, "{side**2} {side**2}"]:
    """Row of the bias table for each pair of tokens of a window, [side^2, side^2]."""
    place = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    dy, dx = np.moveaxis(place[:, None] - place[None] + WINDOW - 1, -1, 0)
    rows: np.ndarray = dy * (2 * WINDOW - 1) + dx
    return rows


def to_windows(x: Shaped[Array, "b h w f"], side: int) -> Shaped[Array, "b _ {side**2} f"]:
    """[B, H, W, F] -> [B, windows, side^2, F]."""
    batch, height, width, features = x.shape
    tiled = x.reshape(batch, height // side, side, width // side, side, features)
    return tiled.swapaxes(2, 3).reshape(batch, -1, side * side, features)


def from_windows(
    x: Shaped[Array, "b n m f"], height: int, width: int
) -> Shaped[Array, "b {height} {width} f"]:
    """[B, windows, side^2, F] -> [B, H, W, F]."""
    batch, _, tokens, features = x.shape
    side = int(np.sqrt(tokens))
    tiled = x.reshape(batch, height // side, width // side, side, side, features)
    return tiled.swapaxes(2, 3).reshape(batch, height, width, features)


def neighbours(
    height: int, width: int, side: int, shift: int
) -> Bool[np.ndarray, "_ {side**2} {side**2}"]:
    """Which tokens of a window were neighbours before the grid's shift: [windows, N, N] bool.

    The shift wraps around, and tokens from opposite borders do not attend to each other.
    """
    area = np.zeros((1, height, width, 1), int)
    edges = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for number, (rows, cols) in enumerate((r, c) for r in edges for c in edges):
        area[:, rows, cols] = number
    tokens = np.asarray(to_windows(area, side))[0, ..., 0]
    same: np.ndarray = tokens[:, :, None] == tokens[:, None]
    return same


class Block(nn.Module):
    """Pre-norm block: attention within windows, then an MLP four times as wide."""

    num_heads: int
    shifted: bool
    drop_path: float = 0.0
    """Share of the images that leave each of its halves out in training."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], train: bool) -> Float[Array, "b h w f"]:
        """[B, H, W, F] -> [B, H, W, F]."""
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        _, height, width, features = x.shape
        side = window_side(height, width)
        # A grid of one window is not shifted.
        shift = side // 2 if self.shifted and min(height, width) > side else 0
        y = jnp.roll(norm(name="norm1")(x), (-shift, -shift), (1, 2))
        mask = neighbours(height, width, side, shift) if shift else None
        seen = self._attend(to_windows(y, side), dense, side, mask)
        drop = partial(DropPath(rate=self.drop_path), train=train)
        x = x + drop(jnp.roll(from_windows(seen, height, width), (shift, shift), (1, 2)))
        y = dense(4 * features, name="fc1")(norm(name="norm2")(x))
        return x + drop(dense(features, name="fc2")(jax.nn.gelu(y, approximate=False)))

    def _attend(self, x: Array, dense: Any, side: int, mask: np.ndarray | None) -> Any:
        """Self-attention within windows [B, windows, N, F]."""
        features = x.shape[-1]
        qkv = dense(3 * features, name="qkv")(x)
        heads = qkv.reshape(*x.shape[:3], 3, self.num_heads, features // self.num_heads)
        q, k, v = jnp.moveaxis(heads, 3, 0)
        size = (2 * WINDOW - 1) ** 2
        table = self.param("relative_position_bias", small, (size, self.num_heads))
        bias = jnp.moveaxis(table[relative_positions(side)], -1, 0)
        scores = jnp.einsum("bwnhd,bwmhd->bwhnm", q, k) * q.shape[-1] ** -0.5
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) + bias
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -1e9)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        seen = jnp.einsum("bwhnm,bwmhd->bwnhd", weights, v)
        return dense(features, name="proj")(seen.reshape(x.shape))


class Swin(nn.Module):
    """Trunk of four stages, each with half the grid and twice the features of the one before."""

    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    width: int
    drop_path: float = 0.0
    """As in `ResNet`."""
    dtype: Any = jnp.float32

    preprocess = IMAGENET_BICUBIC

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage, as `Trunk` has it."""
        return tuple(PATCH << stage for stage in range(len(self.depths)))

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b _ _ {self.width*2**(len(self.depths)-1)}"]:
        """[B, H, W, 3] -> [B, H / 32, W / 32, 8 width]; sides are multiples of 32."""
        return self.pyramid(image, train)[self.strides[-1]]

    @nn.compact
    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The features of every stage, as `Trunk` has it; only the last are normalised."""
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False)
        embed = nn.Conv(
            self.width,
            kernel_size=(PATCH, PATCH),
            strides=(PATCH, PATCH),
            padding="VALID",
            dtype=self.dtype,
            name="patches",
        )
        x: Array = norm(name="patches_norm")(embed(image))
        stages = []
        for stage, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            if stage:
                # Four neighbours become one token of twice the features.
                corners = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
                x = norm(name=f"merge{stage}_norm")(jnp.concatenate(corners, axis=-1))
                merge = partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=small)
                x = merge(x.shape[-1] // 2, name=f"merge{stage}")(x)
            for i in range(depth):
                make = partial(Block, num_heads=heads, shifted=i % 2 == 1, dtype=self.dtype)
                x = make(drop_path=next(rates), name=f"stage{stage}_{i}")(x, train)
            stages.append(x)
        stages[-1] = norm(name="norm")(x)
        return dict(zip(self.strides, stages, strict=True))

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """As `Trunk` has it."""
        return staged_blocks(self.depths, ("patches", "patches_norm"), ("merge{}_norm", "merge{}"))

    def torch_names(self) -> Map:
        """A Swin transformer of timm; tables that follow from the sizes are left out."""
        modules = {
            "patches": "patch_embed.proj",
            "patches_norm": "patch_embed.norm",
            "norm": "norm",
        }
        for stage, depth in enumerate(self.depths):
            modules[f"merge{stage}_norm"] = f"layers.{stage}.downsample.norm"
            modules[f"merge{stage}"] = f"layers.{stage}.downsample.reduction"
            for i in range(depth):
                ours, theirs = f"stage{stage}_{i}", f"layers.{stage}.blocks.{i}"
                modules |= block(ours, theirs) | {ours: f"{theirs}.attn"}
        return Map(modules, left_out=r"head\..*|.*\.(attn_mask|relative_position_index)")


TRUNKS = {
    "swin_t": TrunkEntry(
        kind="swin",
        make=partial(Swin, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), width=96),
        options=("drop_path",),
        multiple=32,
        published="timm/swin_tiny_patch4_window7_224.ms_in1k",
        aliases=("swin_tiny_patch4_window7_224",),
    )
}
"""Name -> entry of the registry."""
