"""The denoiser in evaluation, with everything precomputed that neither y_t nor the step changes.

In evaluation, gate and batch normalisation behind a layer are affine in the layer's product x W, so
layer i is softplus(scale_i[t] * (x W_i) + shift_i[t]). The condition's part of the first product is
the same in every step. Features are the first axis: on CPU, XLA multiplies [D, D] by [D, N] up to
three times as fast as [N, D] by [D, D] where N is small, which outweighs one transposition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import mul
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Array, Variables


class Folded(NamedTuple):
    """A denoiser's main stream at n timesteps; D features, C classes, M numbers of a condition."""

    label: Float[Array, "d c"]
    """[D, C] weights of y_t in the first product."""
    condition: Float[Array, "d m"]
    """[D, M] weights of the condition."""
    hidden: tuple[Float[Array, "d d"], ...]
    """[D, D] weights of the other products, outputs first."""
    scale: tuple[Float[Array, "n d"], ...]
    """[n, D] for each layer."""
    shift: tuple[Float[Array, "n d"], ...]
    """[n, D] for each layer."""
    output: Float[Array, "c d"]
    """[C, D]."""
    bias: Float[Array, " c"]
    """[C]."""


def fold(net: Denoiser, variables: Variables, timesteps: Integer[np.ndarray, " n"]) -> Folded:
    """Prepare a denoiser, by its first input projection, for the timesteps of a sampler.

    Args:
      net: the denoiser.
      variables: its parameters and statistics.
      timesteps: [n].
    """
    # Scales and shifts are small, and worth more digits than the products.
    wide = net.clone(dtype=jnp.promote_types(net.dtype, jnp.float32))
    t = jnp.asarray(timesteps)

    def layer(name: str) -> tuple[Array, Array]:
        linear = variables["params"][name]["linear"]
        return linear["kernel"], linear["bias"]

    names = ("projections_0", "hidden_0", "hidden_1")
    scales, shifts = [], []
    for i, name in enumerate(names):
        at_zero = jnp.broadcast_to(layer(name)[1], (len(timesteps), net.feature_dim))
        after: Callable[..., Any] = partial(wide.apply, variables, i, t=t, train=False)
        # It is affine: its value and its slope at a product of 0 define it.
        shift, scale = jax.jvp(
            lambda x, run=after: run(x, method="gated"), (at_zero,), (jnp.ones_like(at_zero),)
        )
        scales.append(scale)
        shifts.append(shift)

    first, *hidden = (layer(name)[0].T.astype(net.dtype) for name in names)
    kernel, bias = layer("output")
    classes = net.num_classes
    return Folded(
        label=first[:, :classes],
        condition=first[:, classes:],
        hidden=tuple(hidden),
        scale=tuple(scales),
        shift=tuple(shifts),
        output=kernel.T.astype(net.dtype),
        bias=bias,
    )


def _product(weights: Array, x: Array) -> Array:
    """[G, F] by [F, ...] -> [G, ...], summed in at least float32."""
    # Neither -1, since F may be 0, nor math.prod, since a size may be a symbol.
    flat = x.astype(weights.dtype).reshape(len(x), reduce(mul, x.shape[1:]))
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    product = jnp.matmul(weights, flat, preferred_element_type=wide)
    return product.reshape(len(weights), *x.shape[1:])


def on_images(
    folded: Folded, condition: Float[Array, "s b *l m"], features: Float[Array, "b d"]
) -> Callable[[Array, Array], Array]:
    """The denoiser for some images, with all that does not change between steps computed.

    Args:
      folded: from `fold`.
      condition: [S, B, *L, M] from the guidance; [1, B, *L, M] if it is the same for all samples.
      features: [B, D] from `Denoiser.encode`.

    Returns:
      A function (y_t [S, B, *L, C], i) -> eps_hat [S, B, *L, C] in at least float32, of S samples
      for each image, at the i-th of the timesteps.
    """
    given = _product(folded.condition, jnp.moveaxis(condition, -1, 0))
    embedding = jnp.expand_dims(features.T, (1, *range(3, condition.ndim)))

    def response(i: int, product: Array, row: Array) -> Array:
        scale, shift = (
            jnp.expand_dims(table[i][row], tuple(range(1, product.ndim)))
            for table in (folded.scale, folded.shift)
        )
        return jax.nn.softplus(product * scale + shift)

    def eps_hat(y_t: Array, row: Array) -> Array:
        x = _product(folded.label, jnp.moveaxis(y_t, -1, 0)) + given
        x = response(0, x, row) * embedding
        for i, weights in enumerate(folded.hidden, 1):
            x = response(i, _product(weights, x), row)
        return jnp.moveaxis(_product(folded.output, x), 0, -1) + folded.bias

    return eps_hat
