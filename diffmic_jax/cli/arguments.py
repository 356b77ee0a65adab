"""What the verbs can be told on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from diffmic_jax.data.catalog import CATALOG
from diffmic_jax.data.images import MAX_PIXELS
from diffmic_jax.data.splits import PROTOCOLS
from diffmic_jax.errors import InputError


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


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


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


def make_parser(runs: Mapping[str, Callable], description: str) -> argparse.ArgumentParser:
    """The command line of all verbs.

    Args:
      runs: what each verb does with its arguments, by its name.
      description: of the whole.
    """
    parser = _Parser(prog="python -m diffmic_jax", description=description)
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
    _add_info(verbs)
    for name, verb in verbs.choices.items():
        verb.set_defaults(run=runs[name])
    return parser


def _add_verb(
    verbs: argparse._SubParsersAction, name: str, help_text: str, example: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=f"example: python -m diffmic_jax {name} {example}",
    )


def _add_prepare(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs,
        "prepare",
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
        "audit",
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
        "convert",
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
        "export",
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
        "predict",
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
        "evaluate",
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
        "compare",
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
        "report",
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
        "serve",
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
        "study",
        "Train and evaluate every run of a study, one after the other, and write its tables. The "
        "same command goes on after a stop.",
        "studies/table2.py:smoke --workdir=runs/table2",
    )
    verb.add_argument("study", help="FILE or FILE:VARIANT, as studies/table2.py:smoke")
    verb.add_argument("--workdir", type=Path, required=True, help="folder of its runs and tables")
    verb.add_argument("--rows", type=_names, help="as basic,v1; default: all of the study's")
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


def _add_info(verbs: argparse._SubParsersAction) -> None:
    verb = _add_verb(
        verbs, "info", "Tell what a workdir holds.", "--workdir=runs/quickstart --json"
    )
    _add_workdir(verb)
    verb.add_argument("--json", action="store_true", help="as JSON")


def _add_split(parser: argparse.ArgumentParser) -> None:
    splits = ("train", "validation", "test", "test_clean")
    parser.add_argument("--split", default="test", choices=splits)


def _add_workdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="a finished run's folder")
