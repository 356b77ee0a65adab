"""The denoiser: predicts the noise in a label, given the image and the guidance.

Every layer acts on the last axis, so one network serves a label vector [B, C] (v1) and a map of
labels [B, K, K, C] with a timestep in every cell (v2). The image embedding does not depend on the
timestep and is computed once per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from diffmic_jax.nn import preprocess
from diffmic_jax.nn.layers import BatchNorm, Dense
from diffmic_jax.nn.preprocess import IMAGENET, Preprocess
from diffmic_jax.types import Array, Prior, Timestep

Steps: TypeAlias = Integer[Array, "*t"] | int | np.integer
"""A timestep for all of a batch, or one for each row of it; or of a shape that broadcasts."""
GATES: dict[str, nn.initializers.Initializer] = {
    "uniform": nn.initializers.uniform(1.0),
    "ones": nn.initializers.ones,
}
"""Initialisation of the factors per timestep and feature."""


class TimeGate(nn.Module):
    """A learned factor per timestep and feature."""

    features: int
    num_train_steps: int
    """T."""
    gates: Literal["uniform", "ones"] = "uniform"
    """How the factors are initialised: uniform in [0, 1), or 1."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*s {self.features}"], t: Steps
    ) -> Float[Array, "*s {self.features}"]:
        """Scale x [B, *L, D] by the row of t, a scalar or [B, *L]."""
        # One row more than there are timesteps, as the published checkpoints have.
        shape = (self.num_train_steps + 1, self.features)
        table = self.param("embedding", GATES[self.gates], shape)
        return x * table[t].astype(self.dtype)


