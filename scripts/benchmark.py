"""Benchmarks: one line for each measurement, as JSON with --json.

    python scripts/benchmark.py --mode=predict --batch=8 --steps=250 --json
    python scripts/benchmark.py --mode=train --batch=8 --json
    python scripts/benchmark.py --mode=compile --json
    python scripts/benchmark.py --mode=input --workers=1,2 --json
    python scripts/benchmark.py --mode=aot --topology=v5e:16x16 --dtype=bfloat16 --json

`predict` times the classification of a batch, beside guidance and image embedding alone, which is
the floor that no sampler goes below. `train` times a joint step and its parts. `compile` times a
fresh process up to its first prediction and its first training step, with an empty compilation
cache and with what that leaves behind, and `--help`. `input` times what feeds training: decoding
JPEGs into the cache, batches from the cache, and these with augmentation on the device. `aot`
compiles the training and the prediction step for TPUs or GPUs that are not there and says what a
chip would hold, compute, move and send (docs/scaling.md); there, --batch is that of one chip.

What is compared is measured in turns, so that other work on the machine falls on all of it alike;
numbers are medians over the turns. `peak_share` is the time that the machine would need at its own
measured peak, of a large matrix product or a large copy (whichever is the longer), over the time
that was taken. Operations and bytes are XLA's own count; caches can make it exceed what moves.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from aot import measure_aot
from benchmark_input import measure_input
from timing import compiled, in_turns, peak_memory, peaks, report, seconds, shares

from diffmic_jax import recipes
from diffmic_jax.diffusion.samplers import SAMPLERS
from diffmic_jax.method.build import Method, Phase, build
from diffmic_jax.method.networks import DTYPES
from diffmic_jax.method.optimizers import make_optimizers
from diffmic_jax.method.predict_step import embed, fold, predict_step
from diffmic_jax.method.state import TrainState, init_state, init_variables
from diffmic_jax.method.task import Task
from diffmic_jax.method.train_step import guide, train_step
from diffmic_jax.method.tuning import merged
from diffmic_jax.nn import folded
from diffmic_jax.training import parallel
from diffmic_jax.training.state import fresh_state
from diffmic_jax.types import Batch

ROOT = Path(__file__).parents[1]
TASK = Task(class_names=tuple("abcdefg"))


def make(args: argparse.Namespace) -> Method:
    """The method that the flags describe."""
    changes = {
        "data.image_size": args.size,
        "train.batch_size": args.batch,
        "train.dtype": args.dtype,
        "sampling.num_samples": args.samples,
    }
    if args.sampler:
        changes["sampling.sampler"] = args.sampler
    if args.mode == "predict" and args.steps:
        changes["sampling.num_steps"] = args.steps
    for change in args.set:
        field, _, text = change.partition("=")
        try:
            changes[field] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            changes[field] = text
    return build(recipes.get(args.recipe).changed(changes), TASK, steps_per_epoch=1)


def some_batch(args: argparse.Namespace) -> Batch:
    """Noise for images."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.batch, args.size, args.size, 3), np.uint8)
    index = np.arange(args.batch, dtype=np.int32)
    return jax.device_put(
        Batch(image, index % TASK.num_classes, np.ones(args.batch, np.float32), index)
    )


