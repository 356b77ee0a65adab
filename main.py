"""Train and evaluate DiffMIC.

python main.py --config=configs/quickstart.py
python main.py --config=configs/ham10000.py:v1_public --config.data.root=DIR --workdir=W
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from diffmic_jax.cli.process import run_command
from diffmic_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :recipe if not v1.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/CONFIG.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, if there are several."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Of the run; 1 does not look for others.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Of this process, from 0.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
HELP = flags.DEFINE_bool("help", False, "Show this help.")


def config_and_recipe() -> tuple[str, str]:
    """The two sides of --config=FILE:RECIPE; '' for what is not there."""
    if CONFIG.value is None:
        return "", ""
    file, _, recipe = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return file, recipe


def parse(argv: list[str]) -> None:
    """Parse the command line.

    Raises:
      InputError: for an unknown flag, config or field, or a value of the wrong type.
    """
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # The message comes with quotes and escapes around it.
        name = str(error.args[0]).replace("\\n", ". ").replace("\\", "").replace("'", "")
        raise InputError(f"unknown field of --config: {name}") from error
    except (flags.Error, ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"command line: {error}") from error
    if HELP.value:
        return
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is not a flag; flags start with --")
    file, _ = config_and_recipe()
    if not file:
        raise InputError("--config is missing; try --config=configs/quickstart.py")
    if not Path(file).is_file():
        raise InputError(f"--config={file}: no such file; try --config=configs/quickstart.py")


def default_workdir() -> Path:
    """runs/X for configs/X.py, runs/X-recipe if a recipe was named."""
    file, recipe = config_and_recipe()
    name = Path(file).stem
    return Path("runs") / (f"{name}-{recipe}" if recipe else name)


def main() -> None:
    """Run what the command line asks for."""
    parse(sys.argv)
    if HELP.value:
        print(f"{__doc__}{flags.FLAGS.main_module_help()}")
        return
    # Here, so that --help and a wrong flag answer at once.
    from diffmic_jax import api as experiment
    from diffmic_jax.training import parallel

    parallel.join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = Path(WORKDIR.value) if WORKDIR.value else default_workdir()
    experiment.run(CONFIG.value, workdir, MODE.value)


if __name__ == "__main__":
    sys.exit(run_command(main))
