"""Convolution, fast on a CPU too.

XLA on a CPU is slow where a grid is smaller than the kernel, and at the gradient of the kernel
where the grid is large. Both are written as a matrix product over what the taps see.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from diffmic_jax.types import Array

Padding = Literal["torch", "same"]
"""`torch`: by kernel // 2 on every side. `same`: as TensorFlow, by as little as the output needs,
and on an even number of pixels at stride 2 one more at the end than at the beginning."""
Pads = tuple[int, int]
LARGE = 28 * 28
"""Pixels of an output from which XLA on a CPU is slow at the gradient of a 3x3 kernel."""


def padding_of(size: int, kernel: int, stride: int, padding: Padding) -> Pads:
    """Rows of padding before and after `size` rows."""
    if padding == "torch":
        return kernel // 2, kernel // 2
    total = max(((size - 1) // stride) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _reached(kernel: int, stride: int, size: int, before: int) -> range:
    """The kernel rows that meet any of `size` input rows; the others see only padding."""
    last = (size - 1) // stride * stride
    return range(max(0, before - last), min(kernel, before + size))


def _convolve_small(x: Array, kernel: Array, stride: int, pads: tuple[Pads, Pads]) -> Array:
    """Convolution as one matrix product over the kernel's taps that meet the image."""
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    rows, cols = (
        _reached(size, stride, side, before)
        for side, (before, _) in zip((height, width), pads, strict=True)
    )
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = [padded[:, i : i + height : stride, j : j + width : stride] for i in rows for j in cols]
    weights = kernel[rows.start : rows.stop, cols.start : cols.stop]
    seen = taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)
    # Of a matrix, XLA on CPU computes the gradient of the weights up to six times as fast.
    product = seen.reshape(-1, seen.shape[-1]) @ weights.reshape(-1, weights.shape[-1])
    return product.reshape(*seen.shape[:-1], -1)


def convolve(
    x: Float[Array, "b h w f"],
    kernel: Float[Array, "k k f g"],
    stride: int,
    padding: Padding = "torch",
) -> Float[Array, "b -(-h//{stride}) -(-w//{stride}) g"]:
    """Convolution with zeros around the image.

    Args:
      x: [B, H, W, F].
      kernel: [k, k, F, G], k odd.
      stride: step of the output grid in pixels.
      padding: where the zeros are.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), G].
    """
    size = kernel.shape[0]
    pads = (
        padding_of(x.shape[1], size, stride, padding),
        padding_of(x.shape[2], size, stride, padding),
    )
    if size == 1 or min(x.shape[1:3]) // stride < size:
        # XLA on CPU is fast, forward and backward, only where both grids are at least as large
        # as the kernel: at 2x2 this is fifty times faster. A 1x1 kernel is a matrix product.
        return _convolve_small(x, kernel, stride, pads)
    return _plain(x, kernel, stride, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _plain(x: Array, kernel: Array, stride: int, pads: tuple[Pads, Pads]) -> Array:
    """XLA's convolution."""
    return by_xla(x, kernel, stride=stride, pads=pads)


def by_xla(
    x: Array, kernel: Array, *, stride: int, pads: tuple[Pads, Pads], groups: int = 1
) -> Array:
    """XLA's own convolution of [B, H, W, F]; arguments as in `convolve`, zeros around the image."""
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _forward(x: Array, kernel: Array, stride: int, pads: tuple[Pads, Pads]) -> tuple[Array, Any]:
    return _plain(x, kernel, stride, pads), (x, kernel)


def _backward(stride: int, pads: tuple[Pads, Pads], kept: Any, grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    run = partial(by_xla, stride=stride, pads=pads)
    # Linear in each: unlike `vjp`, this does not trace a convolution that nobody asks for.
    (of_image,) = jax.linear_transpose(lambda x: run(x, kernel), x)(grad)

    def plain(x: Array, grad: Array) -> Array:
        found: Array = jax.linear_transpose(lambda kernel: run(x, kernel), kernel)(grad)[0]
        return found

    if kernel.shape[0] != 3 or grad.shape[1] * grad.shape[2] < LARGE:
        return of_image, plain(x, grad)
    by_taps = partial(_kernel_gradient, stride=stride, pads=pads)
    of_kernel: Array = jax.lax.platform_dependent(x, grad, cpu=by_taps, default=plain)
    return of_image, of_kernel


_plain.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, grad: Array, *, stride: int, pads: tuple[Pads, Pads]) -> Array:
    """Of a 3x3 kernel: a product over all pixels for each of its rows, with what its taps see."""
    height, width, features = grad.shape[1:]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, cols = (stride * (side - 1) + 1 for side in (height, width))
    taps = [
        [padded[:, i : i + rows : stride, j : j + cols : stride] for j in range(3)]
        for i in range(3)
    ]
    columns = grad.reshape(-1, features).T  # the other order takes half as long again
    seen = (jnp.concatenate(row, axis=-1).reshape(columns.shape[1], -1) for row in taps)
    product = jnp.concatenate([columns @ one for one in seen], axis=-1)
    return product.T.reshape(3, 3, x.shape[-1], features)
