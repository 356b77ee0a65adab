"""Train and evaluate DiffMIC.

python main.py --config=configs/quickstart.py
python main.py --config=configs/ham10000.py:v1_public --config.data.root=DIR --workdir=W
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from diffmic_jax import experiment
from diffmic_jax.command import run_command
from diffmic_jax.types import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :recipe if not v1.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/CONFIG.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")


def parse(argv: list[str]) -> None:
    """Parse the command line.

    Raises:
      InputError: for an unknown flag, config or field, or a value of the wrong type.
    """
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise InputError("--config is missing; try --config=configs/quickstart.py")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(str(error)) from error
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is not a flag; flags start with --")


def default_workdir() -> Path:
    """runs/X for configs/X.py, runs/X-recipe if a recipe was named."""
    config, _, recipe = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = Path(config).stem
    return Path("runs") / (f"{name}-{recipe}" if recipe else name)


def main() -> None:
    """Run what the command line asks for."""
    parse(sys.argv)
    workdir = Path(WORKDIR.value) if WORKDIR.value else default_workdir()
    experiment.run(CONFIG.value, workdir, MODE.value)


if __name__ == "__main__":
    sys.exit(run_command(main))
