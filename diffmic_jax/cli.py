"""The verbs: what can be done with a data set or with a trained workdir.

Imports that load JAX stand inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diffmic_jax.data.catalog import CATALOG
from diffmic_jax.data.images import MAX_PIXELS
from diffmic_jax.data.splits import PROTOCOLS
from diffmic_jax.types import InputError, RunError


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _positive(text: str) -> int:
    """A count from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    """A number between 0 and 1 from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _seeds(text: str) -> tuple[int, ...]:
    """Seeds from the command line."""
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds like 0,1,2")
    return tuple(map(int, parts))


def _add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on_bad_image",
        default="error",
        choices=("error", "skip"),
        help="stop at an image that cannot be read, or leave it out and list it",
    )


def _add_bad_images(parser: argparse.ArgumentParser) -> None:
    _add_on_bad_image(parser)
    parser.add_argument(
        "--max_pixels", type=_positive, default=MAX_PIXELS, help="larger images are refused"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Flags that change how labels are drawn; the default is the run's own configuration."""
    parser.add_argument("--num_samples", type=_positive, help="draws per image, averaged")
    parser.add_argument("--num_steps", type=_positive, help="reverse steps")
    parser.add_argument("--sampler", choices=("ancestral", "ddim"))
    parser.add_argument("--start", choices=("full", "truncated", "leading"))
    parser.add_argument(
        "--rederive_eps",
        action=argparse.BooleanOptionalAction,
        help="where ddim clips the label, go on with the noise that the clipped one implies",
    )


def _sampling(args: argparse.Namespace) -> dict[str, object]:
    """The sampling fields that the flags change."""
    names = ("num_samples", "num_steps", "sampler", "start", "rederive_eps")
    return {name: getattr(args, name) for name in names}


def prepare(args: argparse.Namespace) -> None:
    """Check a data set and write it as ArrayRecord files."""
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
    from diffmic_jax.data.sources import open_source
    from diffmic_jax.evaluation.records import write_json

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
    from diffmic_jax.evaluation.predict import predict_folder

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
    from diffmic_jax.experiment import evaluate_workdir

    evaluate_workdir(args.workdir, args.split, args.out, _sampling(args), args.root, args.coverage)


def compare(args: argparse.Namespace) -> None:
    """Compare two evaluated runs on the same images."""
    from diffmic_jax.evaluation.compare import compare_workdirs, table
    from diffmic_jax.evaluation.records import write_json

    found = compare_workdirs(args.first, args.second, args.split, args.bootstrap)
    print(table(found, (str(args.first), str(args.second))))
    if args.out:
        write_json(args.out, found)
        print(f"written to {args.out}")


def report(args: argparse.Namespace) -> None:
    """Write what there is to see of a run into one HTML file."""
    from diffmic_jax.evaluation.report.build import write_report
    from diffmic_jax.experiment import open_run

    out = args.out or args.workdir / "report.html"
    write_report(open_run(args.workdir, root=args.root), out, args.split)
    print(f"written to {out} ({out.stat().st_size / 1e6:.1f} MB)")


def serve(args: argparse.Namespace) -> None:
    """Show a page on which the classifier can be tried."""
    try:
        from diffmic_jax.serve.app import serve as run
    except ImportError as error:
        raise InputError(
            f"serve: needs {error.name}; install it with pip install 'diffmic_jax[serve]'"
        ) from error

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

    from diffmic_jax.evaluation.study import load_study, parse_change, run_study
    from diffmic_jax.evaluation.study_tables import write_tables
    from diffmic_jax.training import parallel

    parallel.join_processes(args.coordinator, args.num_processes, args.process_id)
    wanted = load_study(args.study)
    changes = dict(map(parse_change, args.set))
    # After each row's own changes, so that the command line has the last word.
    rows = tuple(
        dataclasses.replace(row, changes={**row.changes, **changes}) for row in wanted.rows
    )
    wanted = dataclasses.replace(wanted, rows=rows, seeds=args.seeds or wanted.seeds)

    def tell(*so_far: Any) -> None:
        if parallel.is_main_process():
            print(write_tables(*so_far), flush=True)

    if not run_study(wanted, args.workdir, tell):
        raise RunError(f"some runs failed; {args.workdir}/study.md says which")


