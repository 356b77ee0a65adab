"""Checks the types and shapes of arguments and results, of the packages that conftest names."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int where a float is asked for is right, as type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
