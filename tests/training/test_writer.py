from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from diffmic_jax.training.writer import EventWriter, metric_writers


def read_events(folder: Path) -> list[Event]:
    """What is in the folder's event files: records of length, checksum, event, checksum."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        rest = path.read_bytes()
        while rest:
            (size,) = struct.unpack("<Q", rest[:8])
            events.append(Event.FromString(rest[12 : 12 + size]))
            rest = rest[16 + size :]
    return events


def read_values(folder: Path) -> dict[str, tuple]:
    """Step and value of every tag."""
    return {
        value.tag: (event.step, value)
        for event in read_events(folder)
        for value in event.summary.value
    }


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[EventWriter]:
    with contextlib.closing(EventWriter(tmp_path, first_step=5)) as opened:
        yield opened


def test_it_is_a_writer_of_clu_s_interface(tmp_path, writer):
    assert isinstance(writer, metric_writers.MetricWriter)
    metric_writers.write_values(metric_writers.MultiWriter([writer]), 3, {"loss": 0.5})
    step, value = read_values(tmp_path)["loss"]
    assert (step, value.simple_value) == (3, 0.5)


@pytest.mark.skipif(
    hasattr(metric_writers.SummaryWriter, "write_scalars"), reason="TensorFlow is installed"
)
def test_the_writer_that_needs_tensorflow_says_so(tmp_path):
    with pytest.raises(ImportError, match="needs TensorFlow; use EventWriter"):
        metric_writers.SummaryWriter(str(tmp_path))


def test_scalars_of_any_kind_come_back(tmp_path, writer):
    scalars = {"a": 1, "b": np.float32(2.5), "c": np.array(-3.0)}
    writer.write_scalars(7, scalars)
    # Nothing waits for a flush or the end.
    values = read_values(tmp_path)
    assert {name: value.simple_value for name, (_, value) in values.items()} == scalars
    assert {step for step, _ in values.values()} == {7}


@pytest.mark.parametrize("shape", [(4, 6, 3), (2, 4, 6, 3)])
def test_pictures_come_back_one_or_several(tmp_path, writer, shape):
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    writer.write_images(5, {"regions": pictures})
    values = read_values(tmp_path)
    several = pictures.reshape(-1, 4, 6, 3)
    assert list(values) == ["regions", "regions/1"][: len(several)]
    for picture, (_, value) in zip(several, values.values(), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
        np.testing.assert_array_equal(shown, picture)


def test_texts_histograms_and_hyperparameters_come_back(tmp_path, writer):
    writer.write_texts(1, {"note": "**hello**"})
    writer.write_histograms(2, {"weights": np.arange(10.0)}, {"weights": 5})
    writer.write_hparams({"rate": 0.1, "recipe": "v1"})
    values = read_values(tmp_path)
    assert values["note/text_summary"][1].tensor.string_val == [b"**hello**"]
    histogram = values["weights"][1].histo
    assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (0, 9, 10, 45)
    started = values["_hparams_/session_start_info"][1].metadata.plugin_data.content
    assert b"recipe" in started and b"rate" in started


def test_what_is_not_supported_says_so(writer):
    with pytest.raises(NotImplementedError, match=r"no videos \(film\)"):
        writer.write_videos(1, {"film": np.zeros((1, 2, 2, 3))})
    with pytest.raises(NotImplementedError, match="no sound"):
        writer.write_audios(1, {"heart": np.zeros((2, 1))}, sample_rate=8)
    with pytest.raises(NotImplementedError, match="no tensors"):
        writer.write_summaries(1, {"x": np.zeros(2)})


def test_tensorboard_hides_what_earlier_files_have_from_the_first_step_on(tmp_path, writer):
    start = next(event for event in read_events(tmp_path) if event.HasField("session_log"))
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