def facts_of(args: argparse.Namespace, method: Method) -> dict[str, object]:
    """What was measured."""
    return {
        "recipe": method.name,
        "size": args.size,
        "batch": args.batch,
        "dtype": args.dtype,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def once_per_image(method: Method) -> Any:
    """Guidance and image embedding, compiled: what no sampler can do without."""

    @jax.jit
    def once(variables: Any, batch: Batch) -> Any:
        batch = batch._replace(image=method.preprocess.normalise(batch.image))
        guidance = guide(method, variables, batch)
        return guidance.fused, embed(method, variables, batch, guidance)

    return once


def measure_predict(args: argparse.Namespace) -> None:
    """Classify a batch."""
    method, batch, key = make(args), some_batch(args), jax.random.key(0)
    variables = jax.jit(partial(init_variables, method))(key)

    def normalised(batch: Batch) -> Batch:
        return batch._replace(image=method.preprocess.normalise(batch.image))

    guiding = jax.jit(lambda v, b: guide(method, v, normalised(b)))
    guidance = guiding(variables, batch)
    embedding = jax.jit(lambda v, b, g: embed(method, v, normalised(b), g))

    once, *floor = compiled(once_per_image(method), variables, batch)
    folding = jax.jit(partial(fold, method))
    ready = folding(variables)

    @jax.jit
    def whole(variables: Any, ready: Any, batch: Batch) -> Any:
        prediction = predict_step(method, variables, batch, key, ready)
        return prediction.probabilities, prediction.spread

    peak = peaks(args)
    took = in_turns(
        {
            "whole": lambda: whole(variables, ready, batch),
            "floor": lambda: once(variables, batch),
            "guidance": lambda: guiding(variables, batch),
            "encoder": lambda: embedding(variables, batch, guidance),
            "fold": lambda: folding(variables),
            **peak[0],
        },
        args.repeat,
    )
    prior, features = method.priors(guidance)[0], embedding(variables, batch, guidance)
    samples = jnp.zeros((method.sampling.num_samples, *prior.mean.shape))
    step = jax.jit(lambda r, c, f, y: folded.on_images(r, c, f)(y, jnp.int32(0)))
    _, *per_step = compiled(step, ready, prior.condition[None], features, samples)
    count = method.sampling.num_steps
    flops, moved = (a + count * b for a, b in zip(floor, per_step, strict=True))
    total = took["whole"].wall
    report(
        args,
        **facts_of(args, method),
        steps=count,
        samples=method.sampling.num_samples,
        sampler=args.sampler or "the recipe's",
        seconds_per_image=total / args.batch,
        floor_seconds_per_image=took["floor"].wall / args.batch,
        seconds_per_step=(total - took["floor"].wall) / count,
        images_per_second=args.batch / total,
        cpu_seconds_per_image=took["whole"].cpu / args.batch,
        cpu_floor_seconds_per_image=took["floor"].cpu / args.batch,
        cpu_seconds_per_step=(took["whole"].cpu - took["floor"].cpu) / count,
        guidance_seconds=took["guidance"].wall,
        encoder_seconds=took["encoder"].wall,
        fold_seconds=took["fold"].wall,
        **shares(took, "whole", flops, moved, peak),
    )


def train_parts(method: Method, state: TrainState, batch: Batch) -> dict[str, Any]:
    """The joint step and its parts, each (state, batch) -> (state, ...), compiled."""
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    last = method.phases[-1]
    learners = [network for network in ("guidance", "denoiser") if getattr(last, network)]
    alone = [
        Phase(name=each, steps=1, guidance=each == "guidance", denoiser=each == "denoiser")
        for each in learners
    ]
    parts = {
        phase.name: parallel.jit_train(mesh, partial(train_step, method.in_phase(phase)), state)
        for phase in (last, *alone)
    }

    def update(state: TrainState, batch: Batch, key: Any) -> tuple[TrainState, Any]:
        del batch, key
        new = {}
        for network in learners:
            tree = method.learning(network, state.params[network])
            optimizer = make_optimizers(method.optimization)[network]
            new[network] = optimizer.update(tree, state.opt_state[network], tree)
        params = {name: merged(state.params[name], each[0]) for name, each in new.items()}
        opt_state = state.opt_state | {name: each[1] for name, each in new.items()}
        return state.replace(params=state.params | params, opt_state=opt_state), jnp.zeros(())

    parts["optimizer"] = parallel.jit_train(mesh, update, state)
    return {name: (run, (batch, key)) for name, run in parts.items()}


def measure_train(args: argparse.Namespace) -> None:
    """Take steps of the last phase."""
    method, batch = make(args), some_batch(args)
    whole = parallel.replicated(parallel.make_mesh())
    state = jax.jit(partial(init_state, method), out_shardings=whole)(jax.random.key(0))
    holder = [state]
    parts = train_parts(method, state, batch)
    name = method.phases[-1].name
    run, rest = parts[name]
    run, flops, moved = compiled(run, state, *rest)
    parts[name] = run, rest

    def stepper(run: Callable, rest: tuple) -> Callable[[], object]:
        def step() -> object:
            # The state is donated: every step takes the one before.
            holder.append(run(holder.pop(), *rest)[0])
            return holder[0]

        return step

    once = once_per_image(method)
    del state
    peak = peaks(args)
    runs = {part: stepper(*each) for part, each in parts.items()}
    took = in_turns(
        runs | {"floor": lambda: once(holder[0].variables(), batch)} | peak[0], args.repeat
    )
    total = took[name].wall
    report(
        args,
        **facts_of(args, method),
        phase=name,
        seconds_per_image=total / args.batch,
        floor_seconds_per_image=took["floor"].wall / args.batch,
        seconds_per_step=total,
        images_per_second=args.batch / total,
        cpu_seconds_per_step=took[name].cpu,
        **{f"{part}_seconds": took[part].wall for part in parts if part != name},
        **{f"cpu_{part}_seconds": took[part].cpu for part in parts if part != name},
        **shares(took, name, flops, moved, peak),
    )


def measure_compile(args: argparse.Namespace) -> None:
    """Time to a first result in a process of its own; or in this one, if it is that process."""
    if args.first:
        method, batch = make(args), some_batch(args)
        began = time.perf_counter()
        state = fresh_state(method, jax.random.key(0), parallel.make_mesh())
        jax.block_until_ready(state)
        ready = time.perf_counter()
        if args.first == "predict":
            run: Any = jax.jit(partial(predict_step, method))
            out = run(state.variables(), batch, jax.random.key(0))
        else:
            run, rest = train_parts(method, state, batch)[method.phases[-1].name]
            out = run(state, *rest)
        jax.block_until_ready(out)
        done = time.perf_counter()
        report(
            args,
            measurement=f"first_{args.first}",
            **facts_of(args, method),
            init_seconds=ready - began,
            first_seconds=done - ready,
            peak_memory_bytes=peak_memory(),
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=folder, PYTHONPATH=str(ROOT))
        for first in ("predict", "train"):
            for cache in ("cold", "warm"):
                command = [sys.executable, __file__, *sys.argv[1:], f"--first={first}", "--json"]
                began = time.perf_counter()
                out = subprocess.run(
                    command, check=True, env=environment, stdout=subprocess.PIPE, text=True
                )
                took = time.perf_counter() - began
                found = json.loads(out.stdout.splitlines()[-1])
                report(args, **found | {"cache": cache, "process_seconds": took})
        for command in (["main.py"], ["-m", "diffmic_jax"]):
            shown = partial(
                subprocess.run,
                [sys.executable, *command, "--help"],
                check=True,
                env=environment,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
            )
            took = statistics.median(seconds(shown) for _ in range(args.repeat))
            report(args, measurement=f"{' '.join(command)} --help", process_seconds=took)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


MODES = {
    "predict": measure_predict,
    "train": measure_train,
    "input": measure_input,
    "compile": measure_compile,
    "aot": partial(measure_aot, make=make),
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=MODES, default="predict")
    parser.add_argument("--json", action="store_true", help="JSON lines")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, help="reverse steps, or batches (input, aot)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: the recipe's")
    parser.add_argument("--samples", type=int, default=1, help="samples per image")
    parser.add_argument("--recipe", choices=recipes.NAMES, default="v1")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--images", type=int, default=512, help="JPEGs to write (input)")
    parser.add_argument("--jpeg", type=_numbers, default=(450, 600), help="height,width of them")
    parser.add_argument("--workers", type=_numbers, default=(1, 2), help="as 1,2 (input)")
    parser.add_argument("--topology", default="v5e:2x2", help="as v5e:16x16 or h100:8 (aot)")
    parser.add_argument("--programs", help="as warmup,joint,predict (aot); the last two")
    parser.add_argument("--effort", type=float, default=0.0, help="of the compiler, -1 to 1 (aot)")
    parser.add_argument("--fit-batch", action="store_true", help="up to the most that fit (aot)")
    parser.add_argument("--first", choices=("predict", "train"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    MODES[args.mode](args)


if __name__ == "__main__":
    main()
