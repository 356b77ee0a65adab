"""The commands: what can be done with a data set or with a trained workdir.

Imports that load JAX stand inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from diffmic_jax import extras
from diffmic_jax.errors import InputError, RunError

PROGRAM = "classifier.stablehlo"
"""What `fit` exports."""
SAMPLING = ("num_samples", "num_steps", "sampler", "start", "flips", "rederive_eps")


def fit(args: argparse.Namespace) -> None:
    """Plan for a data set, train, evaluate, and write the report."""
    from diffmic_jax import api
    from diffmic_jax.planning import plan as plans
    from diffmic_jax.study.definition import parse_change

    changes = dict(map(parse_change, args.set))
    changes |= {"data.groups": args.groups} if args.groups else {}
    changes |= {"data.class_names": args.ordinal} if args.ordinal else {}
    if args.plan:
        if args.config:
            raise InputError("--plan: a configuration has no plan; leave --config out")
        print(api.plan(args.data, minutes=args.minutes, changes=changes).text)
        return
    with extras.requires("report", "fit"):  # now, not after the training
        import diffmic_jax.report.build  # noqa: F401

    classifier = api.fit(
        args.data, minutes=args.minutes, config=args.config, workdir=args.out, changes=changes
    )
    plan = plans.read(classifier.workdir)
    print(f"report: {classifier.report(audit=plan is None or plan.audit > 0)}")
    print(f"program: {classifier.export(classifier.workdir / PROGRAM)}")


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
    _print_skipped(made.skipped)
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
    """Report what a data set holds, and what is wrong with it or with its split."""
    from diffmic_jax import configfile
    from diffmic_jax.data.audit_text import summary
    from diffmic_jax.data.files import write_json
    from diffmic_jax.data.recognise import data_fields
    from diffmic_jax.data.sources import open_source
    from diffmic_jax.study.definition import parse_change

    with extras.requires("report", "audit"):
        from diffmic_jax.data.audit import audit as run

    changes = {f"data.{name}": value for name, value in _given(args).items()}
    if args.data_dir:
        changes |= {"data.name": args.name, "data.root": args.data_dir}
    else:
        changes = data_fields(args.name) | changes
    config = configfile.load(args.config).changed(changes | dict(map(parse_change, args.set)))
    report = run(open_source(config.data))
    print(_cut(config.data, args.config))
    print(summary(report))
    if args.out:
        write_json(args.out, report)
        print(f"written to {args.out}")
    if bad := report["unreadable"] if args.on_bad_image == "error" else ():
        raise InputError(
            f"{len(bad)} images cannot be read, and training stops at them; replace them, or train "
            "with --config.data.on_bad_image=skip"
        )


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `config.Data` that flags of `audit` give."""
    from diffmic_jax.config import Data

    names = {field.name for field in dataclasses.fields(Data)} - {"name", "on_bad_image"}
    given = {name: value for name, value in vars(args).items() if name in names}
    return {name: value for name, value in given.items() if value is not None}


def _cut(data: Any, spec: str) -> str:
    """Of which training the audited split is."""
    split = f"read from {data.split}" if data.split else f"protocol {data.protocol}"
    return (
        f"The split of a training with --config={spec} and these fields: {split}, seed "
        f"{data.split_seed}; where none is given, {data.test_fraction:.0%} for testing and "
        f"{data.validation_fraction:.0%} of the rest for validation"
    )