def _needs(args: argparse.Namespace, *names: str) -> None:
    missing = " and ".join(f"--{name}" for name in names if getattr(args, name) is None)
    if missing:
        raise InputError(f"{missing} missing; see python -m diffmic_jax convert --help")


def export(args: argparse.Namespace) -> None:
    """Write the best checkpoint as one program for other machines."""
    from diffmic_jax.interop.export import export_workdir

    export_workdir(args.workdir, args.out, batch_size=args.batch, sampling=_sampling(args))
    print(f"written to {args.out}; {args.out}.md tells how to use it")


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
    _add_prepare(verbs)
    _add_audit(verbs)
    _add_convert(verbs)
    _add_export(verbs)
    _add_predict(verbs)
    _add_evaluate(verbs)
    _add_compare(verbs)
    _add_report(verbs)
    _add_serve(verbs)
    _add_study(verbs)
    verb = _add_verb(verbs, info, "Tell what a workdir holds.", "--workdir=runs/quickstart --json")
    _add_workdir(verb)
    verb.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add_verb(
    verbs: argparse._SubParsersAction, run: Callable, help_text: str, example: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        run.__name__,
        help=help_text,
        description=help_text,
        epilog=f"example: python -m diffmic_jax {run.__name__} {example}",
    )
    verb.set_defaults(run=run)
    return verb


def _add_prepare(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        prepare,
        "Check every image of a data set as it is distributed, and write it as ArrayRecord files.",
        "ham10000 --manual_dir=downloads/ham10000 --data_dir=data",
    )
    verb.add_argument("name", help=f"one of {', '.join(CATALOG)}")
    verb.add_argument("--manual_dir", type=Path, required=True, help="the unpacked archives")
    verb.add_argument("--data_dir", type=Path, required=True, help="where NAME/VERSION is made")
    verb.add_argument("--lists", type=Path, help="folder of DiffMIC's split lists")
    _add_bad_images(verb)


def _add_audit(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        audit,
        "Count classes and sizes, and look for leaks, duplicates and bad images in a split.",
        "ham10000 --data_dir=data --protocol=authors --out=audit.json",
    )
    verb.add_argument("name", help="a data set known by name, images (your own), or phantom")
    verb.add_argument("--data_dir", default="", help="what prepare wrote, or the images themselves")
    verb.add_argument("--out", type=Path, help="JSON to write")
    verb.add_argument("--protocol", default="given", choices=PROTOCOLS)
    verb.add_argument("--labels", default="", help="CSV of labels")
    verb.add_argument("--groups", default="", help="CSV of groups")
    verb.add_argument("--split", default="", help="CSV of image and part")
    verb.add_argument("--train_list", default="", help="pickled split list")
    verb.add_argument("--test_list", default="", help="its test half")
    verb.add_argument("--class_names", default="", help="in label order, as benign,malignant")
    verb.add_argument("--multi_label", action="store_true", help="any number of classes per image")
    verb.add_argument("--validation_fraction", type=float, default=0.0, help="cut from training")
    verb.add_argument("--test_fraction", type=float, default=0.2, help="where no split is given")
    verb.add_argument("--seed", type=int, default=0, help="of the cuts")
    _add_bad_images(verb)


def _add_convert(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        convert,
        "Make a workdir of PyTorch checkpoints (a DiffMIC run, or a ResNet to start from), or "
        "write a workdir as those of DiffMIC.",
        "--denoiser=ckpt_best.pth --guidance=aux_ckpt_best.pth "
        "--config=configs/ham10000.py:v1_public --workdir=runs/theirs",
    )
    sources = ("diffmic", "torchvision", "timm")
    verb.add_argument("--source", default="diffmic", choices=sources, help="whose they are")
    verb.add_argument("--to", default="workdir", choices=("workdir", "torch"))
    verb.add_argument("--denoiser", type=Path, help="of DiffMIC: .pth or .safetensors")
    verb.add_argument("--guidance", type=Path, help="of DiffMIC: .pth or .safetensors")
    verb.add_argument("--weights", type=Path, help="of DiffMIC-v2, torchvision or timm, likewise")
    verb.add_argument("--workdir", type=Path, required=True, help="new folder, or the run to write")
    verb.add_argument("--config", default="configs/default.py:v1_public", help="of the data set")
    verb.add_argument("--class_names", default="", help="in label order, as benign,malignant")


