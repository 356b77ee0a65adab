"""What `fit` will do and why: `plan.json` of a workdir."""

from __future__ import annotations

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any

from diffmic_jax.data.files import believed, read_json, write_json
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.errors import InputError
from diffmic_jax.planning.degrees import degrees
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.rules import GIVEN, Case, Decision, Machine, decide

FILE = "plan.json"
SHOWN = 12
"""Classes that are named in the head, at most."""
FIX = "restore it, or choose another --out"
AUDIT, AUDITED = 0.003, 0.1
"""Seconds to audit an image beside reading it again, and the share of the minutes that is too much
for all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The data, the budget, and what was decided from them."""

    data: Fingerprint
    machine: Machine
    minutes: float
    """From the start until the report is written."""
    decisions: tuple[Decision, ...]
    share: float = 0.0
    """Minutes of each member; 0: not yet known, since the images are still to be decoded."""
    candidates: tuple[dict[str, Any], ...] = ()
    """Name, whether it was chosen, and the metrics on the images that each member holds out."""
    choice: str = ""
    """Why that one was chosen; empty as long as none is."""

    @classmethod
    def of(cls, case: Case) -> Plan:
        """What the rules decide."""
        return cls(
            data=case.data,
            machine=case.machine,
            minutes=case.minutes,
            decisions=tuple(decide(case)),
        )

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that are decided."""
        return {each.field: each.value for each in self.decisions}

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the user has set."""
        return {each.field: each.value for each in self.decisions if each.reason == GIVEN}

    @property
    def members(self) -> int:
        """Trainings of the plain classifier, and of the diffusion on top of it."""
        return int(self.changes.get("data.folds", 0)) or 1

    @property
    def audit(self) -> float:
        """Seconds to audit the images for the report; 0 if that takes too long, and is left out."""
        return self._audit if self._audit <= AUDITED * 60 * self.minutes else 0.0

    @property
    def _audit(self) -> float:
        return (self.machine.reading + AUDIT) * sum(self.data.images.values())

    @property
    def head(self) -> str:
        """The data and the budget, in a line."""
        data = self.data
        parts = ", ".join(f"{data.images[part]:,} {part}" for part in PARTS)
        counts = [f"{name} {count:,}" for name, count in data.classes.items()]
        shown = ", ".join(counts[:SHOWN]) + ", ..." * (len(counts) > SHOWN)
        return (
            f"{data.name}: {parts}; {len(data.classes)} classes ({shown}), {data.labels}; "
            f"{self.minutes:g} minutes on {self.machine.devices}"
        )

    @property
    def text(self) -> str:
        """For the terminal: the data, a line for each decision, and what is to be asked."""
        rows = [f"  {each.field} = {each.value}: {each.reason}" for each in self.decisions]
        if not self.audit:
            minutes = math.ceil(self._audit / 60)
            rows.append(
                f"  no audit of the images, which takes {minutes} minutes: see diffmic report"
            )
        return "\n".join([self.head, *rows, *self._questions()])

    def _questions(self) -> list[str]:
        """Lines about what may be so, which only the user knows."""
        flags = {}
        names = degrees(self.data.classes) if self.data.named else ()
        if names and not any("," in name for name in names):  # which the flag takes apart
            flags["the classes look like degrees"] = f"--ordinal={','.join(names)}"
        if pattern := self.data.group_regex:
            flags["names may tell patients"] = f"--set=data.group_regex={pattern}"
        return [f"  {what}: if so, give {shlex.quote(flag)}" for what, flag in flags.items()]

    def write(self, workdir: Path) -> None:
        """Write `plan.json`.

        Raises:
          InputError: the file cannot be written.
        """
        write_json(workdir / FILE, dataclasses.asdict(self))


def read(workdir: Path) -> Plan | None:
    """The plan of a workdir; None if there is none.

    Raises:
      InputError: it is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    with believed(path, FIX):
        found = read_json(path)
        return Plan(
            data=Fingerprint(**_tuples(found["data"])),
            machine=Machine(**found["machine"]),
            minutes=found["minutes"],
            decisions=tuple(Decision(**_tuples(each)) for each in found["decisions"]),
            share=found["share"],
            candidates=tuple(map(dict, found["candidates"])),
            choice=found["choice"],
        )


def check_same(stored: Plan, plan: Plan, workdir: Path) -> None:
    """Refuse to go on with another plan in a workdir.

    Raises:
      InputError: the minutes, the fields or the images are others.
    """
    for what, there, here in (
        ("minutes", stored.minutes, plan.minutes),
        ("fields", stored.given, plan.given),
        ("images", stored.data.images, plan.data.images),
    ):
        if there != here:
            raise InputError(
                f"{workdir} was planned with {what} {there}, not {here}; choose another --out, or "
                "delete it to begin anew"
            )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
