"""The training log: `metrics.csv` and TensorBoard events, one row per logged step."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from clu import parameter_overview

from diffmic_jax.data.files import believed, put
from diffmic_jax.errors import StorageError
from diffmic_jax.training.progress import Progress
from diffmic_jax.training.writer import EventWriter

log = logging.getLogger("diffmic_jax")

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
        num_steps: int,
        start_step: int = 0,
    ) -> None:
        """Open the log.

        Args:
          workdir: the run's folder, or None to write nothing.
          scalars: names that the steps of any phase report; they fix the columns.
          batch_size: images per step, for the rate.
          every_steps: steps between rows.
          num_steps: of the whole run, for the time that is left.
          start_step: the step that training goes on from.

        Raises:
          StorageError: if the files cannot be written.
        """
        self._columns = ["step", "phase", *scalars, "images_per_second", "skipped"]
        self._columns += [f"val_{name}" for name in VALIDATION]
        self._batch_size, self._every, self.num_steps = batch_size, every_steps, num_steps
        self._values: dict[str, list[float]] = {}
        self._steps, self._seconds = 0, 0.0
        self._started, self._start_step = time.monotonic(), start_step
        self._events: EventWriter | None = None
        self.history: list[dict[str, str]] = []
        """The rows that were there before, up to the step that training goes on from."""
        self.progress: Progress | None = None
        """Is told by `ended` how far the run is."""
        if workdir is not None:
            self._path = workdir / "metrics.csv"
            with self._writing():
                self.history = self._rewind(start_step)
                self._events = EventWriter(workdir / "tensorboard", start_step + 1)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = error.filename or self._path
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error

    def _rewind(self, start_step: int) -> list[dict[str, str]]:
        """Keep the header and the rows up to a step."""
        rows: list[dict[str, str]] = []
        if self._path.exists():
            # A full disk may have torn the last line.
            whole, _, _ = self._path.read_text(errors="replace").rpartition("\n")
            with believed(self._path, "delete it, and the log begins anew"):
                rows = [
                    row
                    for row in csv.DictReader(io.StringIO(whole))
                    if row["step"].isdigit() and int(row["step"]) <= start_step
                ]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        put(self._path, text.getvalue().encode())
        return rows

    def add(
        self,
        step: int,
        phase: str,
        values: Mapping[str, float],
        seconds: float,
        validation: Mapping[str, float] | None = None,
        *,
        skipped: int = 0,
    ) -> None:
        """Note a step; write a row where one is due, and wherever there is a validation.

        Args:
          step: steps taken.
          phase: its name.
          values: the step's finite scalars.
          seconds: that the step took.
          validation: metrics of the state after the step.
          skipped: steps skipped so far, in the whole run.

        Raises:
          StorageError: if the row cannot be written.
        """
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._steps += 1
        self._seconds += seconds
        if validation is not None or step % self._every == 0:
            known = {name: (validation or {}).get(name) for name in VALIDATION}
            extra = {f"val_{name}": x for name, x in known.items() if x is not None}
            self._write(step, phase, {"skipped": skipped, **extra})

    def ended(self, step: int, validation: Mapping[str, float] | None = None) -> None:
        """Note that all steps up to `step`, some of them at once, have ended and were added."""
        if self.progress:
            self.progress.note(step, self.num_steps, validation)

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
        shown = [f"{name} {value:.4g}" for name, value in values.items() if name != "skipped"]
        shown += [f"{values['skipped']} skipped"] * bool(values["skipped"])
        log.info("%s step %d: %s, ETA %s", phase, step, ", ".join(shown), self._eta(step))
        with self._writing():
            with self._path.open("a", newline="") as file:
                row = {"step": step, "phase": phase, **texts}
                csv.DictWriter(file, self._columns).writerow(row)
            self._events.write_scalars(step, values)

    def _eta(self, step: int) -> datetime.timedelta:
        """Time to the last step at the pace so far, with validation and all."""
        pace = (time.monotonic() - self._started) / max(step - self._start_step, 1)
        return datetime.timedelta(seconds=round(pace * (self.num_steps - step)))

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Note a picture [H, W, 3] uint8 of a step, for TensorBoard alone."""
        if self._events is not None:
            with self._writing():
                self._events.write_image(step, name, picture)

    def networks(self, params: Mapping[str, Any], step: int) -> None:
        """Note how large each network is; TensorBoard gets a table of all arrays.

        Args:
          params: parameters by network.
          step: that training starts from.

        Raises:
          StorageError: if the table cannot be written.
        """
        if self._events is None:
            return
        sizes = {name: parameter_overview.count_parameters(tree) for name, tree in params.items()}
        log.info("parameters: %s", ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
        with self._writing():
            for name, tree in params.items():
                self._events.write_text(step, f"parameters/{name}", f"```\n{_table(tree)}\n```")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._events is not None:
            with self._writing():
                self._events.close()


def _table(params: Mapping[str, Any]) -> str:
    return parameter_overview.get_parameter_overview(params, include_stats=False)
