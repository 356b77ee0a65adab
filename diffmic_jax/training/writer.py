"""TensorBoard event files, by tensorboardX's encoders."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary as summaries
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventWriter:
    """A TensorBoard event file: scalars, images and texts.

    Events are written at once and in the caller's thread: tensorboardX's own `SummaryWriter` has a
    thread for it and blocks forever once that thread has met a full disk. Every method raises
    OSError where the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """Open a new file.

        Args:
          folder: is made when absent.
          first_step: TensorBoard hides what earlier files of the folder have from that step on.

        Raises:
          OSError: if the file cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Summary | SessionLog) -> None:
        self._file.write_event(Event(step=step, wall_time=time.time(), **content))
        self._file.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write numbers, by name."""
        values = [summaries.scalar(name, value).value[0] for name, value in scalars.items()]
        self._write(step, summary=Summary(value=values))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image [H, W, C], uint8 or floating in [0, 1]."""
        self._write(step, summary=summaries.image(name, image, dataformats="HWC"))

    def write_text(self, step: int, name: str, text: str) -> None:
        """Write Markdown."""
        self._write(step, summary=summaries.text(name, text))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
