"""Training and prediction steps compiled for chips that are not there, and what they would do.

`pip install libtpu` brings the compiler of TPUs; no argument is ever allocated. What was compiled
is kept in the user's cache, since a compilation takes minutes (JAX's own cache cannot be read back
without a TPU).
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hlo import Program, by_kind, matrix_flops
from jax.experimental import topologies
from jax.sharding import Mesh
from roofline import Slice, roofline, slice_of
from timing import report

from diffmic_jax.data.places import user_cache
from diffmic_jax.inference.predict import prediction_program
from diffmic_jax.method.build import Method
from diffmic_jax.method.predict_step import fold
from diffmic_jax.method.train_step import train_step
from diffmic_jax.training import parallel
from diffmic_jax.training.state import abstract_state
from diffmic_jax.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler said of a program."""

    memory: dict[str, float] | None
    """Bytes of one chip by use; None where it does not fit."""
    xla: dict[str, float]
    """Operations and bytes by XLA's own count, in which a loop runs once."""
    text: str
    """HLO, or the reason why there is none."""
    seconds: float
    """Of a core, for the compilation."""


UNTUNED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""Options without a GPU: nothing can be timed, and the model of Triton's speed ends the process."""


def devices_of(topology: str) -> list[Any]:
    """Descriptions of the chips of a topology.

    Raises:
      ValueError: there is no compiler for it.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no server to ask outside Google's cloud
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the compiler alone is used
    try:
        if not slice_of(topology).chip.torus:  # GPUs of one host
            shape, card = f"1x1x{topology.partition(':')[2]}", topology.partition(":")[0]
            described = Path(__file__).with_name(f"{card}.txtpb").read_text()
            return topologies.get_topology_desc(
                "", "cuda", topology=shape, target_config=described
            ).devices
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # jax, PJRT and its plugins each raise their own
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--topology={topology}: {reason}; TPUs need `pip install 'jax[tpu]'`, GPUs "
            "`pip install 'jax[cuda12]'`"
        ) from error


def abstract_batch(method: Method, mesh: Mesh, images: int) -> Batch:
    """The shapes of a batch of images."""
    side, classes = method.image_size, method.task.num_classes
    label = np.zeros(classes if method.task.multi_label else (), np.int32)
    image = np.zeros((side, side, 3), np.uint8)
    row = Batch(image, label, np.ones((), np.float32), np.zeros((), np.int32))
    return parallel.abstract_batch(mesh, images, row)


def programs(
    method: Method, mesh: Mesh, images: int, steps: int = 1
) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """By name, the steps of a run that differ, jitted, and their abstract arguments.

    Args:
      method: of the run.
      mesh: of the chips.
      images: of a batch.
      steps: of training, in one program.
    """
    whole = parallel.replicated(mesh)

    def placed(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree
        )

    key = placed(jax.eval_shape(lambda: jax.random.key(0)))
    batch, state = abstract_batch(method, mesh, images), abstract_state(method, mesh)
    made = {}
    for phase in method.phases:
        if phase.steps:
            step = partial(train_step, method.in_phase(phase))
            run = step if steps == 1 else parallel.in_a_row(step)
            given = batch if steps == 1 else (batch,) * steps
            made[phase.name] = parallel.jit_train(mesh, run, state), (state, given, key)
    variables = state.variables(average=True)
    ready = variables, placed(jax.eval_shape(partial(fold, method), variables))
    made["predict"] = prediction_program(method, mesh), (ready, batch, key)
    return made


def compiled(lowered: Any, topology: str, effort: float) -> Compiled:
    """Compile, or take from the cache what was compiled before."""
    versions = [_version(name) for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")]
    key = "\0".join([topology, str(effort), *versions, lowered.as_text()])
    name = hashlib.sha256(key.encode()).hexdigest()
    path = user_cache() / "aot" / f"{name[:32]}.json.gz"
    if path.exists():
        return Compiled(**json.loads(gzip.decompress(path.read_bytes())))
    made = _compile(lowered, {} if slice_of(topology).chip.torus else UNTUNED)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(made)).encode()))
    part.replace(path)
    return made


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _compile(lowered: Any, options: Mapping[str, Any]) -> Compiled:
    began = time.process_time()
    try:
        found = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        took = time.process_time() - began
        return Compiled(memory=None, xla={}, text=str(error), seconds=took)
    took = time.process_time() - began
    sizes = found.memory_analysis()
    uses = "argument", "output", "temp", "alias", "generated_code"
    memory = {use: float(getattr(sizes, f"{use}_size_in_bytes")) for use in uses}
    memory["total"] = sum(memory.values()) - 2 * memory["alias"]
    counts = found.cost_analysis() or {}
    xla = {name: float(counts.get(name, 0)) for name in ("flops", "bytes accessed")}
    return Compiled(memory=memory, xla=xla, text=found.as_text(), seconds=took)


def facts(made: Compiled, where: Slice, images: int, flops: dict[str, float]) -> dict[str, Any]:
    """What is printed of a compiled program.

    Args:
      made: the program.
      where: the chips it was compiled for.
      images: of all chips.
      flops: of matrix products by type of the operands, of one chip.
    """
    if made.memory is None:
        wanted = re.search(r"Used [\d.]+\w+ of [\d.]+\w+ hbm", made.text)
        return {"fits": False, "reason": wanted[0] if wanted else made.text.splitlines()[0]}
    program = Program(made.text)
    collectives = program.collectives()
    moved, by_operation = program.moved_bytes()
    least = roofline(where, flops, moved, collectives)
    changes, changed = program.layout_changes()
    return {
        "fits": made.memory["total"] <= where.chip.memory,
        "memory_bytes": made.memory,
        "flops": flops,
        "xla_flops": made.xla["flops"],
        "bytes": moved,
        "xla_bytes": made.xla["bytes accessed"],
        "bytes_by_operation": dict(sorted(by_operation.items(), key=lambda each: -each[1])[:6]),
        "layout_changes": {"count": changes, "bytes": changed},
        "collectives": by_kind(collectives),
        **least,
        "images_per_second": images / float(least["seconds"]),
        "best_images_per_second": images / float(least["best_seconds"]),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Programs of a recipe on a topology."""

    args: argparse.Namespace
    make: Callable[[argparse.Namespace], Method]
    """The method that flags describe; their batch is that of all chips."""
    where: Slice
    mesh: Mesh

    def method(self, per_chip: int) -> Method:
        """The method for so many images on each chip."""
        batch = per_chip * self.mesh.size
        return self.make(argparse.Namespace(**vars(self.args) | {"batch": batch}))

    def names(self) -> list[str]:
        """Of the programs to look at."""
        known = [phase.name for phase in self.method(1).phases if phase.steps]
        names = self.args.programs.split(",") if self.args.programs else [known[-1], "predict"]
        if wrong := set(names) - {*known, "predict"}:
            raise ValueError(
                f"--programs={','.join(sorted(wrong))}: choose of {', '.join(known)}, predict"
            )
        return names

    def look(self, name: str, per_chip: int) -> dict[str, Any]:
        """One program with so many images on each chip."""
        method = self.method(per_chip)
        steps = 1 if name == "predict" else self.args.steps or 1
        run, arguments = programs(method, self.mesh, per_chip * self.mesh.size, steps)[name]
        traced = run.trace(*arguments)
        chips = self.mesh.size
        flops = {kind: each / chips for kind, each in matrix_flops(traced.jaxpr).items()}
        made = compiled(traced.lower(), self.args.topology, self.args.effort)
        about = {"recipe": method.name, "topology": self.args.topology, "program": name}
        about |= {"size": method.image_size, "dtype": self.args.dtype, "batch_per_chip": per_chip}
        about |= {"steps": steps}
        found = facts(made, self.where, chips * per_chip * steps, flops)
        return about | found | {"compile_cpu_seconds": made.seconds}

    def fitting(self, name: str) -> Iterator[dict[str, Any]]:
        """The program with ever more images, up to the most, a power of two, that a chip holds."""
        tried: dict[int, dict[str, Any]] = {}
        size = self.args.batch
        while size and size not in tried:
            tried[size] = self.look(name, size)
            yield tried[size]
            size = next_size(tried, self.where.chip.memory)


