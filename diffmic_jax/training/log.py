"""The training log: `metrics.csv` and TensorBoard events, one row per logged step."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tensorboardX

log = logging.getLogger("diffmic_jax")

SHOWN = (
    "loss",
    "guidance_loss",
    "images_per_second",
    "val_accuracy",
    "val_f1_macro",
    "val_auroc_macro",
)
"""What a line on the terminal tells of a row."""
VALIDATION = ("accuracy", "f1_macro", "auroc_macro", "nll")


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
        self._values: dict[str, list[float]] = {}
        self._steps, self._seconds = 0, 0.0
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

    def add(
        self,
        step: int,
        phase: str,
        values: Mapping[str, float],
        seconds: float,
        validation: Mapping[str, float] | None = None,
    ) -> None:
        """Note a step; write a row where one is due, and wherever there is a validation."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._steps += 1
        self._seconds += seconds
        if validation is not None or step % self._every == 0:
            known = {name: (validation or {}).get(name) for name in VALIDATION}
            self._write(
                step, phase, {f"val_{name}": x for name, x in known.items() if x is not None}
            )

    def _write(self, step: int, phase: str, extra: Mapping[str, float]) -> None:
        """Append a row of the means since the last one."""
        # Of the steps that had the scalar: a phase may have begun in between.
        means = {name: sum(noted) / len(noted) for name, noted in self._values.items()}
        means["images_per_second"] = self._steps * self._batch_size / max(self._seconds, 1e-9)
        self._values, self._steps, self._seconds = {}, 0, 0.0
        if self._events is None:
            return
        values = means | dict(extra)
        texts = {name: f"{value:.6g}" for name, value in values.items()}
        shown = (f"{name} {value:.4g}" for name, value in values.items() if name in SHOWN)
        log.info("%s step %d: %s", phase, step, ", ".join(shown))
        with self._path.open("a", newline="") as file:
            row = {"step": step, "phase": phase, **texts}
            csv.DictWriter(file, self._columns).writerow(row)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """Note a picture [H, W, 3] uint8 of a step, for TensorBoard alone."""
        if self._events is not None:
            self._events.add_image(name, image, step, dataformats="HWC")

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
