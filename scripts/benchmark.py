"""Benchmarks: one line for each measurement, as JSON with --json.

    python scripts/benchmark.py --mode=predict --batch=8 --steps=250 --json
    python scripts/benchmark.py --mode=train --batch=8 --json
    python scripts/benchmark.py --mode=compile --json
    python scripts/benchmark.py --mode=input --workers=1,2 --json

`predict` times the classification of a batch, beside guidance and image embedding alone, which is
the floor that no sampler goes below. `train` times a joint step and its parts. `compile` times a
fresh process up to its first answer and its first training step, with an empty compilation cache
and with what that leaves behind, and `--help`. `input` times what feeds training: decoding JPEGs
into the cache, batches from the cache, and these with augmentation on the device.

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
from benchmark_input import measure_input
from timing import compiled, in_turns, peak_memory, peaks, seconds, shares, tell

from diffmic_jax.method import train_step as steps
from diffmic_jax.method.build import DTYPES, Phase, Recipe, make_recipe
from diffmic_jax.method.optimizers import make_optimizers
from diffmic_jax.nn import folded, preprocess
from diffmic_jax.settings import RECIPES, resolve
from diffmic_jax.training import parallel
from diffmic_jax.training.state import TrainState, fresh_state, init_state, init_variables
from diffmic_jax.types import Batch

ROOT = Path(__file__).parents[1]
CLASSES = 7


def make(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags describe."""
    sys.path.insert(0, str(ROOT))  # configs are files of the project, not of the package
    from configs.default import get_config

    config = get_config(args.recipe)
    config.data.image_size = args.size
    config.train.batch_size = args.batch
    config.train.dtype = args.dtype
    config.sampling.num_samples = args.samples
    if args.sampler:
        config.sampling.sampler = args.sampler
    if args.mode == "predict" and args.steps:
        config.sampling.num_steps = args.steps
    for change in args.set:
        field, _, text = change.partition("=")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        config.update_from_flattened_dict({field: value})
    return make_recipe(resolve(config), CLASSES, steps_per_epoch=1)


