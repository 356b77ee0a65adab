"""The verbs: what can be done with a trained workdir.

Imports that load JAX stand inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from diffmic_jax.types import InputError


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _positive(text: str) -> int:
    """A count from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Flags that change how labels are drawn; the default is the run's own configuration."""
    parser.add_argument("--num_samples", type=_positive, help="draws per image, averaged")
    parser.add_argument("--num_steps", type=_positive, help="reverse steps")
    parser.add_argument("--sampler", choices=("ancestral", "ddim"))
    parser.add_argument("--start", choices=("full", "truncated", "leading"))


def _sampling(args: argparse.Namespace) -> dict[str, object]:
    """The sampling fields that the flags change."""
    names = ("num_samples", "num_steps", "sampler", "start")
    return {name: getattr(args, name) for name in names}


def predict(args: argparse.Namespace) -> None:
    """Classify a folder of images."""
    from diffmic_jax.evaluation.predict import predict_folder

    count = predict_folder(args.workdir, args.images, args.out, _sampling(args))
    print(f"{count} images classified; written to {args.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the best checkpoint on a split of its data set."""
    from diffmic_jax.experiment import evaluate_workdir

    evaluate_workdir(args.workdir, args.split, args.out, _sampling(args), args.root)


def info(args: argparse.Namespace) -> None:
    """Tell what a workdir holds."""
    from diffmic_jax.evaluation.predict import describe

    facts = describe(args.workdir)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:20} {', '.join(value) if isinstance(value, list) else value}")


def make_parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    parser = _Parser(prog="python -m diffmic_jax", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def add(run, help_text: str, example: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            run.__name__,
            help=help_text,
            description=help_text,
            epilog=f"example: python -m diffmic_jax {run.__name__} {example}",
        )
        verb.add_argument("--workdir", type=Path, required=True, help="a finished run's folder")
        verb.set_defaults(run=run)
        return verb

    verb = add(
        predict,
        "Classify every image in a folder into a CSV.",
        "--workdir=runs/quickstart --images=DIR --out=predictions.csv --num_samples=16",
    )
    verb.add_argument("--images", type=Path, required=True, help="folder of images")
    verb.add_argument("--out", type=Path, required=True, help="the CSV to write")
    _add_sampling(verb)

    verb = add(
        evaluate,
        "Evaluate the best checkpoint on a split of its data set.",
        "--workdir=runs/quickstart --split=test --num_samples=16 --out=eval16",
    )
    verb.add_argument("--split", default="test", choices=("train", "validation", "test"))
    verb.add_argument("--out", type=Path, help="folder to write; default WORKDIR/eval/SPLIT")
    verb.add_argument("--root", help="where the data is now, if it has moved")
    _add_sampling(verb)

    verb = add(info, "Tell what a workdir holds.", "--workdir=runs/quickstart --json")
    verb.add_argument("--json", action="store_true", help="as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    from diffmic_jax.command import run_command

    def run() -> None:
        args = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        args.run(args)

    return run_command(run)
