"""Training steps and predictions beside the same in PyTorch, in turns.

    python benchmarks/against_torch.py --torch_python=DIR/bin/python
    python benchmarks/against_torch.py --torch_python=... --programs=lite0-train --batch=32

Each program has a process of its own, and they take turns, so that a busy machine slows all. Prints
a JSON line for each: seconds of processor and of wall time an image (medians of the turns), and
those of the fastest PyTorch over ours, so that 1 is as fast and 2 twice as fast. `eager` is NCHW as
PyTorch has it, `channels_last` the other layout, `compiled` that one through torch.compile, which
wants a C++ compiler and is left out in training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLASSES = 7
CASES = (
    ("lite0-train", 128, (8, 32)),
    ("lite0-infer", 128, (8, 32)),
    ("resnet18-train", 224, (8, 32)),
    ("resnet18-infer", 224, (8, 32)),
    ("resnet50-train", 224, (8, 32)),
    ("resnet50-infer", 224, (8, 32)),
    ("v1-train", 224, (8,)),
    ("v1-predict", 224, (1, 8)),
)
"""Programs, sides in pixels, and batches."""
EAGER = ("eager", "channels_last")


def main() -> None:
    """Measure, or be one of the programs that are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name, _, _ in CASES]
    parser.add_argument("--torch_python", default=sys.executable, help="that has PyTorch")
    parser.add_argument("--programs", default=",".join(names), help="of " + ",".join(names))
    parser.add_argument("--size", type=int, help="pixels a side; default: the program's own")
    parser.add_argument("--batch", help="as 8,32; default: the program's own")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve(_program(args.serve, args.programs, int(args.batch), args.size), args.seconds)
        return
    for name, size, batches in CASES:
        if name in args.programs.split(","):
            for batch in map(int, args.batch.split(",")) if args.batch else batches:
                print(json.dumps(_measure(args, name, args.size or size, batch)), flush=True)


def _measure(args: argparse.Namespace, name: str, size: int, batch: int) -> dict[str, Any]:
    """One program, ours and PyTorch's, in turns."""
    variants = EAGER if name.endswith("-train") else (*EAGER, "compiled")
    pythons = {"jax": sys.executable} | dict.fromkeys(variants, args.torch_python)
    flags = [f"--programs={name}", f"--size={size}", f"--batch={batch}"]
    flags += [f"--seconds={args.seconds}"]
    pipe = subprocess.PIPE
    programs = {
        variant: subprocess.Popen(
            [python, __file__, f"--serve={variant}", *flags], stdin=pipe, stdout=pipe, text=True
        )
        for variant, python in pythons.items()
    }
    found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in programs}
    for turn in range(args.turns + 1):
        for variant, program in programs.items():
            assert program.stdin and program.stdout
            program.stdin.write("go\n")
            program.stdin.flush()
            line = program.stdout.readline()
            if not line:
                sys.exit(f"{variant} of {name} has ended; its message is above")
            cpu, wall = json.loads(line)
            if turn:  # the first compiles
                found[variant].append((cpu / batch, wall / batch))
    for program in programs.values():
        program.communicate()
    return {"program": name, "size": size, "batch": batch, "turns": args.turns} | summary(found)


def summary(found: dict[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Medians of (processor, wall) seconds an image, and the fastest of PyTorch's over ours."""
    medians = {
        variant: [statistics.median(column) for column in zip(*turns, strict=True)]
        for variant, turns in found.items()
    }
    others = {variant: each for variant, each in medians.items() if variant != "jax"}
    return {
        "seconds_per_image": {
            variant: {"cpu": round(cpu, 5), "wall": round(wall, 5)}
            for variant, (cpu, wall) in medians.items()
        },
        "torch_over_ours": {
            variant: {
                "cpu": round(cpu / medians["jax"][0], 2),
                "wall": round(wall / medians["jax"][1], 2),
            }
            for variant, (cpu, wall) in others.items()
        },
    }


def _serve(step: Callable[[], Any], seconds: float) -> None:
    """One turn for each line of the input: mean processor and wall time of a step."""
    for _ in sys.stdin:
        cpu, wall, steps = time.process_time(), time.perf_counter(), 0
        while not steps or time.perf_counter() - wall < seconds:
            step()
            steps += 1
        used = (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps
        print(json.dumps(used), flush=True)


def _program(variant: str, name: str, batch: int, size: int) -> Callable[[], Any]:
    """What is timed."""
    if variant != "jax":
        sys.path.insert(0, str(HERE))
        from torch_reference import program

        return program(name, variant, batch, size)
    from diffmic_jax.memory import keep_freed

    keep_freed()
    what, _, task = name.partition("-")
    return _v1(task, batch, size) if what == "v1" else _trunk(what, task, batch, size)


def _trunk(what: str, task: str, batch: int, size: int) -> Callable[[], Any]:
    """A trunk with a linear layer: gradients and new statistics, or logits."""
    import jax
    import jax.numpy as jnp

    from diffmic_jax.nn import trunks

    name = {"lite0": "efficientnet_lite0"}.get(what, what)
    trunk, variables = trunks.create(name)
    image = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    head = jnp.zeros((trunk.num_features, CLASSES))

    @jax.jit
    def infer(params: Any, head: Any) -> Any:
        return trunk.apply(variables | {"params": params}, image, False).mean((1, 2)) @ head

    @jax.jit
    def train(params: Any, head: Any) -> Any:
        def loss(params: Any, head: Any) -> Any:
            own = variables | {"params": params}
            features, new = trunk.apply(own, image, True, mutable=["batch_stats"])
            return -jax.nn.log_softmax(features.mean((1, 2)) @ head)[:, 0].mean(), new

        return jax.grad(loss, (0, 1), has_aux=True)(params, head)

    run = train if task == "train" else infer
    return lambda: jax.block_until_ready(run(variables["params"], head))


def _v1(task: str, batch: int, size: int) -> Callable[[], Any]:
    """The recipe that follows the authors' code: a joint step, or 60 steps of the chain."""
    import jax
    import numpy as np

    from diffmic_jax import recipes
    from diffmic_jax.method.build import build
    from diffmic_jax.method.predict_step import fold, predict_step
    from diffmic_jax.method.task import Task
    from diffmic_jax.method.train_step import train_step
    from diffmic_jax.training import parallel
    from diffmic_jax.training.state import fresh_state
    from diffmic_jax.types import Batch

    changes = {
        "data.image_size": size,
        "train.batch_size": batch,
        "sampling.num_steps": 60,
        "denoiser.encoder_updates": 1,  # as the other program
    }
    config = recipes.get("v1_public").changed(changes)
    method = build(config, Task(class_names=tuple("abcdefg")), steps_per_epoch=1)
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    index = np.arange(batch, dtype=np.int32)
    images = jax.device_put(Batch(image, index % CLASSES, np.ones(batch, np.float32), index))
    state = fresh_state(method, key, mesh)
    if task == "predict":
        variables = state.variables()
        ready = jax.jit(partial(fold, method))(variables)
        predict = jax.jit(lambda v, r, b: predict_step(method, v, b, key, r).probabilities)
        return lambda: jax.block_until_ready(predict(variables, ready, images))
    run = parallel.jit_train(mesh, partial(train_step, method), state)
    holder = [state]

    def step() -> Any:
        holder.append(run(holder.pop(), images, key)[0])  # the state is donated
        return jax.block_until_ready(holder[0])

    return step


if __name__ == "__main__":
    main()
