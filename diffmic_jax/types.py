"""The few types that cross module borders, and their shapes.

Axes: B images, H and W pixels, h and w cells of a feature grid, C classes, K regions of
interest, p the side of a region in pixels, S diffusion draws, L the cells of a label map
(none in v1, K x K in v2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any
"""A JAX or NumPy array: the same code runs on both, and shapes stand in the docstrings."""
Variables = dict[str, Any]
"""Nested dictionary of arrays, as Flax keeps parameters and statistics."""


class Batch(NamedTuple):
    """Images and their labels, padded to a fixed size."""

    image: Array
    """[B, H, W, 3] uint8, or float32 and normalised."""
    label: Array
    """[B] int32 class indices, or [B, C] multi-hot."""
    mask: Array
    """[B] float32, 0 on padding rows."""
    index: Array | None = None  # type: ignore[assignment]  # hides tuple.index
    """[B] int32, position of the image in its split; None means 0..B-1."""


class Guidance(NamedTuple):
    """What the guidance network (DCG) says of a batch."""

    fused: Array
    """[B, C] logits, the mean of the two branches."""
    global_: Array
    """[B, C] logits from the whole image."""
    local: Array
    """[B, C] logits from the regions."""
    saliency: Array
    """[B, h, w, C] class map before any squashing."""
    corners: Array
    """[B, K, 2] int32 upper-left pixel (row, column) of each region."""
    patches: Array
    """[B, K, p, p, 3] the regions."""
    attention: Array
    """[B, K], sums to 1 over the regions."""
    features: Array | None = None
    """[B, G] what the logits are linear in: of the whole image and, for DCG, of the regions."""


class Prior(NamedTuple):
    """One way to centre and condition the diffusion."""

    mean: Array
    """[B, *L, C] the prior mean of the forward process."""
    condition: Array
    """[B, *L, M] what the denoiser sees beside y_t; M may be 0."""
    projection: int
    """Which of the denoiser's input projections reads it."""


class Prediction(NamedTuple):
    """The classifier's answer for a batch."""

    probabilities: Array
    """[B, C]."""
    spread: Array
    """[B, C] standard deviation between the draws."""
    y0_hat: Array
    """[S, B, C] the draws themselves."""
    guidance: Guidance
