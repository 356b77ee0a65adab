"""Training from the command line: `main.py`, and `diffmic train`.

    example: python main.py --config=configs/quickstart.py
    example: diffmic train --config=ham10000:v1_public --config.data.root=DIR --workdir=W

`--config` names a configuration, by NAME or FILE, with :RECIPE behind it if not its own default
(v1; of quickstart plus; of medmnist :NAME,RECIPE). Each of its fields has a flag, as
--config.train.epochs=20; docs/config.md lists them. A finished run is only evaluated; one that was
stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from diffmic_jax import configfile
from diffmic_jax.cli.process import run_command
from diffmic_jax.config import Config, fields
from diffmic_jax.errors import InputError
from diffmic_jax.fields import close_fields, did_you_mean, no_such_field

EXAMPLE = "--config=quickstart"


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate; returns the exit status.

    Args:
      argv: the command line, the program first; default: the process's own.
    """
    return run_command(lambda: _run(list(sys.argv if argv is None else argv)))


def _run(argv: list[str]) -> None:
    spec, argv = _without_config(argv)
    if {"-h", "--help"} & {*argv}:
        print(f"{__doc__}{_flags().module_help(__name__)}")
        return
    if not spec:
        raise InputError(f"--config is missing; try {EXAMPLE}")
    given = _parse(argv, configfile.load(spec))
    config = configfile.typed(given.config, f"--config={spec}")
    # Here, since it loads JAX, which --help and a wrong flag need not wait for.
    from diffmic_jax import api
    from diffmic_jax.training import parallel, peers

    parallel.join_processes(given.coordinator, given.num_processes, given.process_id)
    workdir = Path(given.workdir or configfile.default_workdir(spec)).expanduser()
    with peers.watched(given.lost_after):
        if given.mode == "train":
            api.train(config, workdir, given.minutes)
        else:
            api.evaluate(config, workdir)


def _without_config(argv: list[str]) -> tuple[str, list[str]]:
    """The value of the last `--config`, and the command line without it.

    Raises:
      InputError: `--config` has no value.
    """
    spec, rest = "", argv[:1]
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("-config", "--config"):
            rest.append(word)
            continue
        spec = value if equals else next(words, "")
        if not spec:
            raise InputError(f"--config has no value; try {EXAMPLE}")
    return spec, rest


def _parse(argv: list[str], config: Config) -> flags.FlagValues:
    """The values of the flags, those of the configuration's fields among them.

    Raises:
      InputError: for an unknown flag or field, or a value of the wrong type.
    """
    _check_fields(argv)
    given, values = _flags(), ConfigDict(dataclasses.asdict(config))
    try:
        config_flags.DEFINE_config_dict("config", values, flag_values=given, sys_argv=argv)
        rest = given(argv)
    except flags.UnrecognizedFlagError as error:
        known = [spec.name for spec in fields()]
        hint = [f"--config.{name}" for name in close_fields(error.flagname, known)]
        raise InputError(f"command line: {error}{did_you_mean(hint)}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"command line: {error}") from error
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is not a flag; flags start with --")
    return given


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


def _flags() -> flags.FlagValues:
    """The flags that are no fields; of one command line, so that another has its own values."""
    own = flags.FlagValues()
    text = partial(flags.DEFINE_string, flag_values=own)
    number = partial(flags.DEFINE_integer, flag_values=own)
    text("workdir", None, "Where the run lives; default runs/CONFIG.")
    flags.DEFINE_float("minutes", None, "As many epochs as fit into them.", flag_values=own)
    text("coordinator", "", "host:port of process 0, if there are several.")
    number("num_processes", 0, "Of the run; 1 does not look for others.")
    number("process_id", -1, "Of this process, from 0.")
    number("lost_after", 60, "Seconds without a sign of life after which a process is lost.")
    modes = ["train", "evaluate"]
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=own)
    return own
