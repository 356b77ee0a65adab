"""Layers that compute what PyTorch's compute, so that weights can be exchanged."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.nn.convolution import Padding, convolve, padding_of
from diffmic_jax.nn.depthwise import depthwise
from diffmic_jax.types import Array

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform within +-1/sqrt(fan_in): torch's default for linear kernels and their biases."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nn.Module):
    """Linear layer over the last axis with torch's initialisation."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    zero: bool = False
    """Initialise with zeros instead."""

    @nn.compact
    def __call__(self, x: Float[Array, "*s f"]) -> Float[Array, "*s {self.features}"]:
        """[..., F] -> [..., features]."""
        init = nn.initializers.zeros if self.zero else uniform_fan_in(x.shape[-1])
        return nn.Dense(
            self.features,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=init,
            bias_init=init,
            name="linear",
        )(x)


class Conv(nn.Module):
    """Convolution without bias, padded as in torch or TensorFlow.

    `same` would pad an even input at stride 2 on one side only and shift the features.
    """

    features: int
    size: int
    stride: int = 1
    padding: Padding = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b _ _ {self.features}"]:
        """[B, H, W, F] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", he_fan_out, shape)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)


class Depthwise(nn.Module):
    """Convolution of every channel by itself, padded as TensorFlow's SAME.

    At stride 1 that is as torch's padding by size // 2.
    """

    size: int
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b _ _ f"]:
        """[B, H, W, F] -> [B, ceil(H / stride), ceil(W / stride), F]."""
        # He's for a fan-out of one channel's kernel.
        init = nn.initializers.normal(2**0.5 / self.size)
        kernel = self.param("kernel", init, (self.size, self.size, 1, x.shape[-1]))
        above, left = (padding_of(side, self.size, self.stride, "same") for side in x.shape[1:3])
        y = depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, (above, left))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(self.dtype)
        return y


def relu6(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """min(max(x, 0), 6)."""
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, rows at random become 0.

    Those that stay are scaled up, so that the mean does not change. Takes random numbers of the
    collection `drop_path`.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], train: bool) -> Float[Array, "b ..."]:
        """[B, ...] -> [B, ...]; the same in evaluation."""
        if not (train and self.rate) or self.is_initializing():
            return x
        shape = (len(x), *(1 for _ in x.shape[1:]))
        stays = jax.random.bernoulli(self.make_rng("drop_path"), 1 - self.rate, shape)
        return jnp.where(stays, x / (1 - self.rate), 0).astype(x.dtype)


class LayerScale(nn.Module):
    """A learned factor for each feature of a residual branch (Touvron et al. 2021, "CaiT")."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "b *s f"]) -> Float[Array, "b *s f"]:
        """[B, ..., F] -> [B, ..., F]."""
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * jnp.asarray(gamma, x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as torch computes it.

    Differs from flax's in the running variance, which is the unbiased one (n / (n - 1)). Under a
    global-view jit the statistics are those of the whole batch on all devices. Several streams can
    go through in one call, as if they came one after the other.
    """

    momentum: float = 0.9
    """Weight of the old running statistic; torch calls 1 - 0.9 its momentum."""
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *s f"], train: bool, recorded: tuple[bool, ...] = ()
    ) -> Float[Array, "b *s f"]:
        """Normalise [B, ..., F]; in training by the batch, whose statistics are recorded.

        Args:
          x: [B, ..., F], or [B, streams, ..., F] with `recorded`.
          train: by the batch, not by the running statistics.
          recorded: if not empty, axis 1 of x holds streams, each normalised as a batch of its own;
            for each stream, whether its statistics are recorded, in this order.
        """
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        # Statistics stay in float32 (or better) whatever the compute dtype is.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return ((wide - running_mean.value) * factor + bias).astype(self.dtype)
        axes = tuple(axis for axis in range(x.ndim - 1) if not recorded or axis != 1)
        near = running_mean.value
        normal, mean, var = _by_batch(wide, scale, bias, near, axes, self.epsilon)
        if not self.is_initializing():
            streams = recorded or (True,)
            count = x.size // (features * len(streams))
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            for i in np.flatnonzero(streams):
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    own = new.reshape(len(streams), features)[i]
                    running.value = keep * running.value + (1 - keep) * own
        return normal.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _by_batch(
    x: Array, scale: Array, bias: Array, near: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, Array, Array]:
    """Normalised x, with its mean and biased variance over the axes, which pass no gradient.

    The gradient is written out: it needs two sums, where the derivative of each step needs six.
    """
    # Elsewhere the second pass costs little, and it loses no digits.
    moments = jax.lax.platform_dependent(
        x, near, tpu=partial(moments_in_one_pass, axes=axes), default=partial(_moments, axes=axes)
    )
    mean, var = moments
    return (x - mean) * (scale * jax.lax.rsqrt(var + epsilon)) + bias, mean, var


def _moments(x: Array, near: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    del near
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def moments_in_one_pass(x: Array, near: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and variance by one pass over x and, on many devices, by one exchange.

    Around `near` [F], since a difference of large moments would have few digits: the closer to the
    mean, the better.
    """
    off = x - near
    mean = off.mean(axes, keepdims=True)
    var = jnp.maximum(jnp.square(off).mean(axes, keepdims=True) - jnp.square(mean), 0)
    return mean + near, var


def _by_batch_forward(
    x: Array, scale: Array, bias: Array, near: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    normal, mean, var = _by_batch(x, scale, bias, near, axes, epsilon)
    return (normal, mean, var), (x, scale, mean, jax.lax.rsqrt(var + epsilon))


def _by_batch_backward(
    axes: tuple[int, ...], epsilon: float, kept: tuple[Array, ...], grads: tuple[Array, ...]
) -> tuple[Array, Array, Array, Array]:
    del epsilon
    x, scale, mean, inverse = kept
    grad = grads[0]
    unit = (x - mean) * inverse
    of_bias, of_scale = (each.sum(axes, keepdims=True) for each in (grad, grad * unit))
    count = x.size // mean.size
    of_x = scale * inverse * (grad - of_bias / count - unit * (of_scale / count))

    def per_feature(sums: Array) -> Array:
        return sums.reshape(-1, sums.shape[-1]).sum(0)

    return of_x, per_feature(of_scale), per_feature(of_bias), jnp.zeros_like(scale)


_by_batch.defvjp(_by_batch_forward, _by_batch_backward)