def some_batch(args: argparse.Namespace) -> Batch:
    """Noise for images."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.batch, args.size, args.size, 3), np.uint8)
    index = np.arange(args.batch, dtype=np.int32)
    return jax.device_put(Batch(image, index % CLASSES, np.ones(args.batch, np.float32), index))


def facts_of(args: argparse.Namespace, recipe: Recipe) -> dict[str, object]:
    """What was measured."""
    return {
        "recipe": recipe.name,
        "size": args.size,
        "batch": args.batch,
        "dtype": args.dtype,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def once_per_image(recipe: Recipe) -> Any:
    """Guidance and image embedding, compiled: what no sampler can do without."""

    @jax.jit
    def once(variables: Any, batch: Batch) -> Any:
        batch = batch._replace(image=preprocess.normalise(batch.image))
        guidance = steps.guide(recipe, variables, batch)
        return guidance.fused, steps.embed(recipe, variables, batch, guidance)

    return once


def measure_predict(args: argparse.Namespace) -> None:
    """Classify a batch."""
    recipe, batch, key = make(args), some_batch(args), jax.random.key(0)
    variables = jax.jit(partial(init_variables, recipe))(key)

    def normalised(batch: Batch) -> Batch:
        return batch._replace(image=preprocess.normalise(batch.image))

    guide = jax.jit(lambda v, b: steps.guide(recipe, v, normalised(b)))
    guidance = guide(variables, batch)
    embed = jax.jit(lambda v, b, g: steps.embed(recipe, v, normalised(b), g))

    once, *floor = compiled(once_per_image(recipe), variables, batch)
    fold = jax.jit(partial(steps.fold, recipe))
    ready = fold(variables)

    @jax.jit
    def whole(variables: Any, ready: Any, batch: Batch) -> Any:
        answer = steps.predict_step(recipe, variables, batch, key, ready)
        return answer.probabilities, answer.spread

    peak = peaks(args)
    took = in_turns(
        {
            "whole": lambda: whole(variables, ready, batch),
            "floor": lambda: once(variables, batch),
            "guidance": lambda: guide(variables, batch),
            "encoder": lambda: embed(variables, batch, guidance),
            "fold": lambda: fold(variables),
            **peak[0],
        },
        args.repeat,
    )
    prior, features = recipe.priors(guidance)[0], embed(variables, batch, guidance)
    draws = jnp.zeros((recipe.sampling.num_samples, *prior.mean.shape))
    step = jax.jit(lambda r, c, f, y: folded.on_images(r, c, f)(y, jnp.int32(0)))
    _, *per_step = compiled(step, ready, prior.condition[None], features, draws)
    count = recipe.sampling.num_steps
    flops, moved = (a + count * b for a, b in zip(floor, per_step, strict=True))
    total = took["whole"].wall
    tell(
        args,
        **facts_of(args, recipe),
        steps=count,
        samples=recipe.sampling.num_samples,
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


def train_parts(recipe: Recipe, state: TrainState, batch: Batch) -> dict[str, Any]:
    """The joint step and its parts, each (state, batch) -> (state, ...), compiled."""
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    phases = [recipe.phases[-1]]
    phases += [Phase(network, (network,), 1) for network in recipe.phases[-1].learns]
    parts = {
        phase.name: parallel.jit_train(
            mesh, partial(steps.train_step, recipe.in_phase(phase)), state
        )
        for phase in dict.fromkeys(phases)
    }

    def update(state: TrainState, batch: Batch, key: Any) -> tuple[TrainState, Any]:
        del batch, key
        new = {}
        for network in recipe.phases[-1].learns:
            tree = state.params[network]
            new[network] = make_optimizers(recipe)[network].update(
                tree, state.opt_state[network], tree
            )
        params = state.params | {name: each[0] for name, each in new.items()}
        opt_state = state.opt_state | {name: each[1] for name, each in new.items()}
        return state.replace(params=params, opt_state=opt_state), jnp.zeros(())

    parts["optimizer"] = parallel.jit_train(mesh, update, state)
    return {name: (run, (batch, key)) for name, run in parts.items()}


def measure_train(args: argparse.Namespace) -> None:
    """Take steps of the last phase."""
    recipe, batch = make(args), some_batch(args)
    whole = parallel.replicated(parallel.make_mesh())
    state = jax.jit(partial(init_state, recipe), out_shardings=whole)(jax.random.key(0))
    holder = [state]
    parts = train_parts(recipe, state, batch)
    name = recipe.phases[-1].name
    run, rest = parts[name]
    run, flops, moved = compiled(run, state, *rest)
    parts[name] = run, rest

    def stepper(run: Callable, rest: tuple) -> Callable[[], object]:
        def step() -> object:
            # The state is donated: every step takes the one before.
            holder.append(run(holder.pop(), *rest)[0])
            return holder[0]

        return step

    once = once_per_image(recipe)
    del state
    peak = peaks(args)
    runs = {part: stepper(*each) for part, each in parts.items()}
    took = in_turns(
        runs | {"floor": lambda: once(holder[0].variables(), batch)} | peak[0], args.repeat
    )
    total = took[name].wall
    tell(
        args,
        **facts_of(args, recipe),
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
    """Time to a first answer in a process of its own; or in this one, if it is that process."""
    if args.first:
        recipe, batch = make(args), some_batch(args)
        whole = parallel.replicated(parallel.make_mesh())
        began = time.perf_counter()
        key = jax.random.key(0)
        abstract = jax.eval_shape(partial(init_state, recipe), key)
        state = fresh_state(recipe, key, jax.tree.map(lambda leaf: whole, abstract))
        jax.block_until_ready(state)
        ready = time.perf_counter()
        if args.first == "predict":
            run: Any = jax.jit(partial(steps.predict_step, recipe))
            out = run(state.variables(), batch, jax.random.key(0))
        else:
            run, rest = train_parts(recipe, state, batch)[recipe.phases[-1].name]
            out = run(state, *rest)
        jax.block_until_ready(out)
        done = time.perf_counter()
        tell(
            args,
            measurement=f"first_{args.first}",
            **facts_of(args, recipe),
            init_seconds=ready - began,
            first_seconds=done - ready,
            peak_memory_bytes=peak_memory(),
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=folder, PYTHONPATH=str(ROOT))
        for first in ("predict", "train"):
            for state in ("cold", "warm"):
                command = [sys.executable, __file__, *sys.argv[1:], f"--first={first}", "--json"]
                began = time.perf_counter()
                out = subprocess.run(
                    command, check=True, env=environment, stdout=subprocess.PIPE, text=True
                )
                took = time.perf_counter() - began
                found = json.loads(out.stdout.splitlines()[-1])
                tell(args, **found | {"cache": state, "process_seconds": took})
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
            tell(args, measurement=f"{' '.join(command)} --help", process_seconds=took)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


MODES = {
    "predict": measure_predict,
    "train": measure_train,
    "input": measure_input,
    "compile": measure_compile,
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
    parser.add_argument("--steps", type=int, help="reverse steps (predict) or batches (input: 100)")
    parser.add_argument("--sampler", choices=("ancestral", "ddim"), help="default: the recipe's")
    parser.add_argument("--samples", type=int, default=1, help="draws per image")
    parser.add_argument("--recipe", choices=RECIPES, default="v1")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--images", type=int, default=512, help="JPEGs to write (input)")
    parser.add_argument("--jpeg", type=_numbers, default=(450, 600), help="height,width of them")
    parser.add_argument("--workers", type=_numbers, default=(1, 2), help="as 1,2 (input)")
    parser.add_argument("--first", choices=("predict", "train"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    MODES[args.mode](args)


if __name__ == "__main__":
    main()
