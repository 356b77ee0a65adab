"""The commands and their flags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

from diffmic_jax.cli import flags
from diffmic_jax.data.catalog import CATALOG


def make_parser(
    runs: Mapping[str, Callable[[argparse.Namespace], None]],
) -> argparse.ArgumentParser:
    """The command line of all commands.

    Args:
      runs: name of each command to what it does with its arguments.
    """
    parser = flags.Parser(
        prog="diffmic", description="Classify medical images with diffusion models over the label."
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", parser_class=flags.Parser
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
        commands.choices[name].set_defaults(run=run, parser=commands.choices[name])
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
        "From a data set to a classifier in given minutes: plan, train, evaluate, report.",
        "photos --minutes=20 --out=runs/photos",
    )
    command.add_argument("data", help="folder of images, CSV of labels, or name of a data set")
    command.add_argument(
        "--minutes",
        type=float,
        help="until the report is written; default 30, or --config's epochs",
    )
    command.add_argument("--out", type=flags.path, help="workdir; default runs/DATA, runs/CONFIG")
    command.add_argument(
        "--plan", action="store_true", help="only print what would be done, and why"
    )
    command.add_argument(
        "--groups", help="CSV of image and group (lesion, patient), beside the data"
    )
    command.add_argument(
        "--ordinal",
        type=flags.names,
        help="the classes as degrees, from the lowest: mild,moderate,...",
    )
    command.add_argument(
        "--config", help="NAME or FILE, maybe with :RECIPE, in place of a plan of our own"
    )
    flags.add_set(command, "of the configuration")


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
    command.add_argument(
        "--manual_dir", type=flags.path, required=True, help="the unpacked archives"
    )
    command.add_argument(
        "--data_dir", type=flags.path, required=True, help="where NAME/VERSION is made"
    )
    command.add_argument("--lists", type=flags.path, help="folder of DiffMIC's split lists")
    flags.add_bad_images(command)


def _add_audit(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "audit",
        "Look at a data set and its split as a reviewer would: leaks, duplicates, bad images, "
        "classes that are too small to test or can be told without looking, and what plain "
        "classifiers reach. The split is the one that training with these fields uses.",
        "ham10000 --data_dir=data --protocol=authors --out=audit.json",
    )
    command.add_argument(
        "name", help="folder of images, CSV of labels, or name of a data set (images: your own)"
    )
    command.add_argument(
        "--data_dir", type=os.path.expanduser, help="what prepare wrote, or the images themselves"
    )
    command.add_argument("--config", default="default", help="as of train: NAME or FILE")
    command.add_argument("--out", type=flags.path, help="JSON to write")
    command.add_argument("--protocol", choices=flags.choices("data.protocol"))
    command.add_argument("--labels", help="CSV of labels")
    command.add_argument("--groups", help="CSV of groups")
    command.add_argument(
        "--group_regex", help="the group in an image's id, as '(patient[0-9]+)', or as proposed"
    )
    command.add_argument("--split", help="CSV of image and part")
    command.add_argument("--lists", help="pickled split lists, as TRAIN,TEST")
    command.add_argument("--class_names", type=flags.names, help="in label order, as a,b")
    command.add_argument(
        "--multi_label", action="store_const", const=True, help="any number of classes per image"
    )
    command.add_argument("--validation_fraction", type=float, help="cut from training")
    command.add_argument("--test_fraction", type=float, help="where no split is given")
    command.add_argument("--seed", type=int, dest="split_seed", help="of the cuts")
    flags.add_set(command, "of the configuration")
    flags.add_bad_images(command)
    command.set_defaults(max_pixels=None)


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
    command.add_argument("--denoiser", type=flags.path, help="of DiffMIC: .pth or .safetensors")
    command.add_argument("--guidance", type=flags.path, help="of DiffMIC: .pth or .safetensors")
    command.add_argument(
        "--weights", type=flags.path, help="of DiffMIC-v2, torchvision or timm, likewise"
    )
    command.add_argument(
        "--workdir", type=flags.path, required=True, help="new folder, or the run to write"
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
    flags.add_workdir(command)
    command.add_argument("--out", type=flags.path, required=True, help="the file to write")
    command.add_argument(
        "--batch", type=flags.positive, help="images per call; default: any number"
    )
    flags.add_sampling(command)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "predict",
        "Classify images: a table to read, or a CSV or JSON file.",
        "scans/*.dcm --workdir=runs/quickstart --out=predictions.csv",
    )
    flags.add_workdir(command)
    images = "files, folders, patterns such as 'scans/*.dcm', or - for such names on standard input"
    command.add_argument("images", nargs="*", default=[], help=images)
    command.add_argument(
        "--images", dest="more", action="append", default=[], metavar="IMAGES", help="the same"
    )
    command.add_argument("--out", type=flags.path, help="the CSV, or JSON by its ending, to write")
    command.add_argument(
        "--uncertainty", type=flags.path, help="a second CSV: uncertainty per image"
    )
    command.add_argument("--coverage", type=flags.share, help="of its prediction sets; default 0.9")
    flags.add_on_bad_image(command)
    flags.add_sampling(command)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "evaluate",
        "Evaluate the best checkpoint on a split of its data set, or on other data.",
        "--workdir=runs/mine --data_dir=other --class_map=bkl=benign,mel=malignant",
    )
    flags.add_workdir(command)
    flags.add_split(command, default=None)
    command.add_argument(
        "--out",
        type=flags.path,
        help="folder to write; default WORKDIR/eval/SPLIT, of other data WORKDIR/external/NAME",
    )
    command.add_argument("--root", help="where the data is now, if it has moved")
    command.add_argument("--coverage", type=flags.share, default=0.9, help="of the prediction sets")
    command.add_argument("--data_dir", type=flags.path, help="other data, all of it for testing")
    command.add_argument("--labels", help="its CSV of labels, in that folder")
    command.add_argument("--groups", help="its CSV of image and group")
    flags.add_set(command, "fields of the other data")
    command.add_argument(
        "--class_map",
        type=flags.mapping,
        help="its classes as ours, as theirs=ours,more=ours; with nothing behind = left out",
    )
    command.add_argument(
        "--attributes", type=flags.names, help="columns to evaluate by, as age,sex,site"
    )
    command.add_argument("--table", type=flags.path, help="CSV with them; default the data's own")
    command.add_argument(
        "--per_case", action="store_true", help="also one answer for all images of a group"
    )
    flags.add_sampling(command)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "compare",
        "Compare two evaluated runs: McNemar's test and paired bootstrap, on the same images.",
        "runs/mine runs/other --out=comparison.json",
    )
    command.add_argument(
        "first", type=flags.path, help="an evaluated run's folder, or what evaluate --out wrote"
    )
    command.add_argument("second", type=flags.path, help="another one, of the same images")
    flags.add_split(command)
    command.add_argument(
        "--bootstrap", type=flags.positive, default=1000, help="number of resamples"
    )
    command.add_argument("--out", type=flags.path, help="JSON to write")


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "report",
        "Write what there is to see of a run into one HTML file, which needs no network. It shows "
        "images of the split: treat it as you treat these.",
        "--workdir=runs/quickstart",
    )
    flags.add_workdir(command)
    flags.add_split(command)
    command.add_argument(
        "--out", type=flags.path, help="file to write; default WORKDIR/report.html"
    )
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
    flags.add_workdir(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen at")
    command.add_argument(
        "--allow_remote",
        "--allow-remote",
        action="store_true",
        help="listen at an address that other machines reach; a token is printed, which they need",
    )
    command.add_argument("--port", type=flags.positive, default=8000)
    command.add_argument("--coverage", type=flags.share, default=0.9, help="of the prediction sets")


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
        "--workdir", type=flags.path, required=True, help="folder of its runs and tables"
    )
    command.add_argument(
        "--rows", type=flags.names, help="as basic,v1; default: all of the study's"
    )
    command.add_argument("--seeds", type=flags.seeds, help="as 0,1,2; default: the study's")
    flags.add_set(command, "of every run")
    command.add_argument("--coordinator", default="", help="these four as for main.py")
    command.add_argument("--num_processes", type=int, default=0)
    command.add_argument("--process_id", type=int, default=-1)
    command.add_argument("--lost_after", type=int, default=60)


def _add_info(commands: argparse._SubParsersAction) -> None:
    command = _add_command(
        commands,
        "info",
        "Describe a workdir, or list the trunks that there are.",
        "--workdir=runs/quickstart --json",
    )
    command.add_argument("--workdir", type=flags.path, help="a finished run's folder")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--trunks", action="store_true", help="list the trunks and their images")
