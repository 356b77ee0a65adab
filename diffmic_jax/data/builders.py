"""TFDS builders of the data sets known by name, and `prepare`, which runs one.

A prepared data set is one folder of ArrayRecord files, with the encoded images as they were, and
metadata that list every image with its label, group and part. It is written without TensorFlow
and can be read with `tfds.builder_from_directory(...).as_data_source(...)`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from diffmic_jax.data import archives, catalog, images, sources
from diffmic_jax.data.catalog import DataSet
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import Layout, Parts, Record
from diffmic_jax.data.lists import known_parts
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task

VERSION = "1.0.0"
CHUNK = 512
"""Images whose check is recorded at once."""
_CHECKED = 2**40  # pixels: images that have been checked have no limit


class _Builder(  # type: ignore[call-arg]  # TFDS takes the option, but has no type for it
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A data set of the catalog, in the layout in which it is distributed under `manual_dir`."""

    VERSION = tfds.core.Version(VERSION)
    known: DataSet

    def __init__(self, *, layout: Layout | None = None, **kwargs: Any) -> None:
        """Without a `layout` to write, `manual_dir` is opened."""
        self.layout = layout
        super().__init__(**kwargs)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """Which archives to put where."""
        return self.known.where

    def _info(self) -> tfds.core.DatasetInfo:
        names = self.layout.task.class_names if self.layout else self.known.class_names
        label: Any = tfds.features.ClassLabel(names=names or None)
        if self.known.multi_label:
            label = tfds.features.Tensor(shape=(len(names),), dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.known.description,
            homepage=self.known.homepage,
            citation=self.known.citation,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": label,
                    "id": tfds.features.Text(),
                    "group": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the n-th record is the n-th line of the metadata
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        layout = self.layout or open_native(self.known.name, dl_manager.manual_dir)
        self.info.metadata.update(
            class_names=layout.task.class_names,
            multi_label=layout.task.multi_label,
            authors=dict(layout.authors),
            records={
                part: [[r.id, r.label, r.group] for r in listed]
                for part, listed in layout.parts.items()
                if listed
            },
        )
        return {
            part: self._generate_examples(listed, layout.task)
            for part, listed in layout.parts.items()
            if listed
        }

    def _generate_examples(
        self, records: Sequence[Record], task: Task
    ) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(records):
            label = record.label
            yield (
                index,
                {
                    "image": _encoded(Path(record.path)),
                    "label": np.array(label, np.int32) if task.multi_label else label,
                    "id": record.id,
                    "group": record.group,
                },
            )


def _builder(known: DataSet) -> type[_Builder]:
    body = {
        "name": known.name,
        "known": known,
        "__doc__": known.description,
        "__module__": __name__,
    }
    return types.new_class(known.name.capitalize(), (_Builder,), exec_body=lambda n: n.update(body))


BUILDERS = {name: _builder(known) for name, known in catalog.CATALOG.items()}
"""The builder of each data set of the catalog, by its name."""


class Prepared(NamedTuple):
    """A prepared data set, written now or before."""

    folder: Path
    counts: dict[str, int]
    """Images by part."""
    skipped: dict[str, str]
    """Why each image that was left out cannot be read, by its id."""
    known: DataSet
    has_authors: bool
    """Whether it has DiffMIC's split."""
    fresh: bool
    """Whether it was written now, not before."""


def open_native(name: str, manual_dir: str | os.PathLike[str], lists: Path | None = None) -> Layout:
    """A data set as it is distributed, with DiffMIC's split if its lists are there.

    Args:
        name: of the catalog.
        manual_dir: its folder.
        lists: folder of DiffMIC's split lists; default: wherever `known_parts` looks.

    Raises:
        InputError: a file is missing or damaged; names what to download and where to put it.
    """
    if not Path(manual_dir).is_dir():
        where = catalog.CATALOG[name].where
        raise InputError(f"--manual_dir={str(manual_dir)!r}: no such folder; {where}")
    layout = sources.open_native(name, Path(manual_dir))
    names = catalog.CATALOG[name].lists
    if not names:
        return layout
    try:
        return layout._replace(authors=known_parts(lists or Path(manual_dir), names))
    except InputError:
        if lists:
            raise
        return layout


def prepare(
    name: str,
    manual_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    lists: Path | None = None,
    on_bad_image: str = "error",
    max_pixels: int = images.MAX_PIXELS,
) -> Prepared:
    """Check every image of a data set and write it as ArrayRecord files.

    The folder is complete or absent. Images that were checked before an interruption are not
    checked again.

    Args:
        name: of `BUILDERS`.
        manual_dir: folder of the data set as it is distributed.
        data_dir: where `<name>/<version>` is made.
        lists: folder of DiffMIC's split lists, if they are not with the data.
        on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' leaves it out.
        max_pixels: the largest image that is accepted.

    Raises:
        InputError: a file is missing or damaged, or `data_dir` cannot be written.
    """
    if name not in BUILDERS:
        raise InputError(f"prepare: {name!r} is unknown; choose one of {', '.join(BUILDERS)}")
    home = Path(data_dir) / name
    if home.resolve() == Path(manual_dir).resolve():
        raise InputError(
            f"--data_dir={data_dir}: would write into the images; choose another folder"
        )
    skipped: dict[str, str] = {}
    folder = archives.find_prepared(Path(data_dir), name)
    fresh = folder is None
    if folder is None:
        layout = open_native(name, manual_dir, lists)
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / "lock"):
                skipped = _check_images(layout, home, on_bad_image, max_pixels)
                layout = _without(layout, skipped)
                if not any(layout.parts.values()):
                    raise InputError(f"{manual_dir}: no image can be read; replace some of them")
                folder = _write(name, layout, Path(manual_dir), Path(data_dir))
        except OSError as error:
            raise InputError(
                f"{home}: cannot be written ({error}); choose another folder"
            ) from error
    layout = archives.open_prepared(folder)
    if lists and not layout.authors:
        raise InputError(f"{folder}: prepared without --lists; delete it to prepare it again")
    counts = {part: len(listed) for part, listed in layout.parts.items() if listed}
    known = catalog.CATALOG[name]
    return Prepared(folder, counts, skipped, known, bool(layout.authors), fresh)


