"""What `fit` will do and why: `plan.json` of a workdir."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.data.files import write_json
from diffmic_jax.errors import InputError
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.rules import GIVEN, Case, Decision, Machine, decide

FILE = "plan.json"


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
    def text(self) -> str:
        """For the terminal: the data, then a line for each decision."""
        data = self.data
        parts = ", ".join(f"{count:,} {part}" for part, count in data.images.items())
        head = (
            f"{data.name}: {parts}; {len(data.classes)} classes, {data.labels}; "
            f"{self.minutes:g} minutes on {self.machine.devices}"
        )
        rows = [f"  {each.field} = {each.value}: {each.reason}" for each in self.decisions]
        return "\n".join([head, *rows])

    def write(self, workdir: Path, outcome: Sequence[dict[str, Any]] = ()) -> None:
        """Write `plan.json`; the outcome is what validation says of the candidates.

        Raises:
          InputError: the file cannot be written.
        """
        write_json(workdir / FILE, dataclasses.asdict(self) | {"candidates": list(outcome)})


def read(workdir: Path) -> Plan | None:
    """The plan of a workdir; None if there is none.

    Raises:
      InputError: it is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        return Plan(
            data=Fingerprint(**_tuples(found["data"])),
            machine=Machine(**found["machine"]),
            minutes=found["minutes"],
            decisions=tuple(Decision(**_tuples(each)) for each in found["decisions"]),
            share=found["share"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no plan ({error}); restore it, or choose another --out"
        ) from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
