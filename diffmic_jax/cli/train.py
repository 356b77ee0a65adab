"""Training from the command line: `main.py`, and `diffmic train`.

    example: python main.py --config=configs/quickstart.py
    example: diffmic train --config=ham10000:v1_public --config.data.root=DIR --workdir=W

A finished run is only evaluated; one that was stopped goes on where it was.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from diffmic_jax import configfile
from diffmic_jax.cli.process import run_command
from diffmic_jax.config import fields
from diffmic_jax.errors import InputError
from diffmic_jax.fields import no_such_field

EXAMPLE = "--config=quickstart"


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate; returns the exit status.

    Args:
      argv: the command line, the program first; default: the process's own.
    """
    return run_command(lambda: _run(list(sys.argv if argv is None else argv)))


def _run(argv: list[str]) -> None:
    spec, argv = _with_config_file(argv)
    given = _flags(argv)
    _parse(given, argv)
    if given.help:
        print(f"{__doc__}{given.get_help()}")
        return
    if not spec:
        raise InputError(f"--config is missing; try {EXAMPLE}")
    config = configfile.typed(given.config, f"--config={spec}")
    # Here, so that --help and a wrong flag answer at once.
    from diffmic_jax import api
    from diffmic_jax.training import parallel

    parallel.join_processes(given.coordinator, given.num_processes, given.process_id)
    workdir = Path(given.workdir) if given.workdir else configfile.default_workdir(spec)
    run = api.train if given.mode == "train" else api.evaluate
    run(config, workdir)


def _flags(argv: list[str]) -> flags.FlagValues:
    """The flags of one command line: which fields have a flag depends on the file that it names."""
    own = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "NAME or FILE of a configuration, with :RECIPE if not v1.",
        flag_values=own,
        sys_argv=argv,
    )
    text = partial(flags.DEFINE_string, flag_values=own)
    number = partial(flags.DEFINE_integer, flag_values=own)
    text("workdir", None, "Where the run lives; default runs/CONFIG.")
    text("coordinator", "", "host:port of process 0, if there are several.")
    number("num_processes", 0, "Of the run; 1 does not look for others.")
    number("process_id", -1, "Of this process, from 0.")
    modes = ["train", "evaluate"]
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=own)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=own)
    return own


def _parse(given: flags.FlagValues, argv: list[str]) -> None:
    """Parse the command line.

    Raises:
      InputError: for an unknown flag, config or field, or a value of the wrong type.
    """
    _check_fields(argv)
    try:
        rest = given(argv)
    except (flags.Error, ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"command line: {error}") from error
    if len(rest) > 1 and not given.help:
        raise InputError(f"{rest[1]!r} is not a flag; flags start with --")


def _check_fields(argv: list[str]) -> None:
    """Refuse a flag of a field that does not exist.

    Raises:
      InputError: names the field that it may stand for.
    """
    known = [spec.name for spec in fields()]
    for word in argv:
        found = re.match(r"--?(?:no)?config\.([^=]*)", word)
        if found and found[1] not in known:
            raise InputError(no_such_field(found[1], known))


def _with_config_file(argv: list[str]) -> tuple[str, list[str]]:
    """What `--config` names, and the command line with the path of that file in its place."""
    spec, found = "", list(argv)
    for i, word in enumerate(argv):
        name, equals, value = word.lstrip("-").partition("=")
        if name != "config" or not word.startswith("-"):
            continue
        place = i if equals else i + 1
        if place < len(argv):
            spec = value if equals else argv[place]
            path = configfile.find(spec)
            found[place] = f"--config={path}" if equals else path
    return spec, found
