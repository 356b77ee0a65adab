"""Errors that a user can correct: each is printed as one line."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

RESTART = 75
"""Exit status, EX_TEMPFAIL of sysexits.h: all is saved, and the same command goes on."""


class InputError(Exception):
    """Something the user gave is wrong: a file, a field or a flag.

    The message is one line that names the culprit and the fix. Entry points print it without a
    traceback and exit with status 2. Of a value without end the middle is left out.
    """

    MOST = 4000
    """Characters of a message."""

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= self.MOST:
            return text
        return f"{text[: self.MOST // 2]} ... {text[-self.MOST // 4 :]}"


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


_PLACE = re.compile(r"\b(row|entry) \d+")


class Problems:
    """What is wrong with a file, collected to be told at once."""

    MOST = 10
    """That are told; those that differ in their row only are one."""

    def __init__(self) -> None:
        """No problem yet."""
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        """One more, a line as of an `InputError`."""
        self._found.append(problem)

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an `InputError` for later."""
        try:
            yield
        except InputError as error:
            self.add(str(error))

    def check(self) -> None:
        """Tell the first problems, and how many there are.

        Raises:
          InputError: there is one.
        """
        if not self._found:
            return
        alike: dict[str, list[str]] = defaultdict(list)
        for problem in self._found:
            alike[_PLACE.sub("", problem, 1)].append(problem)
        told = " | ".join(_merged(each) for each in list(alike.values())[: self.MOST])
        count, more = len(self._found), sum(map(len, list(alike.values())[self.MOST :]))
        rest = f" | and {more} more" if more else ""
        raise InputError(told if count == 1 else f"{count} problems: {told}{rest}")


def _merged(alike: Sequence[str]) -> str:
    """The first of problems that differ in their place only, and the places of the others."""
    places = [found[0] for problem in alike[1:] if (found := _PLACE.search(problem))]
    shown = ", ".join(places[: Problems.MOST])
    more = f" and {len(places) - Problems.MOST} more" if len(places) > Problems.MOST else ""
    return alike[0] + (f" (also {shown}{more})" if places else "")
