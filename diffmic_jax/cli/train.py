"""Training from the command line: `main.py`, and `diffmic train`.

    python main.py --config=configs/quickstart.py
    diffmic train --config=ham10000:v1_public --config.data.root=DIR --workdir=W

A finished run is only evaluated; one that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from diffmic_jax import configfile
from diffmic_jax.cli.process import run_command
from diffmic_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "NAME or FILE of a configuration, with :RECIPE if not v1."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/CONFIG.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, if there are several."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Of the run; 1 does not look for others.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Of this process, from 0.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
HELP = flags.DEFINE_bool("help", False, "Show this help.")
EXAMPLE = "--config=quickstart"


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate; returns the exit status.

    Args:
      argv: the command line, the program first; default: the process's own.
    """
    return run_command(lambda: _run(list(sys.argv if argv is None else argv)))


def _run(argv: list[str]) -> None:
    spec = _parse(argv)
    if HELP.value:
        print(f"{__doc__}{flags.FLAGS.module_help(__name__)}")
        return
    # Here, so that --help and a wrong flag answer at once.
    from diffmic_jax import api
    from diffmic_jax.training import parallel

    config = configfile.typed(CONFIG.value, f"--config={spec}")
    parallel.join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = Path(WORKDIR.value) if WORKDIR.value else configfile.default_workdir(spec)
    run = api.train if MODE.value == "train" else api.evaluate
    run(config, workdir)


def _parse(argv: list[str]) -> str:
    """Parse the command line; returns what `--config` names.

    Raises:
      InputError: for an unknown flag, config or field, or a value of the wrong type.
    """
    spec, argv = _with_config_file(argv)
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # The message comes with quotes and escapes around it.
        name = str(error.args[0]).replace("\\n", ". ").replace("\\", "").replace("'", "")
        raise InputError(f"unknown field of --config: {name}") from error
    except (flags.Error, ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"command line: {error}") from error
    if HELP.value:
        return spec
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is not a flag; flags start with --")
    if not spec:
        raise InputError(f"--config is missing; try {EXAMPLE}")
    return spec


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
