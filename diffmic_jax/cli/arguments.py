"""The flags of the commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from diffmic_jax.config import fields
from diffmic_jax.data.catalog import CATALOG
from diffmic_jax.data.images import MAX_PIXELS
from diffmic_jax.errors import InputError
from diffmic_jax.fields import RENAMED


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        for flag in re.findall(r"--(\w+)", message.partition("unrecognized arguments: ")[2]):
            if new := RENAMED.get(f"data.{flag}"):
                message = f"--{flag} is now --{new.removeprefix('data.')}"
                break
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


def _choices(name: str) -> tuple[str, ...]:
    """The allowed values of a field of the configuration."""
    return next(spec.choices for spec in fields() if spec.name == name)


def _add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on_bad_image",
        default="error",
        choices=_choices("data.on_bad_image"),
        help="stop at an image that cannot be read, or leave it out and list it",
    )


def _add_bad_images(parser: argparse.ArgumentParser) -> None:
    _add_on_bad_image(parser)
    parser.add_argument(
        "--max_pixels", type=_positive, default=MAX_PIXELS, help="larger images are refused"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Flags of the sampling; the default is the run's own configuration."""
    parser.add_argument("--num_samples", type=_positive, help="samples per image, averaged")
    parser.add_argument("--num_steps", type=_positive, help="reverse steps")
    parser.add_argument("--sampler", choices=_choices("sampling.sampler"))
    parser.add_argument("--start", choices=_choices("sampling.start"))
    parser.add_argument(
        "--rederive_eps",
        action=argparse.BooleanOptionalAction,
        help="where ddim clips the label, go on with the noise that the clipped one implies",
    )


def make_parser(
    runs: Mapping[str, Callable[[argparse.Namespace], None]],
) -> argparse.ArgumentParser:
    """The command line of all commands.

    Args:
      runs: name of each command to what it does with its arguments.
    """
    parser = _Parser(
        prog="diffmic", description="Classify medical images with diffusion models over the label."
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", parser_class=_Parser
    )
    for add in (
        _add_fit,
        _add_train,
        _add_prepare,
        _add_audit,
        _add_predict,
        _add_evaluate,
        _add_compare,
        _add_report,
        _add_serve,
        _add_convert,
        _add_export,
        _add_study,
        _add_info,
    ):
        add(commands)
    for name, run in runs.items():
        commands.choices[name].set_defaults(run=run)
    return parser


def _add_command(
    commands: argparse._SubParsersAction, name: str, help_text: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=f"example: diffmic {name} {example}",
    )


def _add_fit(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "fit",
        "Train on a data set, evaluate the best checkpoint on its test part, write the report.",
        "photos --config=default:v2 --out=runs/photos",
    )
    command.add_argument("data", help="folder of images, CSV of labels, or name of a data set")
    command.add_argument("--config", default="default", help="NAME or FILE, maybe with :RECIPE")
    command.add_argument("--out", type=Path, help="workdir; default runs/CONFIG")
    _add_set(command, "of the configuration")


def _add_train(commands: argparse._SubParsersAction) -> None:
    # Listed here alone: its flags are those of the configuration (cli/train.py).
    _add_command(
        commands,
        "train",
        "Train and evaluate a configuration, or go on with a run; as main.py does.",
        "--config=quickstart --config.train.epochs=2 --workdir=runs/mine",
    )


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "prepare",
        "Check every image of a data set as it is distributed, and write it as ArrayRecord files.",
        "ham10000 --manual_dir=downloads/ham10000 --data_dir=data",
    )
    command.add_argument("name", help=f"one of {', '.join(CATALOG)}")
    command.add_argument("--manual_dir", type=Path, required=True, help="the unpacked archives")
    command.add_argument("--data_dir", type=Path, required=True, help="where NAME/VERSION is made")
    command.add_argument("--lists", type=Path, help="folder of DiffMIC's split lists")
    _add_bad_images(command)


