"""Plain vision transformers: EfficientSAM's image encoder, ViT as a classifier, DINOv2 and DINOv3.

EfficientSAM (Xiong et al. 2023) has no class token; its tokens are taken before the neck that it
puts behind them, and there is no final norm. ViT (Dosovitskiy et al. 2021) has both. DINOv2 (Oquab
et al. 2023) scales the residual branches and may have registers (Darcet et al. 2023), further
tokens without a place. DINOv3 (Simeoni et al. 2025) has them always, and rotary positions.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn import vit_names
from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import DropPath, LayerScale
from diffmic_jax.nn.names import Map
from diffmic_jax.nn.positions import Table, rotary, rotate
from diffmic_jax.nn.preprocess import IMAGENET, IMAGENET_BICUBIC, Preprocess
from diffmic_jax.types import Array

small = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """What the blocks of the families of vision transformers differ in."""

    biases: Literal["qkv", "qv", ""] = "qkv"
    """Which of queries, keys and values have one."""
    layer_scale: float = 0.0
    """Initial factor of the residual branches; 0: they are not scaled."""
    gated: bool = False
    """SwiGLU (Shazeer 2020) instead of an MLP with GELU, four times as wide both."""
    epsilon: float = 1e-6
    """Of the norms."""


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP four times as wide."""

    num_heads: int
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    """Share of the images that leave each of its halves out in training."""
    style: Style = Style()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], train: bool, turns: Float[Array, "2 n _"] | None = None
    ) -> Float[Array, "b n d"]:
        """[B, N, D] -> [B, N, D]; `turns` are of `rotary`, for queries and keys."""
        x = x + self._branch(self._attend(self._norm(x, "norm1"), turns), train, "ls1")
        return x + self._branch(self._mlp(self._norm(x, "norm2")), train, "ls2")

    def _norm(self, x: Array, name: str) -> Array:
        # flax's fast variance, E[x^2] - E[x]^2, loses digits that torch keeps.
        norm = partial(nn.LayerNorm, dtype=self.dtype, use_fast_variance=False)
        normed: Array = norm(epsilon=self.style.epsilon, name=name)(x)
        return normed

    def _branch(self, x: Array, train: bool, name: str) -> Array:
        if self.style.layer_scale:
            x = LayerScale(initial=self.style.layer_scale, name=name)(x)
        kept: Array = DropPath(rate=self.drop_path)(x, train)
        return kept

    def _attend(self, x: Array, turns: Array | None) -> Any:
        batch, tokens, width = x.shape
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        qkv = dense(3 * width, use_bias=self.style.biases == "qkv", name="qkv")(x)
        if self.style.biases == "qv":
            of_q, of_v = (self.param(f"{i}_bias", nn.initializers.zeros, (width,)) for i in "qv")
            qkv = qkv + jnp.concatenate([of_q, jnp.zeros_like(of_q), of_v]).astype(qkv.dtype)
        heads = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = jnp.moveaxis(heads, 2, 0)
        if turns is not None:
            q, k = jnp.asarray(rotate(q, turns)), jnp.asarray(rotate(k, turns))
        seen = jax.nn.dot_product_attention(q, k, v)  # softmax in float32
        return dense(width, name="proj")(seen.reshape(x.shape))

    def _mlp(self, x: Array) -> Any:
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small)
        if self.style.gated:
            y = jax.nn.silu(dense(4 * width, name="fc1_g")(x)) * dense(4 * width, name="fc1_x")(x)
        else:
            y = jax.nn.gelu(dense(4 * width, name="fc1")(x), approximate=False)
        return dense(width, name="fc2")(y)


