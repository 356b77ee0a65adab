"""What the benchmarks time with: calls in turns, the machine's own peaks, lines to print."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffmic_jax.method.networks import DTYPES


def seconds(run: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Took:
    """Medians over the turns, in seconds."""

    wall: float
    cpu: float
    """Of this process, all cores together."""


def in_turns(runs: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, Took]:
    """Time each call `repeat` times, one after the other; each has run once before."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            cpu = time.process_time()
            wall = seconds(lambda run=run: jax.block_until_ready(run()))
            if turn:
                taken[name].append((wall, time.process_time() - cpu))
    return {
        name: Took(*(statistics.median(column) for column in zip(*each, strict=True)))
        for name, each in taken.items()
    }


def report(args: argparse.Namespace, **facts: object) -> None:
    """One line."""
    facts = {"mode": args.mode} | {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in facts.items()
    }
    text = json.dumps(facts) if args.json else "  ".join(f"{k}={v}" for k, v in facts.items())
    print(text, flush=True)


def peaks(args: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], float, float]:
    """A large product and a large copy; the operations of the one and the bytes of the other."""
    small = jax.devices()[0].platform == "cpu"
    side, length = (2048, 2**26) if small else (8192, 2**29)
    if args.size < 64:
        side, length = 256, 2**16
    a = jnp.ones((side, side), DTYPES[args.dtype])
    # In place: fresh memory costs more than the copy.
    product, shift = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.ones(length)]

    def copy() -> object:
        held.append(shift(held.pop()))
        return held[0]

    return {"matmul": lambda: product(a, a), "copy": copy}, 2.0 * side**3, 8.0 * length


def compiled(run: Any, *args: Any) -> tuple[Callable, float, float]:
    """A jitted function compiled for its arguments; its operations and bytes by XLA's own count."""
    lowered = run.lower(*args)
    made = lowered.compile()
    found = made.cost_analysis() or {}
    # What is rewritten into calls of libraries is counted only before.
    flops = max((lowered.cost_analysis() or {}).get("flops", 0.0), found.get("flops", 0.0))
    return made, float(flops), float(found.get("bytes accessed", 0.0))


def shares(took: dict[str, Took], name: str, flops: float, moved: float, peak: Any) -> dict:
    """How close a measurement comes to the peaks of the same turns."""
    _, product, copied = peak
    of_flops = flops * took["matmul"].wall / product / took[name].wall
    of_bytes = moved * took["copy"].wall / copied / took[name].wall
    return {
        "flops": flops,
        "bytes": moved,
        "peak_flops_per_second": product / took["matmul"].wall,
        "peak_bytes_per_second": copied / took["copy"].wall,
        "flops_share": of_flops,
        "bytes_share": of_bytes,
        "peak_share": max(of_flops, of_bytes),
        "peak_memory_bytes": peak_memory(),
    }


def peak_memory() -> int:
    """Bytes that the device had in use at most, on a CPU this process."""
    found = jax.devices()[0].memory_stats() or {}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found.get("peak_bytes_in_use", own * (1 if sys.platform == "darwin" else 1024))
