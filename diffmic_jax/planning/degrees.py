"""Whether the names of classes look like degrees, which only the user can know."""

from __future__ import annotations

import re
from collections.abc import Collection

RANKS: tuple[frozenset[str], ...] = (
    frozenset(("none", "no", "normal", "healthy", "absent", "negative")),
    frozenset(("minimal", "doubtful", "borderline", "questionable")),
    frozenset(("mild", "low", "early", "slight")),
    frozenset(("moderate", "medium", "intermediate")),
    frozenset(("severe", "high", "late", "advanced")),
    frozenset(("proliferative", "extreme", "end")),
)
"""Words by degree, the lowest first."""
ROMAN = {name: i for i, name in enumerate(("i", "ii", "iii", "iv", "v", "vi"), start=1)}
LEAST = 3
"""Classes; of fewer the order is of no use."""
_WORDS = re.compile(r"[^\W\d_]+")


def degrees(names: Collection[str]) -> tuple[str, ...]:
    """The names as degrees, from the lowest; empty if they do not look like some.

    They do if they have consecutive numbers, as 'grade 1' or '0 No DR', Roman ones too, or words
    of different `RANKS`, as 'mild'.
    """
    numbers, ranks = ({key(name): name for name in names} for key in (_number, _rank))
    for found, gaps in ((numbers, False), (ranks, True)):
        known = sorted(each for each in found if each is not None)
        if LEAST <= len(known) == len(names) and (gaps or known[-1] - known[0] < len(names)):
            return tuple(found[each] for each in known)
    return ()


def _number(name: str) -> int | None:
    """The one number of a name, in digits or Roman; None if it has none or several."""
    found = [int(digits) for digits in re.findall(r"\d{1,9}", name)]
    found = found or [ROMAN[word] for word in _words(name) if word in ROMAN]
    return found[0] if len(found) == 1 else None


def _rank(name: str) -> int | None:
    """The one rank that the words of a name have; None if they have none or several."""
    found = {rank for rank, words in enumerate(RANKS) if words & {*_words(name)}}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> list[str]:
    return _WORDS.findall(name.casefold())