def next_size(tried: dict[int, dict[str, Any]], limit: float) -> int:
    """What batch to try next for the largest that fits; one that was tried, or 0, if it is known.

    Args:
      tried: facts by images on a chip, each a power of two times the first.
      limit: bytes of a chip.
    """
    good = sorted(size for size in tried if tried[size]["fits"])
    bad = min((size for size in tried if not tried[size]["fits"]), default=0)
    if not good:
        return bad // 2
    if len(good) < 2:
        return good[-1] * 2
    # Memory grows by about the same for every image, once the batch is what most of it is.
    one, two = good[-2:]
    total = [tried[size]["memory_bytes"]["total"] for size in (one, two)]
    slope = (total[1] - total[0]) / (two - one)
    size = two * 2
    while slope > 0 and two + (limit - total[1]) / slope >= 2 * size:
        size *= 2
    while bad and size >= bad and size > two:
        size //= 2
    return size


def measure_aot(args: argparse.Namespace, make: Callable[[argparse.Namespace], Method]) -> None:
    """Compile the steps of a recipe for a topology and report each."""
    jax.config.update("jax_platforms", "cpu")  # with libtpu installed, jax would look for a TPU
    for part in ("exec_time_optimization", "memory_fitting"):
        jax.config.update(f"jax_{part}_effort", args.effort)
    try:
        mesh = parallel.make_mesh(devices=devices_of(args.topology))
        bench = Bench(args=args, make=make, where=slice_of(args.topology), mesh=mesh)
        for name in bench.names():
            lines = bench.fitting(name) if args.fit_batch else [bench.look(name, args.batch)]
            for line in lines:
                report(args, **line)
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