def _write(name: str, layout: Layout, manual_dir: Path, data_dir: Path) -> Path:
    """Run the builder; TFDS writes into another folder and renames it at the end."""
    for left_over in (data_dir / name).glob("incomplete.*"):
        shutil.rmtree(left_over)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
        builder = BUILDERS[name](layout=layout, data_dir=data_dir, file_format="array_record")
        try:
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
            )
        except RuntimeError as error:  # of the writer of ArrayRecords, which has no other kind
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{data_dir / name}: cannot be written ({reason}); make room, or choose another "
                "--data_dir"
            ) from error
    (data_dir / name / "checked.txt").unlink(missing_ok=True)
    return Path(builder.data_dir)


def _check_images(layout: Layout, home: Path, on_bad_image: str, max_pixels: int) -> dict[str, str]:
    """Decode every image once; returns why each bad one cannot be read, by id."""
    done = home / "checked.txt"
    checked = set(done.read_text().split("\n")) if done.is_file() else set()
    records = [record for listed in layout.parts.values() for record in listed]
    due = [record for record in records if _state(record) not in checked]
    bad: dict[str, str] = {}
    check = partial(_problem, max_pixels=max_pixels)
    bar = tqdm(due, desc="check", unit="image", leave=False, disable=None)
    with ThreadPoolExecutor() as pool, done.open("a") as file, bar:
        for start in range(0, len(due), CHUNK):
            chunk = due[start : start + CHUNK]
            for record, problem in zip(chunk, pool.map(check, chunk), strict=True):
                if problem and on_bad_image == "error":
                    raise InputError(problem)
                if problem:
                    bad[record.id] = problem
                else:
                    file.write(f"{_state(record)}\n")
            file.flush()
            bar.update(len(chunk))
    return bad


def _state(record: Record) -> str:
    stat = os.stat(record.path)
    return f"{record.path} {stat.st_size} {stat.st_mtime_ns}"


def _problem(record: Record, max_pixels: int) -> str:
    try:
        images.decode(Path(record.path), record.path, max_pixels)
    except InputError as error:
        return str(error)
    return ""


def _without(layout: Layout, skipped: dict[str, str]) -> Layout:
    parts: Parts = {
        part: [record for record in listed if record.id not in skipped]
        for part, listed in layout.parts.items()
    }
    return layout._replace(parts=parts)


def _encoded(path: Path) -> Any:
    """The file itself if TFDS can decode it, else its pixels as PNG."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return str(path)
    decoded: Decoded = images.decode(path, str(path), _CHECKED)
    buffer = io.BytesIO()
    Image.fromarray(decoded.pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
