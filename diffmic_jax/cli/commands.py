"""The verbs: what can be done with a data set or with a trained workdir.

Imports that load JAX stand inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from diffmic_jax import extras
from diffmic_jax.cli.arguments import make_parser
from diffmic_jax.errors import InputError, RunError


def _sampling(args: argparse.Namespace) -> dict[str, object]:
    """The sampling fields that the flags change."""
    names = ("num_samples", "num_steps", "sampler", "start", "rederive_eps")
    return {name: getattr(args, name) for name in names}


def prepare(args: argparse.Namespace) -> None:
    """Check a data set and write it as ArrayRecord files."""
    with extras.requires("tfds", "prepare"):
        from diffmic_jax.data.builders import prepare as run

    made = run(
        args.name,
        args.manual_dir,
        args.data_dir,
        lists=args.lists,
        on_bad_image=args.on_bad_image,
        max_pixels=args.max_pixels,
    )
    _tell_skipped(made.skipped)
    total = sum(made.counts.values())
    parts = ", ".join(f"{count:,} {part}" for part, count in made.counts.items())
    print(f"{made.known.name}: {total:,} images ({parts}) in {made.folder}")
    if not made.fresh:
        print("it was there already; to prepare it anew, delete that folder")
    if total != made.known.count:
        print(f"note: the published set has {made.known.count:,} images")
    if made.known.lists and not made.has_authors:
        wanted = " and ".join(made.known.lists)
        print(f"note: without DiffMIC's split; for it put {wanted} beside the data or name --lists")


def audit(args: argparse.Namespace) -> None:
    """Tell what a data set holds, and what is wrong with it or with its split."""
    from diffmic_jax.data.audit import audit as run
    from diffmic_jax.data.audit import summary
    from diffmic_jax.data.files import write_json
    from diffmic_jax.data.sources import open_source

    ours = ("run", "name", "data_dir", "out", "on_bad_image")
    args.class_names = tuple(filter(None, args.class_names.split(",")))
    options = {name: value for name, value in vars(args).items() if name not in ours}
    source = open_source(args.name, args.data_dir, **options)
    report = run(source, on_bad_image=args.on_bad_image)
    print(summary(report))
    if args.out:
        write_json(args.out, report)
        print(f"written to {args.out}")


def _tell_skipped(skipped: dict[str, str]) -> None:
    for reason in skipped.values():
        print(f"skipped {reason}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} images skipped", file=sys.stderr)


def predict(args: argparse.Namespace) -> None:
    """Classify a folder of images."""
    from diffmic_jax.inference.load import predict_folder

    if args.coverage is not None and not args.uncertainty:
        raise InputError("--coverage: the sets go into another table; name it in --uncertainty")
    count, skipped = predict_folder(
        args.workdir,
        args.images,
        args.out,
        _sampling(args),
        args.on_bad_image,
        args.uncertainty,
        args.coverage,
    )
    _tell_skipped(skipped)
    print(f"{count} images classified; written to {args.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the best checkpoint on a split of its data set."""
    from diffmic_jax.api import evaluate_workdir

    evaluate_workdir(args.workdir, args.split, args.out, _sampling(args), args.root, args.coverage)


def compare(args: argparse.Namespace) -> None:
    """Compare two evaluated runs on the same images."""
    from diffmic_jax.data.files import write_json
    from diffmic_jax.evaluation.compare import compare_workdirs, table

    found = compare_workdirs(args.first, args.second, args.split, args.bootstrap)
    print(table(found, (str(args.first), str(args.second))))
    if args.out:
        write_json(args.out, found)
        print(f"written to {args.out}")


def report(args: argparse.Namespace) -> None:
    """Write what there is to see of a run into one HTML file."""
    from diffmic_jax.api import open_run

    with extras.requires("report", "report"):
        from diffmic_jax.report.build import write_report

    out = args.out or args.workdir / "report.html"
    write_report(open_run(args.workdir, root=args.root), out, args.split)
    print(f"written to {out} ({out.stat().st_size / 1e6:.1f} MB)")


def serve(args: argparse.Namespace) -> None:
    """Show a page on which the classifier can be tried."""
    with extras.requires("serve", "serve"):
        from diffmic_jax.serve.app import serve as run

    run(args.workdir, args.host, args.port, args.coverage)


def convert(args: argparse.Namespace) -> None:
    """Make a workdir of PyTorch checkpoints, or write a workdir as such."""
    from diffmic_jax.interop import convert as run
    from diffmic_jax.settings import load_config

    if args.to == "torch":
        _needs(args, "denoiser", "guidance")
        run.to_diffmic(args.workdir, args.denoiser, args.guidance)
        print(f"written to {args.denoiser} and {args.guidance}")
        return
    class_names = tuple(filter(None, args.class_names.split(",")))
    config = load_config(args.config)
    if args.source == "diffmic":
        # v2 keeps both networks in one file.
        args.denoiser, args.guidance = (f or args.weights for f in (args.denoiser, args.guidance))
        _needs(args, "denoiser", "guidance")
        recipe = run.from_diffmic(args.denoiser, args.guidance, args.workdir, config, class_names)
    else:
        _needs(args, "weights")
        recipe = run.from_backbone(args.weights, args.workdir, config, class_names)
    print(f"{recipe.num_classes} classes, recipe {recipe.name}; written to {args.workdir}")


def study(args: argparse.Namespace) -> None:
    """Train and evaluate every run of a study, and write its tables."""
    import dataclasses

    from diffmic_jax.study.runs import run_study
    from diffmic_jax.study.study import load_study, parse_change

    with extras.requires("report", "study"):
        from diffmic_jax.study.tables import write_tables
    from diffmic_jax.training import parallel

    parallel.join_processes(args.coordinator, args.num_processes, args.process_id)
    wanted = load_study(args.study)
    if args.rows:
        wanted = wanted.with_rows(args.rows)
    wanted = wanted.with_changes(dict(map(parse_change, args.set)))
    wanted = dataclasses.replace(wanted, seeds=args.seeds or wanted.seeds)

    def tell(*so_far: Any) -> None:
        print(write_tables(*so_far), flush=True)

    if not run_study(wanted, args.workdir, tell):
        raise RunError(f"some runs failed; {args.workdir}/study.md says which")


def _needs(args: argparse.Namespace, *names: str) -> None:
    missing = " and ".join(f"--{name}" for name in names if getattr(args, name) is None)
    if missing:
        raise InputError(f"{missing} missing; see python -m diffmic_jax convert --help")


def export(args: argparse.Namespace) -> None:
    """Write the best checkpoint as one program for other machines."""
    from diffmic_jax.inference.export import export_workdir

    export_workdir(args.workdir, args.out, batch_size=args.batch, sampling=_sampling(args))
    print(f"written to {args.out}; {args.out}.md tells how to use it")


def info(args: argparse.Namespace) -> None:
    """Tell what a workdir holds."""
    from diffmic_jax.inference.load import describe

    facts = describe(args.workdir)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:20} {', '.join(value) if isinstance(value, list) else value}")


VERBS = (
    prepare,
    audit,
    convert,
    export,
    predict,
    evaluate,
    compare,
    report,
    serve,
    study,
    info,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    from diffmic_jax.cli.process import run_command

    runs = {verb.__name__: verb for verb in VERBS}

    def run() -> None:
        args = make_parser(runs, str(__doc__)).parse_args(sys.argv[1:] if argv is None else argv)
        args.run(args)

    return run_command(run)