class ViT(nn.Module):
    """Trunk of transformer blocks over square patches."""

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
    registers: int = 0
    """Tokens beside the class token that are no features."""
    patch: int = 16
    """Side of a patch in pixels."""
    table: Table | None = Table()
    """Of the positions; None: they are rotary."""
    style: Style = Style()
    preprocess: Preprocess = IMAGENET

    @property
    def strides(self) -> tuple[int, ...]:
        """Of its one grid, as `Trunk` has it."""
        return (self.patch,)

    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """Its one grid, as `Trunk` has it."""
        return {self.patch: self(image, train)}

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b h//{self.patch} w//{self.patch} {self.num_features}"]:
        """[B, H, W, 3] -> [B, H / patch, W / patch, num_features]; stochastic depth in training.

        Raises:
          ValueError: a side is no multiple of a patch's. Padding would show the network an edge
            that no image it was trained on has, and leaving out the rest would lose pixels
            silently.
        """
        x, others = self._tokens(image)
        grid, count = x.shape, others.shape[1]
        x = jnp.concatenate([others, x.reshape(grid[0], -1, grid[-1])], axis=1)
        turns = None
        if self.table is None:
            turns = rotary(grid[1], grid[2], grid[-1] // self.num_heads, count)
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        make = partial(kind, num_heads=self.num_heads, dtype=self.dtype, style=self.style)
        for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
            x = make(drop_path=rate, name=f"blocks_{i}")(x, train, turns)
        if self.class_token:
            norm = partial(nn.LayerNorm, epsilon=self.style.epsilon, use_fast_variance=False)
            x = norm(dtype=self.dtype, name="norm")(x)
            first, x = x[:, :1], x[:, count:]
            # The heads take the mean of a trunk's features over their positions.
            x = x - x.mean(axis=1, keepdims=True) + first
        return x.reshape(grid)

    def _tokens(self, image: Array) -> tuple[Array, Array]:
        """Those of the patches [B, h, w, D] with their positions, and the others [B, n, D]."""
        height, width = image.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"image of {height}x{width} px: a ViT needs sides that are multiples of "
                f"{self.patch}"
            )
        side = (self.patch, self.patch)
        embed = partial(nn.Conv, kernel_size=side, strides=side, padding="VALID", kernel_init=small)
        x = embed(self.num_features, dtype=self.dtype, name="patch_embed")(image)
        place: Any = 0.0
        if self.table is not None:
            table = self.param("pos_embed", small, (1, self.table.rows, self.num_features))
            x = x + self.table.at(table, *x.shape[1:3]).astype(self.dtype)
            place = table[:, :1] if self.table.class_row else place
        others = self._others(place)
        return x, jnp.broadcast_to(others.astype(self.dtype), (len(x), *others.shape[1:]))

    def _others(self, place: Any) -> Array:
        """The class token, if there is one, at its place, and the registers: [1, n, D]."""
        tokens = [jnp.zeros((1, 0, self.num_features))]
        if self.class_token:
            tokens.append(self.param("cls_token", small, (1, 1, self.num_features)) + place)
        if self.registers:
            shape = (1, self.registers, self.num_features)
            tokens.append(self.param("reg_token", small, shape))
        return jnp.concatenate(tokens, axis=1)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Patches, positions and the other tokens, every block, the norm, as `Trunk` has it."""
        there = {
            "patch_embed": True,
            "pos_embed": self.table is not None,
            "cls_token": self.class_token,
            "reg_token": self.registers > 0,
        }
        first = tuple(name for name, has in there.items() if has)
        names = ((f"blocks_{i}",) for i in range(self.depth))
        return (first, *names, ("norm",)) if self.class_token else (first, *names)

    def torch_names(self) -> Map:
        """A ViT of timm without its head, EfficientSAM's encoder without its neck, or a DINO."""
        modules = vit_names.modules(self.depth)
        if not self.class_token:
            return Map(modules, left_out=r"neck\..*", prefix="image_encoder.")
        standard = partial(
            vit_names.standard,
            biases=self.style.biases,
            class_row=self.table is None or self.table.class_row,
        )
        return Map(modules, left_out=vit_names.LEFT_OUT, standard=standard)


def entry(
    *, kind: str = "efficientsam", published: str = "", aliases: tuple[str, ...] = (), **fields: Any
) -> TrunkEntry:
    """A ViT with some of its fields for the registry."""
    return TrunkEntry(
        kind=kind,
        make=partial(ViT, **fields),
        options=("remat", "drop_path"),
        multiple=fields.get("patch", ViT.patch),
        published=published,
        aliases=aliases,
    )


DEIT: dict[str, Any] = {
    "kind": "vit",
    "class_token": True,
    "table": Table(antialias=True),  # as timm
    "preprocess": IMAGENET_BICUBIC,
}
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
        **DEIT,
        depth=12,
        num_features=384,
        num_heads=6,
        published="timm/deit_small_patch16_224.fb_in1k",
        aliases=("deit_small_patch16_224", "vit_small_patch16_224"),
    ),
    "vit_b16": entry(
        **DEIT,
        depth=12,
        num_features=768,
        num_heads=12,
        published="timm/deit_base_patch16_224.fb_in1k",
        aliases=("deit_base_patch16_224", "vit_base_patch16_224"),
    ),
}
"""Name -> entry of the registry."""
