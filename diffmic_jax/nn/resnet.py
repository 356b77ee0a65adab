"""ResNet trunks (He et al. 2016), with torchvision's shapes, padding and stride placement."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffmic_jax.nn.layers import BatchNorm, Conv
from diffmic_jax.types import Array


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or a 1x1-3x3-1x1 bottleneck four times as wide."""

    width: int
    stride: int
    bottleneck: bool
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B, H, W, F] -> [B, H / stride, W / stride, width or 4 width]."""
        norm = partial(BatchNorm, self.momentum, dtype=self.dtype)
        conv = partial(Conv, dtype=self.dtype)
        # (features, size, stride) of each convolution; the stride sits on a 3x3.
        plan = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, (features, size, stride) in enumerate(plan, 1):
            y = conv(features, size, stride, name=f"conv{i}")(y)
            y = norm(name=f"bn{i}")(y, train)
            if i < len(plan):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, self.stride, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The trunk up to the last feature map; no pooling, no classifier."""

    stage_sizes: tuple[int, ...]
    bottleneck: bool = False
    width: int = 64
    """Channels of the first stage; each later stage doubles them."""
    stem: str = "imagenet"
    """`imagenet`: 7x7 stride 2 and a max-pool (stride 32 in all). `small`: 3x3 stride 1
    without pooling (stride 8), for images of 32 px or so."""
    momentum: float = 0.9
    dtype: Any = jnp.float32
    remat: bool = False
    """Compute each block anew in the backward pass rather than keep what is inside it."""

    @property
    def num_features(self) -> int:
        """Channels of the feature map."""
        return self.width * 2 ** (len(self.stage_sizes) - 1) * (4 if self.bottleneck else 1)

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """[B, H, W, 3] -> [B, ceil(H / stride), ceil(W / stride), num_features]."""
        large = self.stem == "imagenet"
        x = Conv(self.width, 7 if large else 3, 2 if large else 1, self.dtype, name="conv1")(image)
        x = nn.relu(BatchNorm(self.momentum, dtype=self.dtype, name="bn1")(x, train))
        if large:
            x = max_pool(x)
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                x = kind(
                    self.width * 2**stage,
                    2 if stage and not block else 1,
                    self.bottleneck,
                    self.momentum,
                    self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        return x


def max_pool(x: Array) -> Array:
    """3x3 max-pool of stride 2, padded by 1: [B, H, W, F] -> [B, ceil(H/2), ceil(W/2), F].

    One axis after the other, as a maximum of strided slices: the gradient of `reduce_window` is a
    scatter that costs more than the first stage of convolutions on CPU.
    """
    for axis in (1, 2):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (1, 1)
        size = x.shape[axis]
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        a, b, c = (jax.lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


STAGE_SIZES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def resnet(
    name: str,
    width: int = 64,
    stem: str = "imagenet",
    momentum: float = 0.9,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> ResNet:
    """A trunk by name.

    Raises:
      ValueError: for a name not in `STAGE_SIZES` or a stem other than `imagenet` and `small`.
    """
    if name not in STAGE_SIZES:
        raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(STAGE_SIZES)}")
    if stem not in ("imagenet", "small"):
        raise ValueError(f"stem {stem!r} is unknown; choose imagenet or small")
    return ResNet(STAGE_SIZES[name], name == "resnet50", width, stem, momentum, dtype, remat)