def predict(args: argparse.Namespace) -> None:
    """Classify images into a table."""
    from diffmic_jax.data.files import check_writable_file
    from diffmic_jax.data.named import find_images
    from diffmic_jax.inference.classify import classify, write_uncertainty_of
    from diffmic_jax.inference.classify import table as rows_of
    from diffmic_jax.inference.predictions import printed, write_rows

    if not args.images + args.more:
        args.parser.error("name the images: files, folders, patterns such as 'scans/*.dcm', or -")
    if args.coverage is not None and not args.uncertainty:
        raise InputError("--coverage: the sets go into another table; name it in --uncertainty")
    for out in filter(None, (args.out, args.uncertainty)):
        check_writable_file(out)
    named = find_images([*args.images, *args.more], sys.stdin)
    model = _load(args)
    found = classify(model, named.images, args.on_bad_image)
    if args.uncertainty:
        write_uncertainty_of(model, found, args.uncertainty, args.coverage)
    header, rows = rows_of(model, found.ids, found.outputs)
    if args.out:
        write_rows(args.out, header, rows)
    else:
        print(printed(header, rows))
    _print_skipped(found.skipped)
    where = f"; written to {args.out}" if args.out else ""
    left_out = f"; {named.left_out}" if named.others else ""
    # Beside the table on the screen, which may go into a pipe.
    place = sys.stdout if args.out else sys.stderr
    print(f"{len(found.ids)} images classified{where}{left_out}", file=place)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the best checkpoint on a split of its data set, or on other data."""
    from diffmic_jax.api import Classifier
    from diffmic_jax.data.attributes import find_columns
    from diffmic_jax.data.files import write_json
    from diffmic_jax.evaluation.evaluate import table as metrics_table
    from diffmic_jax.evaluation.subgroups import table
    from diffmic_jax.study.definition import parse_change

    if args.data_dir and (args.root or args.split):
        raise InputError("--root and --split are of the run's own data; leave out --data_dir")
    if not args.data_dir and (args.labels or args.groups or args.class_map or args.set):
        raise InputError("--labels, --groups, --class_map, --set: of other data; name --data_dir")
    classifier = Classifier(_load(args))
    given = {"data.labels": args.labels, "data.groups": args.groups}
    changes = dict(map(parse_change, args.set)) | {f: x for f, x in given.items() if x}
    if args.attributes:  # before anything is computed
        if args.data_dir:
            data = classifier.other_data(args.data_dir, changes=changes)
        else:
            data = classifier.moved(args.root).data
        find_columns(data, args.attributes, args.table)
    how = {"folder": args.out, "coverage": args.coverage}
    if args.data_dir:
        theirs = {"class_map": args.class_map, "changes": changes}
        found = classifier.evaluate_on(args.data_dir, **theirs, **how)
    else:
        found = classifier.evaluate(args.split or "test", root=args.root, **how)
    place = found.folder or classifier.workdir
    if args.attributes:
        by_value = classifier.subgroups(found, args.attributes, args.table)
        write_json(place / "subgroups.json", by_value)
        print(f"\n{table(by_value)}")
    if args.per_case:
        cases = classifier.per_case(found)
        write_json(place / "cases.json", cases)
        print(f"\none answer for each of {cases['n']:,} cases\n{metrics_table(cases)}")


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
    from diffmic_jax.api import Classifier

    model = _load(args)
    if args.checklist:
        from diffmic_jax.report.checklist import write_checklist

        print(f"written to {write_checklist(model)}")
    out = Classifier(model).report(args.out, split=args.split, root=args.root)
    print(f"written to {out} ({out.stat().st_size / 1e6:.1f} MB)")


def serve(args: argparse.Namespace) -> None:
    """Show a page on which the classifier can be tried."""
    with extras.requires("serve", "serve"):
        from diffmic_jax.serve.app import serve as run

    run(args.workdir, args.host, args.port, args.coverage, allow_remote=args.allow_remote)


def convert(args: argparse.Namespace) -> None:
    """Make a workdir of PyTorch checkpoints, or write a workdir as such."""
    from diffmic_jax import configfile
    from diffmic_jax.interop import convert as run

    if args.to == "torch":
        _needs(args, "denoiser", "guidance")
        run.to_diffmic(args.workdir, args.denoiser, args.guidance)
        print(f"written to {args.denoiser} and {args.guidance}")
        return
    class_names = tuple(filter(None, args.class_names.split(",")))
    config = configfile.load(args.config)
    if args.source == "diffmic":
        # v2 keeps both networks in one file.
        args.denoiser, args.guidance = (f or args.weights for f in (args.denoiser, args.guidance))
        _needs(args, "denoiser", "guidance")
        files = {"denoiser": args.denoiser, "guidance": args.guidance}
        method = run.from_diffmic(files, args.workdir, config, class_names)
    else:
        _needs(args, "weights")
        method = run.from_backbone(args.weights, args.workdir, config, class_names)
    print(f"{method.task.num_classes} classes, recipe {method.name}; written to {args.workdir}")


def study(args: argparse.Namespace) -> None:
    """Train and evaluate every run of a study, and write its tables."""
    from diffmic_jax.study.definition import load_study, parse_change
    from diffmic_jax.study.runs import run_study

    with extras.requires("report", "study"):
        from diffmic_jax.study.tables import write_tables
    from diffmic_jax.training import parallel, peers

    parallel.join_processes(args.coordinator, args.num_processes, args.process_id)
    wanted = load_study(args.study)
    if args.rows:
        wanted = wanted.with_rows(args.rows)
    wanted = wanted.with_changes(dict(map(parse_change, args.set)))
    wanted = dataclasses.replace(wanted, seeds=args.seeds or wanted.seeds)

    def show(*so_far: Any) -> None:
        print(write_tables(*so_far), flush=True)

    with peers.watched(args.lost_after):
        complete = run_study(wanted, args.workdir, show)
    if not complete:
        raise RunError(f"some runs failed; {args.workdir}/study.md lists them")


def export(args: argparse.Namespace) -> None:
    """Write the best checkpoint as one program for other machines."""
    from diffmic_jax.api import Classifier
    from diffmic_jax.data.files import check_writable_file

    check_writable_file(args.out)
    out = Classifier(_load(args)).export(args.out, batch_size=args.batch)
    print(f"written to {out}; {out}.md describes its use")


def info(args: argparse.Namespace) -> None:
    """Describe a workdir, or list the trunks that there are."""
    from diffmic_jax.report.info import describe, describe_trunks, trunks_table

    if args.trunks:
        found = describe_trunks()
        print(json.dumps(found, indent=2) if args.json else trunks_table(found))
        return
    _needs(args, "workdir")
    facts = describe(_load(args))
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:20} {', '.join(value) if isinstance(value, list) else value}")


def _load(args: argparse.Namespace) -> Any:
    """The model in `--workdir`, with the sampling that the flags change."""
    from diffmic_jax.inference.load import load

    changes = {f"sampling.{name}": getattr(args, name, None) for name in SAMPLING}
    return load(args.workdir, changes)


def _needs(args: argparse.Namespace, *names: str) -> None:
    missing = " and ".join(f"--{name}" for name in names if getattr(args, name) is None)
    if missing:
        raise InputError(f"{missing} missing; see diffmic {args.command} --help")


def _print_skipped(skipped: dict[str, str]) -> None:
    for reason in skipped.values():
        print(f"skipped {reason}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} images skipped", file=sys.stderr)


Command = Callable[[argparse.Namespace], None]
COMMANDS: dict[str, Command] = {
    run.__name__: run
    for run in (
        fit,
        prepare,
        audit,
        predict,
        evaluate,
        compare,
        report,
        serve,
        convert,
        export,
        study,
        info,
    )
}
"""Name -> what it does with its arguments; `train` is in cli/train.py."""
