"""TensorBoard events through clu's `MetricWriter`, without TensorFlow.

`clu.metric_writers` imports TensorFlow for one of its writers. Where that is not installed, a
module with a writer that says so stands in for it, and all else of the package works. Import the
package by way of this module: `from diffmic_jax.training.writer import metric_writers`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tensorboardX import summary as summaries
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class _NeedsTensorFlow:
    """In the place of clu's writer over TensorFlow."""

    def __init__(self, logdir: str) -> None:
        raise ImportError(f"{logdir}: clu's SummaryWriter needs TensorFlow; use EventWriter")


if importlib.util.find_spec("tensorflow") is None:
    _absent = types.ModuleType("clu.metric_writers.summary_writer")
    vars(_absent)["SummaryWriter"] = _NeedsTensorFlow
    sys.modules.setdefault(_absent.__name__, _absent)

from clu import metric_writers  # noqa: E402  (after what stands in for TensorFlow)

__all__ = ["EventWriter", "metric_writers"]


class EventWriter(metric_writers.MetricWriter):
    """A TensorBoard event file: scalars, pictures, texts, histograms and hyperparameters.

    Written at once and in the caller's thread: the writer of tensorboardX with a thread of its own
    blocks for ever once that thread has met a full disk. Every method raises OSError where the
    file cannot be written.
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

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Write pictures [H, W, C] or [N, H, W, C], by name; uint8, or floating in [0, 1].

        Of several, the first has the name itself, the others `name/1` and so on.
        """
        for name, pictures in images.items():
            several = np.asarray(pictures)
            for i, picture in enumerate(several if several.ndim == 4 else several[None]):
                tag = f"{name}/{i}" if i else name
                self._write(step, summary=summaries.image(tag, picture, dataformats="HWC"))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Write Markdown, by name."""
        for name, text in texts.items():
            self._write(step, summary=summaries.text(name, text))

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Write the distribution of the values of arrays, by name; 30 buckets if not said."""
        for name, array in arrays.items():
            bins = (num_buckets or {}).get(name, 30)
            self._write(step, summary=summaries.histogram(name, np.asarray(array), bins))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Write what a run was started with, by name."""
        for part in summaries.hparams(dict(hparams), {}):
            self._write(0, summary=part)

    def write_summaries(
        self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> NoReturn:
        """Not supported: raises NotImplementedError."""
        raise NotImplementedError(f"EventWriter writes no tensors ({', '.join(values)})")

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> NoReturn:
        """Not supported: raises NotImplementedError."""
        raise NotImplementedError(f"EventWriter writes no videos ({', '.join(videos)})")

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> NoReturn:
        """Not supported: raises NotImplementedError."""
        raise NotImplementedError(f"EventWriter writes no sound ({', '.join(audios)})")

    def flush(self) -> None:
        """Do nothing: every event is on its way to the disk when its method returns."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
