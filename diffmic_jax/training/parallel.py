"""Devices and processes: a mesh of two axes, `data` and `model`.

Batches are split over `data`. Over `model` the denoiser's wide layers are split; its size is 1
unless a configuration sets more, and then everything is held whole by every device. Steps are
written for the whole batch and the whole network; `jax.jit` places the communication.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffmic_jax.errors import InputError
from diffmic_jax.training import peers
from diffmic_jax.types import Batch

TRUNKS = {"encoder", "local_encoder"}
TIMES: dict[str, Any] = {
    "initialization_timeout": 120,
    "shutdown_timeout_seconds": 120,
    "heartbeat_timeout_seconds": 600,
}
"""Of the coordinator, in seconds: `peers` notices a lost process sooner, and says which it is."""
_meetings = itertools.count()  # every meeting needs a name of its own


def join_processes(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Join the other processes of the run; alone if there are none.

    Without arguments a TPU pod, SLURM, Kubernetes or Open MPI is recognised by what it sets.

    Args:
      coordinator: host:port on which process 0 listens.
      num_processes: of the run; 1 does not look for others.
      process_id: of this one, from 0.

    Raises:
      InputError: for arguments that do not belong together, or if the others cannot be joined.
    """
    given = (bool(coordinator), num_processes > 1, process_id >= 0)
    if num_processes == 1 and not coordinator:
        return
    if any(given) and not (all(given) and process_id < num_processes):
        raise InputError(
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=0..N-1 belong together; "
            "give all of them, or none where the cluster provides them"
        )
    # Signals are the loop's own business: it agrees with the other processes on when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with peers.joining(TIMES["initialization_timeout"]):
            if any(given):
                jax.distributed.initialize(coordinator, num_processes, process_id, **TIMES)
            else:
                jax.distributed.initialize(**TIMES)
    except ValueError as error:
        if any(given) or "coordinator_address" not in str(error):
            raise InputError(f"--coordinator={coordinator}: {error}") from error
    except Exception as error:  # a cluster's own client raises its own kinds
        raise InputError(
            f"the other processes cannot be joined ({error}); give --coordinator, --num_processes "
            "and --process_id, or --num_processes=1 to run alone"
        ) from error