class Denoiser(nn.Module):
    """Noise predictor (v1 paper, section 2.3; its "UNet")."""

    num_classes: int
    encoder: nn.Module | None
    """Image trunk: [B, H, W, 3], train -> [B, h, w, F]; None: `encode` is given such features."""
    feature_dim: int = 6144
    """D."""
    num_train_steps: int = 1000
    """T, length of the chain."""
    num_projections: int = 1
    """Input projections: 1 if all streams share theirs, 3 if each has its own."""
    encoder_momentum: float = 0.9
    """Momentum of the running statistics of the image embedding."""
    local_encoder: nn.Module | None = None
    """Trunk of the regions, [B, p, p, 3], train -> [B, h, w, F]; None leaves them out (v1)."""
    num_regions: int = 0
    """K, with a local encoder."""
    zero_output: bool = False
    """Whether the last layer starts with zeros."""
    gates: Literal["uniform", "ones"] = "uniform"
    """How the factors of `TimeGate` start; with ones, all timesteps have the same network."""
    preprocess: Preprocess = IMAGENET
    """How its images and regions are normalised; the trunks may take others."""
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Name the layers; the projections share everything after them."""
        dense = partial(Dense, features=self.feature_dim, dtype=self.dtype)
        norm = partial(BatchNorm, dtype=self.dtype)
        gate = partial(
            TimeGate,
            features=self.feature_dim,
            num_train_steps=self.num_train_steps,
            gates=self.gates,
            dtype=self.dtype,
        )
        self.embed = dense()
        self.embed_norm = norm(momentum=self.encoder_momentum)
        if self.local_encoder is not None:
            self.local_embed, self.local_norm = dense(), norm()
            shape = (self.num_regions + 1, self.feature_dim)
            self.mixing = self.param("mixing", nn.initializers.normal(1.0), shape)
        self.projections = [dense() for _ in range(self.num_projections)]
        self.hidden = [dense() for _ in range(2)]
        # Named so that the parameters are gates_0, ...: `gates` is a field.
        self.time_gates = [gate(name=f"gates_{i}") for i in range(3)]
        self.norms = [norm() for _ in range(3)]
        self.output = Dense(features=self.num_classes, dtype=self.dtype, zero=self.zero_output)

    def encode(
        self,
        image: Float[Array, "b h w 3"] | Float[Array, "b f"],
        patches: Float[Array, "b *k p p 3"] | None,
        train: bool,
        pooled: Float[Array, "b f"] | None = None,
    ) -> Float[Array, "b {self.feature_dim}"]:
        """Embedding [B, D] of images [B, H, W, 3] and their regions [B, K, p, p, 3].

        Without a local encoder the regions are not used, and without an encoder `pooled` [B, F],
        features of the whole image, takes the place of its features' mean.

        With a local encoder (v2's image-feature prior) the embeddings of the image and of the K
        regions are mixed, feature by feature, with learned weights that sum to 1.
        """
        if self.encoder is not None:
            image = self.preprocess.change(image, preprocess.of(self.encoder))
            pooled = self.encoder(image, train).mean((1, 2))
        assert pooled is not None, "without an encoder the image's features have to be given"
        whole = self.embed_norm(self.embed(pooled), train)
        if self.local_encoder is None:
            return whole
        assert patches is not None, "the local encoder needs regions"
        patches = self.preprocess.change(patches, preprocess.of(self.local_encoder))
        flat = patches.reshape(-1, *patches.shape[2:])
        pooled = self.local_encoder(flat, train).mean((1, 2))
        regions = self.local_norm(self.local_embed(pooled), train)
        regions = regions.reshape(*patches.shape[:2], -1)
        every = jnp.concatenate([whole[:, None], regions], axis=1)
        return (every * nn.softmax(self.mixing, axis=0).astype(self.dtype)).sum(axis=1)

    def __call__(
        self,
        y_t: Float[Array, "b *l {self.num_classes}"],
        condition: Float[Array, "b *l m"],
        t: Timestep,
        features: Float[Array, "b {self.feature_dim}"],
        train: bool,
        projection: int = 0,
    ) -> Float[Array, "b *l {self.num_classes}"]:
        """Predict the noise in y_t.

        Args:
          y_t: [B, *L, C] noisy label.
          condition: [B, *L, M] from the guidance; M may be 0.
          t: timestep, a scalar or [B, *L].
          features: [B, D] from `encode`.
          train: normalise by the batch and record its statistics.
          projection: which input projection to use.

        Returns:
          eps_hat [B, *L, C] in at least float32.
        """
        x = self._product(y_t, condition, projection)
        features = jnp.expand_dims(features, tuple(range(1, x.ndim - 1)))
        return self._respond(x, t, features, train)

    def streams(
        self,
        y_t: Sequence[Float[Array, "b *l {self.num_classes}"]],
        priors: Sequence[Prior],
        t: Timestep,
        features: Float[Array, "b {self.feature_dim}"],
    ) -> list[Float[Array, "b *l {self.num_classes}"]]:
        """Predict, in training, the noise in one noisy label per prior, all at once.

        They share timesteps, features and, after their projections, the weights, which are then
        read once. Each is normalised by its own statistics; those of the streams that go through
        the first one's projection are recorded, in their order.

        Args:
          y_t: [B, *L, C] for each prior.
          priors: conditions and projections.
          t: timestep, a scalar or [B, *L].
          features: [B, D] from `encode`.

        Returns:
          eps_hat [B, *L, C] for each prior.
        """
        pairs = zip(y_t, priors, strict=True)
        products = [self._product(y, each.condition, each.projection) for y, each in pairs]
        recorded = tuple(each.projection == priors[0].projection for each in priors)
        x = jnp.stack(products, axis=1)
        features = jnp.expand_dims(features, tuple(range(1, x.ndim - 1)))
        steps = jnp.asarray(t)
        steps = jnp.expand_dims(steps, 1) if steps.ndim else steps
        eps_hat = self._respond(x, steps, features, True, recorded)
        return [eps_hat[:, i] for i in range(len(priors))]

    def _product(self, y_t: Array, condition: Array, projection: int) -> Array:
        """The first layer's product: [B, *L, C] and [B, *L, M] -> [B, *L, D]."""
        x = jnp.concatenate([y_t, condition], axis=-1).astype(self.dtype)
        return self.projections[projection](x)

    def _respond(
        self,
        x: Array,
        t: Timestep,
        features: Array,
        train: bool,
        recorded: tuple[bool, ...] = (),
    ) -> Array:
        """From the first product to eps_hat; arguments as in `__call__` and `gated`."""
        x = nn.softplus(self.gated(0, x, t, train, recorded)) * features
        for i, layer in enumerate(self.hidden, 1):
            x = nn.softplus(self.gated(i, layer(x), t, train, recorded))
        eps_hat = self.output(x)
        return eps_hat.astype(jnp.promote_types(eps_hat.dtype, jnp.float32))

    def gated(
        self,
        i: int,
        x: Float[Array, "b *s d"],
        t: Steps,
        train: bool,
        recorded: tuple[bool, ...] = (),
    ) -> Float[Array, "b *s d"]:
        """Gate and normalisation of layer i, before its softplus; affine in evaluation.

        Args:
          i: of the layer.
          x: [B, *L, D] product with its bias; [B, streams, *L, D] with `recorded`.
          t: timestep, a scalar or one for each [B, *L].
          train: as in `__call__`.
          recorded: as in `BatchNorm`.
        """
        return self.norms[i](self.time_gates[i](x, t), train, recorded)

    def initialize(
        self,
        image: Float[Array, "b h w 3"],
        patches: Float[Array, "b *k p p 3"] | None,
        priors: tuple[Prior, ...],
        pooled: Float[Array, "b f"] | None = None,
    ) -> None:
        """Touch every parameter once, for `init` with this as the method."""
        features = self.encode(image, patches, False, pooled)
        for prior in priors:
            t = jnp.zeros((), jnp.int32)
            self(prior.mean, prior.condition, t, features, False, prior.projection)
