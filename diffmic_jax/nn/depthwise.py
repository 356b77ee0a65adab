"""Depthwise convolution, fast on a CPU too.

XLA's grouped convolution is many times slower on a CPU than the sum over the kernel's taps of
shifted images, which it fuses into one loop. The gradient of the kernel is a sum over all pixels
for each tap: taken image by image, the image stays in the processor's cache for all of them.
"""

from __future__ import annotations

import operator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from diffmic_jax.nn.convolution import by_xla
from diffmic_jax.types import Array

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Rows of padding above and below, columns left and right."""


def depthwise(
    x: Float[Array, "b h w f"], kernel: Float[Array, "k l 1 f"], stride: int, pads: Pads
) -> Float[Array, "b _ _ f"]:
    """Convolution of every channel by itself.

    Args:
      x: [B, H, W, F].
      kernel: [k, l, 1, F].
      stride: step of the output grid in pixels.
      pads: zeros around the image.

    Returns:
      [B, (H + its pads - k) // stride + 1, ..., F].
    """
    cpu = partial(_on_cpu, stride=stride, pads=pads)
    other = partial(by_xla, stride=stride, pads=pads, groups=x.shape[-1])
    found: Array = jax.lax.platform_dependent(x, kernel, cpu=cpu, default=other)
    return found


def _on_cpu(x: Array, kernel: Array, *, stride: int, pads: Pads) -> Array:
    return _shifted(x, kernel, stride, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """The sum over taps of the shifted image times the tap's weight."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    size = _sizes(x, kernel, stride, pads)
    products = (_tap(padded, i, j, size, stride) * kernel[i, j, 0] for i, j in _taps(kernel))
    return reduce(operator.add, products)


def _forward(x: Array, kernel: Array, stride: int, pads: Pads) -> tuple[Array, Any]:
    return _shifted(x, kernel, stride, pads), (x, kernel)


def _backward(stride: int, pads: Pads, kept: Any, grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return _image_gradient(x, kernel, stride, pads, grad), _kernel_gradient(
        x, kernel, stride, pads, grad
    )


_shifted.defvjp(_forward, _backward)


def _image_gradient(x: Array, kernel: Array, stride: int, pads: Pads, grad: Array) -> Array:
    """Each pixel takes from the output's gradient what its value went into.

    Pixels whose rows and columns have the same remainder by the stride meet the same taps, and are
    computed together; then they are put in their places.
    """
    batch, height, width, features = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    edge = max(kernel.shape[:2])
    # As many rows below as the last one needs, where the output is smaller than the image.
    far = [edge + max(0, n - m) for n, m in zip((rows, columns), grad.shape[1:3], strict=True)]
    around = jnp.pad(grad, ((0, 0), (edge, far[0]), (edge, far[1]), (0, 0)))

    def together(row: int, column: int) -> Array:
        total = jnp.zeros((batch, rows, columns, features), grad.dtype)
        for i, j in _taps(kernel):
            down, right = row + pads[0][0] - i, column + pads[1][0] - j
            if down % stride or right % stride:
                continue
            top, left = edge + down // stride, edge + right // stride
            total += around[:, top : top + rows, left : left + columns] * kernel[i, j, 0]
        return total

    steps = range(stride)
    lines = [jnp.stack([together(row, column) for column in steps], axis=3) for row in steps]
    whole = jnp.stack(lines, axis=2).reshape(batch, rows * stride, columns * stride, features)
    return whole[:, :height, :width]


def _kernel_gradient(x: Array, kernel: Array, stride: int, pads: Pads, grad: Array) -> Array:
    """For each tap the sum over all pixels of gradient times shifted image."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    size, features = grad.shape[1:3], x.shape[-1]
    # A product with ones is the fastest sum over pixels.
    ones = jnp.ones((1, size[0] * size[1]), grad.dtype)

    def add(total: Any, one: Any) -> tuple[Any, None]:
        image, own = one
        products = (own * _tap(image[None], i, j, size, stride)[0] for i, j in _taps(kernel))
        sums = [ones @ product.reshape(-1, features) for product in products]
        return total + jnp.concatenate(sums), None

    total = jnp.zeros((kernel.shape[0] * kernel.shape[1], features), kernel.dtype)
    total, _ = jax.lax.scan(add, total, (padded, grad))
    return total.reshape(kernel.shape)


def _taps(kernel: Array) -> list[tuple[int, int]]:
    return [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]


def _sizes(x: Array, kernel: Array, stride: int, pads: Pads) -> tuple[int, int]:
    """Height and width of the output."""
    height, width = (
        (x.shape[axis + 1] + sum(pads[axis]) - kernel.shape[axis]) // stride + 1 for axis in (0, 1)
    )
    return height, width


def _tap(padded: Array, i: int, j: int, size: tuple[int, ...], stride: int) -> Array:
    """What tap (i, j) sees at every pixel of the output."""
    height, width = size
    rows = slice(i, i + (height - 1) * stride + 1, stride)
    return padded[:, rows, j : j + (width - 1) * stride + 1 : stride]