def _add_audit(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "audit",
        "Count classes and sizes, and look for leaks, duplicates and bad images in a split.",
        "ham10000 --data_dir=data --protocol=authors --out=audit.json",
    )
    command.add_argument("name", help="a data set known by name, images (your own), or phantom")
    command.add_argument(
        "--data_dir", default="", help="what prepare wrote, or the images themselves"
    )
    command.add_argument("--out", type=Path, help="JSON to write")
    command.add_argument("--protocol", default="given", choices=_choices("data.protocol"))
    command.add_argument("--labels", default="", help="CSV of labels")
    command.add_argument("--groups", default="", help="CSV of groups")
    command.add_argument("--split", default="", help="CSV of image and part")
    command.add_argument("--lists", default="", help="pickled split lists, as TRAIN,TEST")
    command.add_argument("--class_names", default="", help="in label order, as benign,malignant")
    command.add_argument(
        "--multi_label", action="store_true", help="any number of classes per image"
    )
    command.add_argument("--validation_fraction", type=float, default=0.0, help="cut from training")
    command.add_argument("--test_fraction", type=float, default=0.2, help="where no split is given")
    command.add_argument("--seed", type=int, default=0, help="of the cuts")
    _add_bad_images(command)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "convert",
        "Make a workdir of PyTorch checkpoints (a DiffMIC run, or a ResNet to start from), or "
        "write a workdir as those of DiffMIC.",
        "--denoiser=ckpt_best.pth --guidance=aux_ckpt_best.pth "
        "--config=ham10000:v1_public --workdir=runs/theirs",
    )
    sources = ("diffmic", "torchvision", "timm")
    command.add_argument("--source", default="diffmic", choices=sources, help="whose they are")
    command.add_argument("--to", default="workdir", choices=("workdir", "torch"))
    command.add_argument("--denoiser", type=Path, help="of DiffMIC: .pth or .safetensors")
    command.add_argument("--guidance", type=Path, help="of DiffMIC: .pth or .safetensors")
    command.add_argument(
        "--weights", type=Path, help="of DiffMIC-v2, torchvision or timm, likewise"
    )
    command.add_argument(
        "--workdir", type=Path, required=True, help="new folder, or the run to write"
    )
    command.add_argument("--config", default="default:v1_public", help="of the data set")
    command.add_argument("--class_names", default="", help="in label order, as benign,malignant")


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "export",
        "Write the classifier as one StableHLO program for CPU, CUDA and TPU, weights included.",
        "--workdir=runs/quickstart --out=classifier.stablehlo",
    )
    _add_workdir(command)
    command.add_argument("--out", type=Path, required=True, help="the file to write")
    command.add_argument("--batch", type=_positive, help="images per call; default: any number")
    _add_sampling(command)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "predict",
        "Classify every image in a folder into a CSV.",
        "--workdir=runs/quickstart --images=DIR --out=predictions.csv --num_samples=16",
    )
    _add_workdir(command)
    command.add_argument("--images", type=Path, required=True, help="folder of images")
    command.add_argument("--out", type=Path, required=True, help="the CSV to write")
    command.add_argument("--uncertainty", type=Path, help="a second CSV: uncertainty per image")
    command.add_argument("--coverage", type=_share, help="of its prediction sets; default 0.9")
    _add_on_bad_image(command)
    _add_sampling(command)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "evaluate",
        "Evaluate the best checkpoint on a split of its data set.",
        "--workdir=runs/quickstart --split=test --num_samples=16 --out=eval16",
    )
    _add_workdir(command)
    _add_split(command)
    command.add_argument("--out", type=Path, help="folder to write; default WORKDIR/eval/SPLIT")
    command.add_argument("--root", help="where the data is now, if it has moved")
    command.add_argument("--coverage", type=_share, default=0.9, help="of the prediction sets")
    _add_sampling(command)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "compare",
        "Compare two evaluated runs: McNemar's test and paired bootstrap, on the same images.",
        "runs/mine runs/other --out=comparison.json",
    )
    command.add_argument(
        "first", type=Path, help="an evaluated run's folder, or what evaluate --out wrote"
    )
    command.add_argument("second", type=Path, help="another one, of the same images")
    _add_split(command)
    command.add_argument("--bootstrap", type=_positive, default=1000, help="number of resamples")
    command.add_argument("--out", type=Path, help="JSON to write")


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "report",
        "Write what there is to see of a run into one HTML file, which needs no network. It shows "
        "images of the split: treat it as you treat these.",
        "--workdir=runs/quickstart",
    )
    _add_workdir(command)
    _add_split(command)
    command.add_argument("--out", type=Path, help="file to write; default WORKDIR/report.html")
    command.add_argument("--root", help="where the data is now, if it has moved")
    command.add_argument(
        "--checklist",
        action="store_true",
        help="write CHECKLIST.md too: the run by the items of CLAIM 2024 and TRIPOD+AI",
    )


def _add_serve(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "serve",
        "Show a page on which the classifier can be tried; by default on this machine alone.",
        "--workdir=runs/quickstart --port=8000",
    )
    _add_workdir(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen at")
    command.add_argument("--port", type=_positive, default=8000)
    command.add_argument("--coverage", type=_share, default=0.9, help="of the prediction sets")


def _add_study(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "study",
        "Train and evaluate every run of a study, one after the other, and write its tables. The "
        "same command goes on after a stop.",
        "studies/table2.py:smoke --workdir=runs/table2",
    )
    command.add_argument("study", help="FILE or FILE:VARIANT, as studies/table2.py:smoke")
    command.add_argument(
        "--workdir", type=Path, required=True, help="folder of its runs and tables"
    )
    command.add_argument("--rows", type=_names, help="as basic,v1; default: all of the study's")
    command.add_argument("--seeds", type=_seeds, help="as 0,1,2; default: the study's")
    _add_set(command, "of every run")
    command.add_argument("--coordinator", default="", help="these three as for main.py")
    command.add_argument("--num_processes", type=int, default=0)
    command.add_argument("--process_id", type=int, default=-1)


def _add_info(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "info",
        "Describe a workdir, or list the trunks that there are.",
        "--workdir=runs/quickstart --json",
    )
    command.add_argument("--workdir", type=Path, help="a finished run's folder")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--trunks", action="store_true", help="list the trunks by name")


def _add_set(parser: argparse.ArgumentParser, whose: str) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"{whose}, as data.root=DIR; may be given many times",
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    splits = ("train", "validation", "test", "test_clean")
    parser.add_argument("--split", default="test", choices=splits)


def _add_workdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="a finished run's folder")
