"""Where a token is: a table of learned positions for any grid, or rotations of queries and keys."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmic_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table [1, rows, D] of positions, and how it is read for a grid of another size.

    Published networks differ in the latter, and their weights have learned with one way.
    """

    grid: int = 14
    """Patches along each side of the images whose positions it holds."""
    class_row: bool = True
    """Whether the first row is a class token's."""
    antialias: bool = False
    """Interpolate by cubic convolution with a = -0.5, smoothed before a reduction; else -0.75."""
    offset: float = 0.0
    """Patches by which a new grid counts as larger along each side; without antialias."""

    @property
    def rows(self) -> int:
        """Of the table."""
        return self.class_row + self.grid**2

    def at(
        self, table: Float[Array, "1 {self.rows} d"], height: int, width: int
    ) -> Float[Array, "{height} {width} d"]:
        """The positions [height, width, D] of a grid, from the table [1, rows, D]."""
        grid = table[0, self.class_row :].reshape(self.grid, self.grid, -1)
        if (height, width) == (self.grid, self.grid):
            return grid
        if self.antialias:
            return jnp.asarray(jax.image.resize(grid, (height, width, grid.shape[-1]), "cubic"))
        rows, columns = (
            jnp.asarray(bicubic(self.grid, size, self.offset), table.dtype)
            for size in (height, width)
        )
        return jnp.einsum("yi,xj,ijd->yxd", rows, columns, grid, precision="highest")


def bicubic(
    size: int, new_size: int, offset: float = 0.0
) -> Float[np.ndarray, "{new_size} {size}"]:
    """Weights [new_size, size], float64, that resample one axis as torch's bicubic mode does.

    Cubic convolution with a = -0.75, pixel centres at half integers, the border repeated, and no
    smoothing before a reduction; `jax.image.resize` differs in the first and the last.

    Args:
      size: of the axis.
      new_size: of the resampled axis.
      offset: added to `new_size` in the ratio of the two sizes (not in the number of values).
    """
    a = -0.75
    centre = (np.arange(new_size) + 0.5) * size / (new_size + offset) - 0.5
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
        source = np.floor(centre).astype(int) + tap
        d = np.abs(centre - source)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
        inside = np.clip(source, 0, size - 1)
        weights[np.arange(new_size), inside] += np.where(d <= 1, near, far)
    return weights


def rotary(
    height: int, width: int, size: int, others: int
) -> Float[np.ndarray, "2 {others+height*width} {size//2}"]:
    """Cosines and sines of the angles by which tokens are turned, [2, N, size / 2] float32.

    Simeoni et al. 2025, "DINOv3": both coordinates of a grid go from -1 to 1 over the image,
    whatever its size, and each turns a quarter of the features at periods from 1 to nearly 100.

    Args:
      height: of the grid.
      width: of the grid.
      size: features of an attention head, a multiple of 4.
      others: tokens before those of the grid, which have no place and are not turned.
    """
    periods = 100.0 ** (np.arange(size // 4) / (size // 4))
    y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in (height, width))
    places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    angles = (2 * np.pi * places[..., None] / periods).reshape(height * width, -1)
    angles = np.pad(angles, ((others, 0), (0, 0)))
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def rotate(
    x: Float[Array, "b n heads f"], turns: Float[Array, "2 n f//2"]
) -> Float[Array, "b n heads f"]:
    """Turn the pairs (i, F / 2 + i) of the features of [B, N, heads, F], in float32 or better."""
    cos, sin = turns[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
