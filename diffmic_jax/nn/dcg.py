"""The guidance network: dual-granularity conditional guidance (DCG).

A global stream classifies the whole image by a class map. The regions where this map is largest are
cropped from the image and classified by a local stream, which weighs them by attention. Linear
layers and the class map have no bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, Integer

from diffmic_jax.nn import preprocess
from diffmic_jax.nn.entry import look
from diffmic_jax.nn.layers import Dense
from diffmic_jax.types import Array, Guidance


def merge_classes(
    saliency: Float[Array, "b h w c"], weights: Float[Array, "b c"] | None = None
) -> Float[Array, "b h w"]:
    """Min-max normalise each class map and sum over classes: [B, h, w, C] -> [B, h, w].

    A class of zero range has no maximum and becomes 0. The classes count alike, or by their weights
    [B, C].
    """
    low = saliency.min((1, 2), keepdims=True)
    span = saliency.max((1, 2), keepdims=True) - low
    scaled = (saliency - low) / jnp.where(span > 0, span, 1)
    scaled = jnp.where(span > 0, scaled, 0)
    if weights is not None:
        scaled = scaled * jnp.asarray(weights)[:, None, None]
    return scaled.sum(axis=-1)


def select_regions(
    saliency: Float[Array, "b h w c"],
    num_regions: int,
    window: tuple[int, int],
    *,
    overlap: float = 1.0,
    weights: Float[Array, "b c"] | None = None,
) -> Int32[Array, "b {num_regions} 2"]:
    """Greedy choice of the grid windows with the highest mean saliency.

    Each round takes the best window wholly inside the grid (the first in row-major order on a
    tie), then sets its cells to 0 and excludes that corner. When no corner is left the result is
    (0, 0).

    Args:
      saliency: [B, h, w, C] raw class maps.
      num_regions: K.
      window: height and width of a region in grid cells.
      overlap: the largest share of a window's cells that may be in windows before it. When all
        corners that are left share more, the round takes the best of those that share the least.
      weights: [B, C] of the classes, which count alike without.

    Returns:
      [B, K, 2] int32 upper-left cells (row, column), best first.
    """
    height, width = (side - w + 1 for side, w in zip(saliency.shape[1:3], window, strict=True))
    rows, cols = jnp.arange(saliency.shape[1]), jnp.arange(saliency.shape[2])
    area = window[0] * window[1]
    most = math.floor(overlap * area + 1e-6)

    def inside(index: Array, corner: Array, size: int) -> Array:
        return (index >= corner[:, None]) & (index < corner[:, None] + size)

    def within_windows(x: Array) -> Array:
        zero = np.zeros((), x.dtype)
        size = (1, *window)
        return jnp.asarray(jax.lax.reduce_window(x, zero, jax.lax.add, size, (1, 1, 1), "VALID"))

    def choose(carry: Any, _: None) -> tuple[Any, Array]:
        merged, covered, taken = carry
        score = jnp.where(taken, -jnp.inf, within_windows(merged) / area)
        if most < area:
            shared = within_windows(covered.astype(jnp.int32))
            least = jnp.where(taken, area, shared).min((1, 2), keepdims=True)
            score = jnp.where(shared > jnp.maximum(least, most), -jnp.inf, score)
        best = score.reshape(score.shape[0], -1).argmax(axis=1)
        row, col = best // width, best % width
        chosen = inside(rows, row, window[0])[:, :, None] & inside(cols, col, window[1])[:, None]
        taken |= inside(rows[:height], row, 1)[:, :, None] & inside(cols[:width], col, 1)[:, None]
        return (jnp.where(chosen, 0, merged), covered | chosen, taken), jnp.stack([row, col], -1)

    covered = jnp.zeros(saliency.shape[:3], bool)
    start = merge_classes(saliency, weights), covered, covered[:, :height, :width]
    _, cells = jax.lax.scan(choose, start, length=num_regions)
    return cells.swapaxes(0, 1).astype(jnp.int32)


def crop_regions(
    image: Float[Array, "b h w f"], corners: Integer[Array, "b k 2"], size: int
) -> Float[Array, "b k {size} {size} f"]:
    """Cut squares out of each image, all at once and on the device.

    Where a square crosses the border, its part inside the image fills the crop's lower right and
    the rest is the image's minimum.

    Args:
      image: [B, H, W, F].
      corners: [B, K, 2] int upper-left pixels (row, column).
      size: p, side of a square in pixels.

    Returns:
      [B, K, p, p, F].
    """

    def source(corner: Array, limit: int) -> tuple[Array, Array]:
        """Pixel index [B, K, p] along one axis, and where it is real."""
        low = jnp.maximum(corner, 0)
        missing = size - (jnp.minimum(corner + size, limit) - low)
        offset = jnp.arange(size) - missing[..., None]
        return jnp.clip(low[..., None] + offset, 0, limit - 1), offset >= 0

    row, row_real = source(corners[..., 0], image.shape[1])
    col, col_real = source(corners[..., 1], image.shape[2])
    batch = jnp.arange(image.shape[0])[:, None, None, None]
    crops = image[batch, row[..., :, None], col[..., None, :]]
    real = row_real[..., :, None] & col_real[..., None, :]
    return jnp.where(real[..., None], crops, image.min((1, 2, 3))[:, None, None, None, None])


class GatedAttention(nn.Module):
    """Attention over regions: score = w^T (tanh(V h) * sigmoid(U h))."""

    features: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b k f"]) -> Float[Array, "b k"]:
        """Weights [B, K] of the regions' features h [B, K, F], summing to 1."""
        dense = partial(Dense, use_bias=False, dtype=self.dtype)
        value = nn.tanh(dense(features=self.features, name="V")(h))
        gate = nn.sigmoid(dense(features=self.features, name="U")(h))
        return nn.softmax(dense(features=1, name="w")(value * gate)[..., 0])