def _add_export(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        export,
        "Write the classifier as one StableHLO program for CPU, CUDA and TPU, weights included.",
        "--workdir=runs/quickstart --out=classifier.stablehlo",
    )
    _add_workdir(verb)
    verb.add_argument("--out", type=Path, required=True, help="the file to write")
    verb.add_argument("--batch", type=_positive, help="images per call; default: any number")
    _add_sampling(verb)


def _add_predict(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        predict,
        "Classify every image in a folder into a CSV.",
        "--workdir=runs/quickstart --images=DIR --out=predictions.csv --num_samples=16",
    )
    _add_workdir(verb)
    verb.add_argument("--images", type=Path, required=True, help="folder of images")
    verb.add_argument("--out", type=Path, required=True, help="the CSV to write")
    verb.add_argument("--uncertainty", type=Path, help="a second CSV: how sure the answers are")
    verb.add_argument("--coverage", type=_share, help="of its prediction sets; default 0.9")
    _add_on_bad_image(verb)
    _add_sampling(verb)


def _add_evaluate(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        evaluate,
        "Evaluate the best checkpoint on a split of its data set.",
        "--workdir=runs/quickstart --split=test --num_samples=16 --out=eval16",
    )
    _add_workdir(verb)
    _add_split(verb)
    verb.add_argument("--out", type=Path, help="folder to write; default WORKDIR/eval/SPLIT")
    verb.add_argument("--root", help="where the data is now, if it has moved")
    verb.add_argument("--coverage", type=_share, default=0.9, help="of the prediction sets")
    _add_sampling(verb)


def _add_compare(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        compare,
        "Compare two evaluated runs: McNemar's test and paired bootstrap, on the same images.",
        "runs/mine runs/other --out=comparison.json",
    )
    verb.add_argument(
        "first", type=Path, help="an evaluated run's folder, or what evaluate --out wrote"
    )
    verb.add_argument("second", type=Path, help="another one, of the same images")
    _add_split(verb)
    verb.add_argument("--bootstrap", type=_positive, default=1000, help="number of resamples")
    verb.add_argument("--out", type=Path, help="JSON to write")


def _add_report(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        report,
        "Write what there is to see of a run into one HTML file, which needs no network. It shows "
        "images of the split: treat it as you treat these.",
        "--workdir=runs/quickstart",
    )
    _add_workdir(verb)
    _add_split(verb)
    verb.add_argument("--out", type=Path, help="file to write; default WORKDIR/report.html")
    verb.add_argument("--root", help="where the data is now, if it has moved")


def _add_serve(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        serve,
        "Show a page on which the classifier can be tried; by default on this machine alone.",
        "--workdir=runs/quickstart --port=8000",
    )
    _add_workdir(verb)
    verb.add_argument("--host", default="127.0.0.1", help="address to listen at")
    verb.add_argument("--port", type=_positive, default=8000)
    verb.add_argument("--coverage", type=_share, default=0.9, help="of the prediction sets")


def _add_study(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        study,
        "Train and evaluate every run of a study, one after the other, and write its tables. The "
        "same command goes on after a stop.",
        "studies/table2.py:smoke --workdir=runs/table2",
    )
    verb.add_argument("study", help="FILE or FILE:VARIANT, as studies/table2.py:smoke")
    verb.add_argument("--workdir", type=Path, required=True, help="folder of its runs and tables")
    verb.add_argument("--seeds", type=_seeds, help="as 0,1,2; default: the study's")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="of every run, as data.root=DIR; may be given many times",
    )
    verb.add_argument("--coordinator", default="", help="these three as for main.py")
    verb.add_argument("--num_processes", type=int, default=0)
    verb.add_argument("--process_id", type=int, default=-1)


def _add_split(parser: argparse.ArgumentParser) -> None:
    splits = ("train", "validation", "test", "test_clean")
    parser.add_argument("--split", default="test", choices=splits)


def _add_workdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="a finished run's folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    from diffmic_jax.command import run_command

    def run() -> None:
        args = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        args.run(args)

    return run_command(run)
