"""Errors that a user can correct: each is printed as one line."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave is wrong: a file, a field or a flag.

    The message is one line that names the culprit and the fix. Entry points print it without a
    traceback and exit with status 2.
    """


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite; the message names the step."""


class DamagedCheckpointError(InputError):
    """A checkpoint is not what was saved; the message names it and what is wrong."""


class StorageError(Exception):
    """A file of the run could not be written; the message names it and why.

    What was saved before is intact, and the same command goes on from there.
    """


class RunError(Exception):
    """Some of many runs failed; the message names the file that lists them."""


class Interrupted(Exception):
    """The run was asked to stop; everything up to the named step is saved."""
