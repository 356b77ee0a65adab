"""Seconds an image of EfficientNet-Lite0, forward and backward, beside the same in PyTorch.

    python benchmarks/trunk_speed.py --torch_python=DIR/bin/python

The two programs live side by side and take turns, so that a busy machine slows both. Prints JSON:
seconds of processor and of wall time an image (medians of the turns), and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure, or be one of the programs that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="in a turn")
    parser.add_argument("--program", choices=("jax", "torch", "torch_channels_last"))
    args = parser.parse_args()
    if args.program:
        _serve(_jax_step(args) if args.program == "jax" else _torch_step(args), args.steps)
    else:
        print(json.dumps(_measure(args), indent=1))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """All programs in turn."""
    pythons = {"jax": sys.executable}
    pythons |= dict.fromkeys(("torch", "torch_channels_last"), args.torch_python)
    shape = [f"--size={args.size}", f"--batch={args.batch}", f"--steps={args.steps}"]
    pipe = subprocess.PIPE
    programs = {
        name: subprocess.Popen(
            [python, __file__, f"--program={name}", *shape], stdin=pipe, stdout=pipe, text=True
        )
        for name, python in pythons.items()
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for turn in range(args.turns + 1):
        for name, program in programs.items():
            assert program.stdin and program.stdout
            program.stdin.write("go\n")
            program.stdin.flush()
            cpu, wall = json.loads(program.stdout.readline())
            if turn:  # the first compiles
                found[name].append((cpu / args.batch, wall / args.batch))
    for program in programs.values():
        program.communicate()
    return _summary(found) | {"size": args.size, "batch": args.batch, "turns": args.turns}


def _summary(found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    medians = {
        name: [statistics.median(column) for column in zip(*turns, strict=True)]
        for name, turns in found.items()
    }
    fastest = [min(medians[name][i] for name in medians if name != "jax") for i in (0, 1)]
    return {
        "seconds_per_image": {
            name: {"cpu": round(cpu, 5), "wall": round(wall, 5)}
            for name, (cpu, wall) in medians.items()
        },
        "ratio_to_the_faster_torch": {
            "cpu": round(medians["jax"][0] / fastest[0], 3),
            "wall": round(medians["jax"][1] / fastest[1], 3),
        },
    }


def _serve(step: Callable[[], Any], steps: int) -> None:
    """One turn for each line of the input: mean processor and wall time of a step."""
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            step()
        used = (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps
        print(json.dumps(used), flush=True)


def _jax_step(args: argparse.Namespace) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from diffmic_jax.memory import keep_freed
    from diffmic_jax.nn import trunks

    keep_freed()
    trunk, variables = trunks.create("efficientnet_lite0")
    image = jax.random.normal(jax.random.key(0), (args.batch, args.size, args.size, 3))
    head = jnp.zeros((1280, 7))

    @jax.jit
    def gradients(params: Any, head: Any) -> Any:
        def loss(params: Any, head: Any) -> Any:
            own = variables | {"params": params}
            features, new = trunk.apply(own, image, True, mutable=["batch_stats"])
            return -jax.nn.log_softmax(features.mean((1, 2)) @ head)[:, 0].mean(), new

        return jax.grad(loss, (0, 1), has_aux=True)(params, head)

    return lambda: jax.block_until_ready(gradients(variables["params"], head))


def _torch_step(args: argparse.Namespace) -> Callable[[], Any]:
    sys.path.insert(0, str(HERE))
    import torch
    from torch_lite0 import network

    net = network(num_classes=7).train()
    image = torch.randn(args.batch, 3, args.size, args.size)
    if args.program == "torch_channels_last":
        net, image = (each.to(memory_format=torch.channels_last) for each in (net, image))

    def step() -> None:
        net.zero_grad(set_to_none=True)
        (-torch.log_softmax(net(image), dim=1)[:, 0].mean()).backward()

    return step


if __name__ == "__main__":
    main()
