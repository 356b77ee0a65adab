"""A plain image classifier in the guidance's place: the baseline of every diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from diffmic_jax.nn.dcg import merge_classes
from diffmic_jax.nn.entry import look
from diffmic_jax.nn.layers import Dense
from diffmic_jax.types import Array, Guidance


class PlainClassifier(nn.Module):
    """A trunk, the mean over its positions, and a linear layer."""

    num_classes: int
    global_trunk: nn.Module
    """[B, H, W, 3], train -> [B, h, w, F]."""
    region_size: int = 32
    """p of the [B, 0, p, p, 3] regions."""
    cosine_scale: float = 0.0
    """If not 0, the logits are this times the cosine between features and class vectors."""
    hidden: tuple[int, ...] = ()
    """Widths of layers between the features and the last, linear one; normalised, with ReLU."""
    dropout: float = 0.0
    """Share of the inputs of each of these layers that is left out where a random key `dropout` is
    given."""
    dtype: Any = jnp.float32

    def merged(self, guidance: Guidance) -> Array:
        """The class activation maps in one [B, h, w], by the predicted probabilities."""
        return merge_classes(guidance.saliency, nn.softmax(guidance.fused))

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"] | Float[Array, "b f"], train: bool
    ) -> Guidance:
        """Classify [B, H, W, 3]; logits are at least float32.

        In the place of images it takes the means [B, F] of the features that its trunk has for
        them, and leaves the trunk out.

        The logits of both branches are the same, and K is 0. The saliency is the class activation
        map (Zhou et al. 2016): what the layers make of each position. Its mean is the logits where
        they are linear.
        """
        seen = None
        if image.ndim == 4:
            trunk: Any = self.global_trunk
            grids = trunk.pyramid(image, train)
            features, seen = grids[trunk.strides[-1]], look(grids)
        else:
            features = image[:, None, None].astype(self.dtype)
        pooled = features.mean((1, 2))
        classify = self._head()
        saliency = classify(features)
        whole = classify(pooled[:, None, None]) if self.hidden else saliency
        logits = whole.mean((1, 2))
        batch, size = image.shape[0], self.region_size
        corners = jnp.zeros((batch, 0, 2), jnp.int32)
        patches = jnp.zeros((batch, 0, size, size, 3), image.dtype)
        attention = jnp.zeros((batch, 0), logits.dtype)
        return Guidance(
            fused=logits,
            global_=logits,
            local=logits,
            saliency=saliency,
            corners=corners,
            patches=patches,
            attention=attention,
            features=pooled,
            pooled=pooled,
            look=seen,
        )

    def _head(self) -> Callable[[Array], Array]:
        """From features [B, h, w, F] to the logits of each position, [B, h, w, C]."""
        layers = [
            (
                Dense(width, dtype=self.dtype, name=f"hidden_{i}"),
                nn.LayerNorm(dtype=self.dtype, use_fast_variance=False, name=f"norm_{i}"),
            )
            for i, width in enumerate(self.hidden)
        ]
        drop = nn.Dropout(
            self.dropout, broadcast_dims=(1, 2), deterministic=not self.has_rng("dropout")
        )
        last = (
            self._cosine
            if self.cosine_scale
            else Dense(self.num_classes, dtype=self.dtype, name="classifier")
        )

        def classify(x: Array) -> Array:
            for layer, norm in layers:
                x = nn.relu(norm(layer(drop(x))))
            logits: Array = last(drop(x))
            return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

        return classify

    def _cosine(self, x: Array) -> Array:
        """Scaled cosines [B, h, w, C] between features and class vectors."""
        # Not the norm, which has no gradient where all features are 0.
        mean = x.mean((1, 2))
        inverse = jax.lax.rsqrt(jnp.square(mean).sum(axis=-1) + 1e-12)
        scale = self.cosine_scale * inverse[:, None, None, None]
        shape = (x.shape[-1], self.num_classes)
        vectors = self.param("class_vectors", nn.initializers.normal(), shape)
        cosines: Array = scale * x @ (vectors / jnp.linalg.norm(vectors, axis=0))
        return cosines
