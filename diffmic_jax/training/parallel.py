"""Devices and processes: one mesh axis, `data`, over which batches are split.

Steps are written for the whole batch; `jax.jit` places the communication. Parameters are
replicated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffmic_jax.types import Batch, InputError


def make_mesh() -> Mesh:
    """All devices of all processes along `data`."""
    # Explicit axes, the default, would ask every loss to name its shardings.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
    """Refuse a batch that the devices cannot share evenly.

    Raises:
      InputError: naming the configuration field.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(
            f"config.{field}={batch_size} is not divisible by the {mesh.size} devices; "
            f"choose a multiple of {mesh.size}"
        )


def padded_batch_size(mesh: Mesh, batch_size: int) -> int:
    """The batch size rounded up to what the devices can share, for batches that are padded."""
    return -(-batch_size // mesh.size) * mesh.size


def from_local_rows(mesh: Mesh, batch: Batch) -> Batch:
    """A global batch on the devices, of which every process gives its own rows."""
    sharding = split_rows(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )


def from_all_rows(mesh: Mesh, batch: Batch) -> Batch:
    """A global batch on the devices, which every process holds whole."""
    sharding = split_rows(mesh)

    def place(rows: Any) -> jax.Array:
        rows = np.asarray(rows)
        return jax.make_array_from_callback(rows.shape, sharding, lambda part: rows[part])

    return jax.tree.map(place, batch)


def augmented(
    mesh: Mesh,
    batches: Generator[Batch, None, None],
    augment: Callable[[Any, Any, Any], Any],
    key: Any,
    start_step: int,
) -> Generator[Batch, None, None]:
    """Global batches on the devices, their images augmented there.

    Args:
      mesh: from `make_mesh`.
      batches: this process's rows of the batches of steps `start_step`, `start_step` + 1, ...
      augment: (images, index, key of the step) -> images.
      key: random key of the run's augmentation.
      start_step: the first step.
    """
    rows = split_rows(mesh)

    def step(images: Any, index: Any, number: Any) -> Any:
        return augment(images, index, jax.random.fold_in(key, number))

    compiled = jax.jit(
        step, in_shardings=(rows, rows, replicated(mesh)), out_shardings=rows, donate_argnums=0
    )
    with contextlib.closing(batches):
        for number, batch in enumerate(batches, start_step):
            batch = from_local_rows(mesh, batch)
            # A plain integer would be compiled in, a step at a time.
            yield batch._replace(image=compiled(batch.image, batch.index, np.uint32(number)))


def jit_train(mesh: Mesh, step: Callable) -> Callable:
    """Compile `step(state, batch, key) -> (state, scalars)`; the state is donated."""
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, split_rows(mesh), whole),
        out_shardings=whole,
        donate_argnums=0,
    )


def jit_predict(mesh: Mesh, step: Callable) -> Callable:
    """Compile `step(variables, batch, key)`; every process can read the whole answer."""
    whole = replicated(mesh)
    return jax.jit(step, in_shardings=(whole, split_rows(mesh), whole), out_shardings=whole)


def is_main_process() -> bool:
    """Whether this process writes logs and files."""
    return jax.process_index() == 0
