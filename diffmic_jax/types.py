"""The few types that cross package borders, and their shapes.

Axes: B images, H and W pixels, h and w cells of a feature grid, C classes, K regions of
interest, p the side of a region in pixels, S samples of the label, L the cells of a label map
(none in v1, K x K in v2). In annotations they are lower-case letters, and `*l` is L.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Int, Int32, Integer, UInt8

Array: TypeAlias = jax.Array | np.ndarray
"""A JAX or NumPy array: the same code runs on both."""
Variables: TypeAlias = dict[str, Any]
"""Nested dictionary of arrays, as Flax keeps parameters and statistics."""
Timestep: TypeAlias = Integer[Array, ""] | Integer[Array, " b *l"] | int | np.integer
"""0..T-1: one for all labels, or one for each [B, *L]."""


class Batch(NamedTuple):
    """Images and their labels, padded to a fixed size."""

    image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"] | Float[Array, "b *m f"]
    """[B, H, W, 3] uint8, or float32 and normalised.

    Where `Method.on_features`, [B, F] features of images to train on, and [B, M, F] of images and
    their mirrored copies to predict."""
    label: Int32[Array, " b"] | Float[Array, "b c"]
    """[B] int32 class indices, or [B, C] multi-hot."""
    mask: Float[Array, " b"]
    """[B] float32, 0 on padding rows."""
    index: Int[Array, " b"] | None = None  # type: ignore[assignment]  # hides tuple.index
    """[B] int32, position of the image in its split, which seeds its augmentation; None where it is
    only predicted."""


class Guidance(NamedTuple):
    """The guidance prediction for a batch."""

    fused: Float[Array, "b c"]
    """[B, C] logits, the mean of the two branches."""
    global_: Float[Array, "b c"]
    """[B, C] logits from the whole image."""
    local: Float[Array, "b c"]
    """[B, C] logits from the regions."""
    saliency: Float[Array, "b h w c"]
    """[B, h, w, C] class map before any squashing."""
    corners: Int32[Array, "b k 2"]
    """[B, K, 2] int32 upper-left pixel (row, column) of each region."""
    patches: Float[Array, "b k p p 3"]
    """[B, K, p, p, 3] the regions."""
    attention: Float[Array, "b k"]
    """[B, K], sums to 1 over the regions."""
    features: Float[Array, "b g"] | None = None
    """[B, G] input of the linear layers: of the whole image and, for DCG, of the regions."""
    pooled: Float[Array, "b f"] | None = None
    """[B, F] mean of the trunk's last features of the whole image."""
    look: Float[Array, "b s"] | None = None
    """[B, S] means of its features on finer grids, one after the other; None without an image."""


class Prior(NamedTuple):
    """One way to centre and condition the diffusion."""

    mean: Float[Array, "b *l c"]
    """[B, *L, C] the prior mean of the forward process."""
    condition: Float[Array, "b *l m"]
    """[B, *L, M] the condition, an input of the denoiser beside y_t; M may be 0."""
    projection: int
    """Which of the denoiser's input projections reads it."""


class Prediction(NamedTuple):
    """The classifier's prediction for a batch."""

    probabilities: Float[Array, "b c"]
    """[B, C]."""
    spread: Float[Array, "b c"]
    """[B, C] standard deviation between the samples."""
    y0_hat: Float[Array, "s b c"]
    """[S, B, C] the samples of the clean label; with flips first those of the image itself, then
    those of each mirrored copy."""
    guidance: Guidance
    """Of the image itself; with flips, `fused` is that of the mean probability over the copies."""
