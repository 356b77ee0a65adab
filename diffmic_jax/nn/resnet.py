"""ResNet trunks (He et al. 2016), with torchvision's shapes, padding and stride placement."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.errors import InputError
from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import BatchNorm, Conv, DropPath
from diffmic_jax.nn.names import Map, Modules
from diffmic_jax.nn.preprocess import IMAGENET
from diffmic_jax.types import Array


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or a 1x1-3x3-1x1 bottleneck four times as wide."""

    width: int
    stride: int
    bottleneck: bool
    momentum: float = 0.9
    drop_path: float = 0.0
    """Share of the images that leave it out in training."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], train: bool) -> Float[Array, "b _ _ g"]:
        """[B, H, W, F] -> [B, H / stride, W / stride, width or 4 width]."""
        norm = partial(BatchNorm, momentum=self.momentum, dtype=self.dtype)
        conv = partial(Conv, dtype=self.dtype)
        # (features, size, stride) of each convolution; the stride sits on a 3x3.
        plan = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, (features, size, stride) in enumerate(plan, 1):
            y = conv(features=features, size=size, stride=stride, name=f"conv{i}")(y)
            y = norm(name=f"bn{i}")(y, train)
            if i < len(plan):
                y = nn.relu(y)
        if x.shape != y.shape:
            project = conv(features=y.shape[-1], size=1, stride=self.stride, name="downsample_conv")
            x = project(x)
            x = norm(name="downsample_bn")(x, train)
        return nn.relu(x + DropPath(rate=self.drop_path)(y, train))


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
    drop_path: float = 0.0
    """Of the last block; the first has none, and it rises linearly between them."""
    dtype: Any = jnp.float32
    remat: bool = False
    """Recompute each block in the backward pass: less memory."""

    preprocess = IMAGENET

    @property
    def num_features(self) -> int:
        """Channels of the feature map."""
        last = self.width << (len(self.stage_sizes) - 1)
        return 4 * last if self.bottleneck else last

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage, as `Trunk` has it."""
        first = 4 if self.stem == "imagenet" else 1
        return tuple(first << stage for stage in range(len(self.stage_sizes)))

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b _ _ {self.num_features}"]:
        """[B, H, W, 3] -> [B, ceil(H / stride), ceil(W / stride), num_features]."""
        return self.pyramid(image, train)[self.strides[-1]]

    @nn.compact
    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The features of every stage, as `Trunk` has it."""
        large = self.stem == "imagenet"
        size, stride = (7, 2) if large else (3, 1)
        conv = Conv(features=self.width, size=size, stride=stride, dtype=self.dtype, name="conv1")
        norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name="bn1")
        x: Array = nn.relu(norm(conv(image), train))
        if large:
            x = max_pool(x)
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        rates = iter(np.linspace(0, self.drop_path, sum(self.stage_sizes)).tolist())
        stages = []
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                x = kind(
                    width=self.width * 2**stage,
                    stride=2 if stage and not block else 1,
                    bottleneck=self.bottleneck,
                    momentum=self.momentum,
                    drop_path=next(rates),
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
            stages.append(x)
        return dict(zip(self.strides, stages, strict=True))

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The stem, then every block, as `Trunk` has it."""
        names = ((f"layer{i}_{j}",) for i, n in enumerate(self.stage_sizes, 1) for j in range(n))
        return ("conv1", "bn1"), *names

    def torch_modules(self, *, numbered: bool = False) -> Modules:
        """Its modules by torchvision's and timm's names.

        Args:
          numbered: the children sit in a `Sequential`: 0 is conv1, 1 is bn1, 4 to 7 are the layers.
        """
        first, norm = ("0", "1") if numbered else ("conv1", "bn1")
        modules = {"conv1": first, "bn1": norm}
        for stage, size in enumerate(self.stage_sizes, 1):
            layer = str(stage + 3) if numbered else f"layer{stage}"
            for block in range(size):
                modules |= self._block_modules(f"layer{stage}_{block}", f"{layer}.{block}")
        return modules

    def _block_modules(self, ours: str, theirs: str) -> Modules:
        count = 3 if self.bottleneck else 2
        names = [f"{kind}{i}" for i in range(1, count + 1) for kind in ("conv", "bn")]
        modules = {f"{ours}/{name}": f"{theirs}.{name}" for name in names}
        # Blocks that keep the shape have neither, in both programs.
        modules[f"{ours}/downsample_conv"] = f"{theirs}.downsample.0"
        modules[f"{ours}/downsample_bn"] = f"{theirs}.downsample.1"
        return modules

    def torch_names(self) -> Map:
        """A ResNet of torchvision or timm without its head."""
        return Map(self.torch_modules(), left_out=r"fc\..*")


def max_pool(x: Float[Array, "b h w f"]) -> Float[Array, "b -(-h//2) -(-w//2) f"]:
    """3x3 max-pool of stride 2, padded by 1: [B, H, W, F] -> [B, ceil(H/2), ceil(W/2), F]."""
    # A TPU's compiler keeps the slices, their comparisons and their sums in memory: on a ResNet18
    # that is a third of all that a step reads and writes.
    found: Array = jax.lax.platform_dependent(x, tpu=_pool_windows, default=_pool_slices)
    return found


def _pool_windows(x: Array) -> Array:
    pooled: Array = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return pooled


def _pool_slices(x: Array) -> Array:
    """One axis after the other, as a maximum of strided slices.

    The gradient of `reduce_window` is a scatter that costs more than the first stage of
    convolutions on a CPU.
    """
    for axis in (1, 2):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (1, 1)
        size = x.shape[axis]
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        a, b, c = (jax.lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


def entry(
    *, stage_sizes: tuple[int, ...], bottleneck: bool = False, published: str = ""
) -> TrunkEntry:
    """A ResNet for the registry."""

    def make(*, stem: str, **options: Any) -> ResNet:
        if stem not in ("imagenet", "small"):
            raise InputError(f"stem {stem!r} is unknown; choose imagenet or small")
        return ResNet(stage_sizes=stage_sizes, bottleneck=bottleneck, stem=stem, **options)

    return TrunkEntry(
        kind="resnet",
        make=make,
        options=("width", "stem", "momentum", "remat", "drop_path"),
        published=published,
    )


TRUNKS = {
    name: entry(stage_sizes=sizes, bottleneck=bottleneck, published=f"timm/{name}.tv_in1k")
    for name, sizes, bottleneck in (
        ("resnet18", (2, 2, 2, 2), False),
        ("resnet34", (3, 4, 6, 3), False),
        ("resnet50", (3, 4, 6, 3), True),
        ("resnet101", (3, 4, 23, 3), True),
        ("resnet152", (3, 8, 36, 3), True),
    )
}
"""Name -> entry of the registry."""
