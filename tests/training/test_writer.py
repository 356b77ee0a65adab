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

from diffmic_jax.training.writer import EventWriter


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


def test_scalars_of_any_kind_come_back(tmp_path, writer):
    scalars = {"a": 1, "b": np.float32(2.5), "c": np.array(-3.0)}
    writer.write_scalars(7, scalars)
    # Nothing waits for a flush or the end.
    values = read_values(tmp_path)
    assert {name: value.simple_value for name, (_, value) in values.items()} == scalars
    assert {step for step, _ in values.values()} == {7}


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_come_back(tmp_path, writer, kind):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    writer.write_image(5, "regions", image if kind == np.uint8 else image.astype(kind) / 255)
    step, value = read_values(tmp_path)["regions"]
    shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    assert step == 5
    np.testing.assert_array_equal(shown, image)


def test_texts_come_back(tmp_path, writer):
    writer.write_text(1, "note", "**hello**")
    step, value = read_values(tmp_path)["note/text_summary"]
    assert (step, value.tensor.string_val) == (1, [b"**hello**"])


def test_tensorboard_hides_what_earlier_files_have_from_the_first_step_on(tmp_path, writer):
    start = next(event for event in read_events(tmp_path) if event.HasField("session_log"))
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