class DCG(nn.Module):
    """Global and local classification of an image (v1 paper, section 2.1)."""

    num_classes: int
    global_trunk: nn.Module
    """[B, H, W, 3], train -> [B, h, w, F]."""
    local_trunk: nn.Module | None
    """Trunk of the regions; None: `global_trunk` as well, with statistics of its own for them."""
    saliency_stride: int = 0
    """Of the grid that finds the regions, one of `global_trunk.strides`; 0: the last."""
    saliency_weights: str = "uniform"
    """Of the classes when regions are found: `uniform`, or `predicted` by the class maps.

    Softmax makes nothing of what the maps of all classes have in common. Where one is high because
    it speaks for its class, the others are low because it speaks against theirs, and their sum with
    equal weights is as high elsewhere.
    """
    num_regions: int = 6
    region_size: int = 32
    """Side of a region in pixels."""
    region_overlap: float = 1.0
    """Largest share of a region inside those before it, as in `select_regions`."""
    crop_channels: str = "all"
    """`all` keeps the colour; `first` repeats channel 0 (the authors' v1 code)."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> Guidance:
        """Classify [B, H, W, 3]; logits are at least float32."""
        trunk: Any = self.global_trunk
        grids = trunk.pyramid(image, train)
        features = grids[trunk.strides[-1]]
        saliency = self._saliency(grids, features)
        saliency = saliency.astype(jnp.promote_types(saliency.dtype, jnp.float32))
        global_ = saliency.mean((1, 2))
        still, logits = jax.lax.stop_gradient((saliency, global_))
        corners = self._corners(still, image.shape[1:3], self._weights(logits))
        source = image if self.crop_channels == "all" else image[..., :1].repeat(3, axis=-1)
        patches = crop_regions(source, corners, self.region_size)
        local, attention, z = self._local(patches, train)
        fused = (global_ + local) / 2
        pooled = features.mean((1, 2))
        return Guidance(
            fused=fused,
            global_=global_,
            local=local,
            saliency=saliency,
            corners=corners,
            patches=patches,
            attention=attention,
            features=jnp.concatenate([pooled, z], axis=-1),
            pooled=pooled,
            look=look(grids),
        )

    def _saliency(self, grids: Mapping[int, Array], features: Array) -> Array:
        """The class maps of the last of the trunk's grids, on the grid that is asked for.

        A finer grid has the class map of the last features, interpolated, plus one of the finer
        features: as if both had been joined before one class map, which is linear and without
        bias, at less cost.
        """
        dense = partial(Dense, features=self.num_classes, use_bias=False, dtype=self.dtype)
        coarse: Array = dense(name="saliency")(features)
        if not self.saliency_stride or grids[self.saliency_stride] is features:
            return coarse
        detail: Array = dense(name="saliency_detail")(grids[self.saliency_stride])
        resized: Array = jax.image.resize(coarse, detail.shape, "bilinear")
        return resized + detail

    def merged(self, guidance: Guidance) -> Array:
        """The map [B, h, w] that found the regions of a prediction."""
        return merge_classes(guidance.saliency, self._weights(guidance.global_))

    def _weights(self, logits: Array) -> Array | None:
        """Weights [B, C] of the classes when regions are found; None: they count alike."""
        return None if self.saliency_weights == "uniform" else nn.softmax(logits)

    def _corners(
        self, saliency: Array, image_size: tuple[int, ...], weights: Array | None = None
    ) -> Array:
        """Pixel corners [B, K, 2] of the most salient regions."""
        grid = saliency.shape[1:3]
        height, width = (
            max(1, round(self.region_size * cells / side))
            for cells, side in zip(grid, image_size, strict=True)
        )
        window, overlap = (height, width), self.region_overlap
        cells = select_regions(saliency, self.num_regions, window, overlap=overlap, weights=weights)
        # On the host and in float64: rounds half to even, at the position of each cell.
        pixels = [
            np.rint(np.arange(n) / n * side).astype(np.int32)
            for n, side in zip(grid, image_size, strict=True)
        ]
        return jnp.stack(
            [jnp.asarray(axis)[cells[..., i]] for i, axis in enumerate(pixels)], axis=-1
        )

    def _local(self, patches: Array, train: bool) -> tuple[Array, Array, Array]:
        """Local logits [B, C], attention [B, K] and the features [B, F] of the regions."""
        batch, regions = patches.shape[:2]
        own = preprocess.of(self.global_trunk)
        patches = own.change(patches, preprocess.of(self.local_trunk or self.global_trunk))
        run: Any = self.local_trunk or self._shared_trunk
        features = run(patches.reshape(-1, *patches.shape[2:]), train)
        h = features.mean((1, 2)).reshape(batch, regions, -1)
        attention = GatedAttention(dtype=self.dtype, name="attention")(h)
        z = jnp.einsum("bk,bkf->bf", attention, h)
        dense = partial(Dense, features=self.num_classes, use_bias=False, dtype=self.dtype)
        logits = dense(name="classifier")(z)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), attention, z

    def _shared_trunk(self, patches: Array, train: bool) -> Any:
        """Features of regions [N, p, p, 3] by the weights of the whole image's trunk.

        Magnified regions have other statistics than whole images, and in training each of the two
        is normalised by a batch of its own. Were both recorded in one running mean and variance,
        these would fit neither in evaluation; so regions have their own, beside the shared weights
        (as Xie et al. 2020 do for two kinds of images, "Adversarial examples improve image
        recognition").
        """
        variables = dict(self.global_trunk.variables)
        trunk = self.global_trunk.clone(parent=None, name=None)
        rngs = {kind: self.make_rng(kind) for kind in ("drop_path",) if self.has_rng(kind)}
        if "batch_stats" not in variables:
            return trunk.apply(variables, patches, train, rngs=rngs)
        stats = self.variable("batch_stats", "local_trunk", lambda: variables["batch_stats"])
        variables["batch_stats"] = stats.value
        features, updates = trunk.apply(
            variables, patches, train, rngs=rngs, mutable=["batch_stats"]
        )
        if train:
            stats.value = updates["batch_stats"]
        return features
