"""`diffmic COMMAND`: the command line of the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffmic_jax.cli import commands
from diffmic_jax.cli.arguments import make_parser
from diffmic_jax.cli.process import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    Args:
      argv: the command and its flags; default: the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:
        from diffmic_jax.cli import train  # absl parses the flags of configurations

        return train.main(["diffmic train", *words[1:]])

    def run() -> None:
        args, unknown = make_parser(commands.COMMANDS).parse_known_args(words)
        if unknown:
            args.parser.refuse(unknown)
        args.run(args)

    return run_command(run)