def make_mesh(model_shards: int = 1, devices: Sequence[jax.Device] = ()) -> Mesh:
    """All devices of all processes; those of a process are neighbours along `data`.

    Args:
      model_shards: devices that share the denoiser's wide layers.
      devices: others than those that are there, to compile for.

    Raises:
      InputError: if a process has no whole number of such groups.
    """
    # A process loads neighbouring rows of a batch. TPUs number their devices along the torus.
    devices = sorted(devices or jax.devices(), key=lambda each: (each.process_index, each.id))
    of_process = sum(each.process_index == devices[0].process_index for each in devices)
    if of_process % model_shards:
        raise InputError(
            f"config.train.model_shards={model_shards} does not divide the "
            f"{of_process} devices of a process; choose a number that does"
        )
    grid = np.array(devices).reshape(-1, model_shards)
    # Explicit axes, the default, would require every loss to name its shardings.
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def own_mesh() -> Mesh:
    """The devices of this process alone, along `data`."""
    return Mesh(np.array(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(mesh: Mesh, state: Any, wide: int) -> Any:
    """The sharding of every array of a training state.

    The denoiser's axes of its feature dimension are split over `model`, its image trunk aside; all
    else is held whole. Optimizer states and averages follow their parameters.

    Args:
      mesh: from `make_mesh`.
      state: real or abstract.
      wide: the denoiser's feature dimension.

    Raises:
      InputError: if the feature dimension cannot be split evenly.
    """
    shards = mesh.shape["model"]
    if wide % shards:
        raise InputError(
            f"config.denoiser.feature_dim={wide} is not divisible by "
            f"config.train.model_shards={shards}; choose a divisor"
        )

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        names = {getattr(key, "key", None) for key in path}
        axes: list[str | None] = [None] * len(leaf.shape)
        if "denoiser" in names and not names & TRUNKS and wide in leaf.shape:
            # Of two such axes the last, the layer's output, as in a bias.
            axes[len(axes) - 1 - leaf.shape[::-1].index(wide)] = "model"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map_with_path(sharding, state)


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
    """Refuse a batch that the devices cannot share evenly.

    Raises:
      InputError: naming the configuration field.
    """
    parts = mesh.shape["data"]
    if batch_size < 1 or batch_size % parts:
        raise InputError(
            f"config.{field}={batch_size} is not divisible by the {parts} devices that share it; "
            f"choose a multiple of {parts}"
        )


def padded_batch_size(mesh: Mesh, batch_size: int) -> int:
    """The batch size rounded up to what the devices can share, for batches that are padded."""
    parts = mesh.shape["data"]
    return -(-batch_size // parts) * parts


def bucket(mesh: Mesh, count: int, most: int) -> int:
    """The size of padded batches for `count` images that need not fill one of `most`.

    A power of two, so that few sizes are ever compiled; then what the devices can share.
    """
    return padded_batch_size(mesh, min(1 << max(count - 1, 0).bit_length(), most))


def from_local_rows(mesh: Mesh, batch: Batch) -> Batch:
    """A global batch on the devices, of which every process gives its own rows."""
    sharding = split_rows(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )


def abstract_batch(mesh: Mesh, size: int, row: Batch) -> Batch:
    """The shapes, types and places of a global batch of `size` rows like this one."""
    sharding = split_rows(mesh)
    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct((size, *one.shape), one.dtype, sharding=sharding), row
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
      augment: (images, index, key of the step) -> images; the same one is compiled once.
      key: random key of the run's augmentation.
      start_step: the first step.
    """
    compiled = _augmenting(mesh, augment)
    with contextlib.closing(batches):
        for number, batch in enumerate(batches, start_step):
            batch = from_local_rows(mesh, batch)
            # A plain integer would be compiled in, a step at a time.
            image = compiled(batch.image, batch.index, key, np.uint32(number))
            yield batch._replace(image=image)


@lru_cache(maxsize=16)
def _augmenting(mesh: Mesh, augment: Callable[[Any, Any, Any], Any]) -> Callable:
    """The same, compiled: (images, index, key of the run, number of the step) -> images."""
    rows, whole = split_rows(mesh), replicated(mesh)

    def step(images: Any, index: Any, key: Any, number: Any) -> Any:
        return augment(images, index, jax.random.fold_in(key, number))

    return jax.jit(
        step, in_shardings=(rows, rows, whole, whole), out_shardings=rows, donate_argnums=0
    )


def placed(mesh: Mesh, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """Global batches on the devices, of which every process gives its own rows."""
    with contextlib.closing(batches):
        for batch in batches:
            yield from_local_rows(mesh, batch)


def jit_train(mesh: Mesh, step: Callable, state: Any) -> Callable:
    """Compile `step(state, batch, key) -> (state, scalars)` for states that lie as this one does.

    The state is donated.
    """
    whole = replicated(mesh)
    there = jax.tree.map(lambda leaf: leaf.sharding, state)
    return _started_together(
        jax.jit(
            step,
            in_shardings=(there, split_rows(mesh), whole),
            out_shardings=(there, whole),
            donate_argnums=0,
        )
    )


def in_a_row(step: Callable) -> Callable:
    """Several steps as one program: `(state, batches, key) -> (state, (scalars, skipped))`.

    `batches` is a tuple; each scalar, and the number of steps skipped so far, has one value for
    each of them. The devices go from one step to the next without a word from the host.
    """

    def run(state: Any, batches: tuple[Batch, ...], key: Any) -> tuple[Any, Any]:
        def one(state: Any, batch: Batch) -> tuple[Any, Any]:
            state, scalars = step(state, batch, key)
            return state, (scalars, state.skipped)

        return jax.lax.scan(one, state, jax.tree.map(lambda *rows: jnp.stack(rows), *batches))

    return run


def jit_predict(mesh: Mesh, step: Callable) -> Callable:
    """Compile `step(variables, batch, key)`; every process can read the whole result."""
    whole = replicated(mesh)
    # None: the variables may be split over `model`, and stay where they are.
    return _started_together(
        jax.jit(step, in_shardings=(None, split_rows(mesh), whole), out_shardings=whole)
    )


def meet(where: str) -> None:
    """Wait for all processes of the run, for up to an hour.

    Through the coordinator, which is patient: collectives between CPUs give up after 30 seconds.
    """
    if jax.process_count() > 1:
        ocp.multihost.sync_global_processes(
            f"{where} {next(_meetings)}", processes=set(range(jax.process_count())), timeout=3600
        )


def _started_together(jitted: Any) -> Callable:
    """A compiled function that no process starts before all have compiled it."""
    if jax.process_count() == 1:
        return jitted
    ready: list[Callable] = []

    def run(*args: Any) -> Any:
        if not ready:
            ready.append(jitted.lower(*args).compile())
            meet("compiled")
        return ready[0](*args)

    return run


def voting(mesh: Mesh) -> Callable[[bool], bool]:
    """A function that returns, on every process, whether any process called it with True.

    Every process has to call it equally often. It costs one small all-reduce.
    """
    if jax.process_count() == 1:
        return bool
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    count = jax.jit(jnp.any, out_shardings=replicated(mesh))

    def any_of(vote: bool) -> bool:
        votes = np.full(mesh.size, vote)
        own = jax.make_array_from_callback((mesh.size,), split, lambda part: votes[part])
        return bool(count(own))

    return any_of


def told(text: str) -> str:
    """What the main process says, on every process; up to 2,000 bytes of it."""
    if jax.process_count() == 1:
        return text
    said = np.zeros(2000, np.uint8)
    content = np.frombuffer(text.encode()[: len(said)], np.uint8)
    said[: len(content)] = content
    heard = np.asarray(multihost_utils.broadcast_one_to_all(said))
    return heard.tobytes().rstrip(b"\0").decode(errors="replace")


def is_main_process() -> bool:
    """Whether this process writes logs and files."""
    return jax.process_index() == 0
