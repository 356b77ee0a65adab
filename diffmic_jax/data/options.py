"""What is known of a data set before a file is read: the configuration and the catalog."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffmic_jax.config import Data
from diffmic_jax.data.catalog import CATALOG, DataSet
from diffmic_jax.errors import InputError

OWN_LISTS = ("train.pkl", "test.pkl")
"""Split lists that are read without being named, where a known data set has no table."""


def numbers_of(names: Sequence[str]) -> list[float] | None:
    """Names as numbers; None if one is not, or there is none."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return None
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


@dataclass(frozen=True)
class Options:
    """The `data` group of a configuration, with the catalog's entry for its data set."""

    data: Data
    testing: bool = False
    """All of it is for testing: no part is cut, and nothing learns from it."""

    @property
    def root(self) -> Path:
        """The folder of the images, or an NPZ."""
        return Path(self.data.root)

    @property
    def known(self) -> DataSet | None:
        """The catalog's entry, if there is one."""
        return CATALOG.get(self.data.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order; empty where the labels decide."""
        # The flag --config.data.class_names=a,b gives one name, 'a,b'.
        names = tuple(name for each in self.data.class_names for name in each.split(","))
        return names or (self.known.class_names if self.known else ())

    def ordered(self, names: Sequence[str]) -> bool:
        """Whether the order of classes is one of degrees: it is given, or that of numbers."""
        numbers = numbers_of(names)
        ascending = numbers is not None and numbers == sorted(numbers)
        known = bool(self.known and self.known.ordered)
        return bool(self.data.class_names) or known or ascending

    @property
    def multi_label(self) -> bool:
        """Any number of classes applies to an image; the labels of an NPZ decide by themselves."""
        return self.data.multi_label or bool(self.known and self.known.multi_label)

    @property
    def fix(self) -> str:
        """What to do about an image that is missing."""
        return self.known.where if self.known else "add it or remove the row"

    @property
    def tables(self) -> tuple[Path, ...]:
        """The CSVs of labels: the one that is named, or those between commas."""
        whole = self.table(self.data.labels)
        names = [self.data.labels] if whole.is_file() else self.data.labels.split(",")
        return tuple(map(self.table, names))

    def table(self, file: str) -> Path:
        """Where a table or list is: in the root, else relative to the working directory."""
        inside = self.root / file
        return Path(file) if not inside.is_file() and Path(file).is_file() else inside

    def completed(self) -> Options:
        """With the table or lists in which a known data set is distributed, if none is named.

        Raises:
          InputError: the data set is distributed with a table, and that is missing.
        """
        known, data, root = self.known, self.data, self.root
        if not known or data.labels or data.lists:
            return self
        if known.labels:
            there = [file for file in known.labels if (root / file).is_file()]
            if not there:
                raise InputError(f"{root}: has no {' or '.join(known.labels)}; {known.where}")
            return Options(replace(data, labels=there[0]))
        own = [file for file in OWN_LISTS if (root / file).is_file()]
        return Options(replace(data, lists=",".join(own))) if OWN_LISTS[0] in own else self
