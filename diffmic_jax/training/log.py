"""The training log: `metrics.csv` and TensorBoard events, one row per logged step."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import tensorboardX

VALIDATION = ("accuracy", "f1_macro", "nll")


class TrainingLog:
    """Averages scalars between rows and writes them; on resume, rows after the restored step go.

    One object per run, on the process that writes; others get one with `workdir=None`, which
    writes nothing.
    """

    def __init__(
        self,
        workdir: Path | None,
        scalars: Sequence[str],
        *,
        batch_size: int,
        every_steps: int,
        start_step: int = 0,
    ) -> None:
        """Open the log.

        Args:
          workdir: the run's folder, or None to write nothing.
          scalars: names that the steps of any phase report; they fix the columns.
          batch_size: images per step, for the rate.
          every_steps: steps between rows.
          start_step: the step that training goes on from.
        """
        self._columns = ["step", "phase", *scalars, "images_per_second"]
        self._columns += [f"val_{name}" for name in VALIDATION]
        self._batch_size, self._every = batch_size, every_steps
        self._sums: dict[str, float] = {}
        self._count, self._seconds = 0, 0.0
        self._events: tensorboardX.SummaryWriter | None = None
        if workdir is not None:
            self._path = workdir / "metrics.csv"
            self._rewind(start_step)
            self._events = tensorboardX.SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start_step + 1
            )

    def _rewind(self, start_step: int) -> None:
        """Keep the header and the rows up to a step."""
        rows: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= start_step]
        fresh = self._path.with_suffix(".tmp")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(fresh, self._path)

    def add(self, step: int, phase: str, values: Mapping[str, float], seconds: float) -> None:
        """Note a step's scalars, and write a row where one is due."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._seconds += seconds
        if step % self._every == 0:
            self._write(step, phase, {})

    def write_validation(self, step: int, phase: str, metrics: Mapping[str, float] | None) -> None:
        """Write a row with validation metrics; nothing if there are none."""
        if metrics is not None:
            known = {f"val_{name}": metrics[name] for name in VALIDATION if name in metrics}
            self._write(step, phase, known)

    def _write(self, step: int, phase: str, extra: Mapping[str, float]) -> None:
        """Append a row of the means since the last one."""
        means = {name: total / self._count for name, total in self._sums.items()}
        if self._count:
            means["images_per_second"] = self._count * self._batch_size / max(self._seconds, 1e-9)
        self._sums, self._count, self._seconds = {}, 0, 0.0
        if self._events is None:
            return
        values = means | dict(extra)
        texts = {name: f"{value:.6g}" for name, value in values.items()}
        with self._path.open("a", newline="") as file:
            row = {"step": step, "phase": phase, **texts}
            csv.DictWriter(file, self._columns).writerow(row)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._events is not None:
            self._events.close()
