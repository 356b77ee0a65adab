"""What the commands' flags share: the parser, types of values, and flags of several commands."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from diffmic_jax.config import fields
from diffmic_jax.data.images import MAX_PIXELS
from diffmic_jax.errors import InputError
from diffmic_jax.fields import RENAMED, close_fields, did_you_mean


class Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise an `InputError`, with the choice that a wrong one may stand for."""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            # Versions of Python quote them or not.
            choices = re.findall(r"[\w.]+", found[2])
            message = message.replace(found[2], ", ".join(choices))
            message += did_you_mean(difflib.get_close_matches(found[1], choices, 1))
        raise InputError(f"{message}; see {self.prog} --help")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Raise an `InputError` for words that are no arguments, with what the first may mean."""
        flag = words[0].lstrip("-").partition("=")[0]
        if new := RENAMED.get(f"data.{flag}"):
            self.error(f"--{flag} is now --{new.removeprefix('data.')}")
        own = [each for each in self._option_string_actions if each.startswith("--")]
        hint = []
        if words[0].split("=")[0] in own:
            self.error(f"unrecognized arguments: {' '.join(words)}; flags go before --")
        if words[0].startswith("-"):
            inside = [each for each in own if flag in each]
            hint = inside[:3] or difflib.get_close_matches(f"--{flag}", own, 1, 0.7)
        if not hint and "--set" in own:
            known = [spec.name for spec in fields()]
            hint = [f"--set={name}=..." for name in close_fields(flag, known)]
        self.error(f"unrecognized arguments: {' '.join(words)}{did_you_mean(hint)}")


def path(text: str) -> Path:
    """A file or folder from the command line; the shell leaves the ~ of --out=~/a as it is."""
    return Path(text).expanduser()


def mapping(text: str) -> dict[str, str]:
    """Pairs from the command line, as a=b,c=d,e=; the last = of each counts."""
    pairs = [each.rpartition("=") for each in text.split(",")]
    if not all(sign for _, sign, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not as theirs=ours,more=ours")
    return {name.strip(): target.strip() for name, _, target in pairs}


def positive(text: str) -> int:
    """A count from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def share(text: str) -> float:
    """A number between 0 and 1 from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def names(text: str) -> tuple[str, ...]:
    """Names from the command line, with commas between them."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has a name of no letters between its commas")
    return found


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from the command line."""
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds like 0,1,2")
    return tuple(map(int, parts))


def choices(name: str) -> tuple[str, ...]:
    """The allowed values of a field of the configuration."""
    return next(spec.choices for spec in fields() if spec.name == name)


def add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    """`--on_bad_image`."""
    parser.add_argument(
        "--on_bad_image",
        default="error",
        choices=choices("data.on_bad_image"),
        help="stop at an image that cannot be read, or leave it out and list it",
    )


def add_bad_images(parser: argparse.ArgumentParser) -> None:
    """Flags of a command that decodes a whole data set."""
    add_on_bad_image(parser)
    parser.add_argument(
        "--max_pixels", type=positive, default=MAX_PIXELS, help="larger images are refused"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Flags of the sampling; the default is the run's own configuration."""
    parser.add_argument("--num_samples", type=positive, help="samples per image, averaged")
    parser.add_argument("--num_steps", type=positive, help="reverse steps")
    parser.add_argument("--sampler", choices=choices("sampling.sampler"))
    parser.add_argument("--start", choices=choices("sampling.start"))
    parser.add_argument(
        "--flips",
        choices=choices("sampling.flips"),
        help="mirrored copies of each image that the prediction is averaged over",
    )
    parser.add_argument(
        "--rederive_eps",
        action=argparse.BooleanOptionalAction,
        help="where ddim clips the label, go on with the noise that the clipped one implies",
    )


def add_set(parser: argparse.ArgumentParser, whose: str) -> None:
    """`--set`; `whose` fields, in words."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"{whose}, as data.root=DIR; may be given many times",
    )


def add_split(parser: argparse.ArgumentParser, default: str | None = "test") -> None:
    """`--split`; None where it matters whether it is given."""
    splits = ("train", "validation", "test", "test_clean")
    parser.add_argument("--split", default=default, choices=splits, help="default test")


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """`--workdir`."""
    parser.add_argument("--workdir", type=path, required=True, help="a finished run's folder")
