"""Layouts in which a few files hold all images: MedMNIST's NPZ, prepared ArrayRecord files."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.data import images, npz
from diffmic_jax.data.catalog import MEDMNIST, MEDMNIST_COUNTS
from diffmic_jax.data.columns import PART_NAMES
from diffmic_jax.data.files import believed, fits, read_json
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import MOST_CLASSES, PARTS, Layout, Parts, Record
from diffmic_jax.errors import InputError
from diffmic_jax.extras import requires
from diffmic_jax.method.task import Task

log = logging.getLogger("diffmic_jax")

MEDMNIST_SIZES = (28, 64, 128, 224)
NPZ_PARTS = ("train", "val", "test")


def find_npz(root: Path, name: str, image_size: int) -> Path | None:
    """The MedMNIST file to read: `root` itself, or the smallest in it not below `image_size`."""
    if root.suffix == ".npz" and root.is_file():
        return root
    files = {side: root / f"{name}{f'_{side}' * (side > 28)}.npz" for side in MEDMNIST_SIZES}
    there = [side for side in MEDMNIST_SIZES if files[side].is_file()]
    if not there:
        return None
    return files[next((side for side in there if side >= image_size), there[-1])]


def open_npz(path: Path, name: str, class_names: Sequence[str] = ()) -> Layout:
    """A MedMNIST file: arrays `{train,val,test}_{images,labels}`, single- or multi-label.

    Raises:
      InputError: an array is missing, damaged or of another shape, or there are more labels than
        `class_names`.
    """
    labels, multi_label = _npz_labels(path)
    largest = max(int(label.max()) for label in labels.values())
    needed = labels["train"].shape[1] if multi_label else 1 + largest
    if needed > MOST_CLASSES:  # before anything has that many entries
        raise InputError(f"{path}: has {needed} classes, of at most {MOST_CLASSES}; fix its labels")
    names = tuple(class_names) or MEDMNIST.get(name) or tuple(map(str, range(needed)))
    if needed > len(names) or (multi_label and needed != len(names)):
        raise InputError(
            f"{path}: has {needed} classes, not {len(names)} ({','.join(names)}); "
            "name them in config.data.class_names"
        )
    counts = tuple(len(labels[part]) for part in NPZ_PARTS)
    if counts != MEDMNIST_COUNTS.get(name, counts):
        log.warning(
            "%s: has %s training, validation and test images, but %s is published with %s",
            *(path, "/".join(map(str, counts)), name, "/".join(map(str, MEDMNIST_COUNTS[name]))),
        )
    task = Task(class_names=names, multi_label=multi_label)
    parts: Parts = {PART_NAMES[part]: [] for part in NPZ_PARTS}
    for part, rows in labels.items():
        for index, row in enumerate(rows.tolist()):
            label = tuple(row) if multi_label else row
            parts[PART_NAMES[part]].append(Record(f"{part}_{index}", label, f"{part}/{index}"))
    return Layout(task, parts, _NpzImages(path), (str(path),))


def _npz_labels(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """The labels of each part, as many as there are images.

    Returns:
      Class indices [N] of each part and False; or, where labels have several columns, zeros and
      ones [N, C] and True.

    Raises:
      InputError: an array is missing, damaged or of another shape or type.
    """
    labels: dict[str, np.ndarray] = {}
    try:
        for part in NPZ_PARTS:
            label = npz.read_array(path, f"{part}_labels")
            pixels = npz.read_array(path, f"{part}_images", mapped=True)
            labels[part] = label.reshape(-1) if label.shape[1:] == (1,) else label
            _check_npz(part, labels[part], pixels)
        return labels, _has_columns(labels)
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(f"{path}: not a MedMNIST file ({error}); download it again") from error


def _check_npz(part: str, label: np.ndarray, pixels: np.ndarray) -> None:
    """Refuse arrays that are not images and their labels.

    Raises:
      ValueError: naming the array.
    """
    flat = pixels.ndim == 3 or pixels.shape[3:] == (3,)
    if pixels.dtype != np.uint8 or not pixels.size or not flat:
        raise ValueError(f"{part}_images {pixels.shape} are not 2-D uint8 images")
    kind, count = label.dtype.kind, label.shape[:1]
    if kind not in "iu" or count != pixels.shape[:1] or not len(label):
        raise ValueError(f"{part}_labels {label.shape} do not belong to {pixels.shape}")
    if label.ndim > 2 or label.min() < 0:
        raise ValueError(f"{part}_labels hold neither class indices nor zeros and ones")


def _has_columns(labels: Mapping[str, np.ndarray]) -> bool:
    """Whether labels have a column for each class: the one place where a shape decides.

    Raises:
      ValueError: the parts differ, or columns hold more than zeros and ones.
    """
    widths = {label.shape[1:] for label in labels.values()}
    if len(widths) > 1:
        raise ValueError("the parts have labels of different widths")
    several = widths != {()}
    for part, label in labels.items():
        if several and label.max() > 1:
            raise ValueError(f"{part}_labels hold neither class indices nor zeros and ones")
    return several


class _NpzImages:
    """Reads the images of an NPZ; arrays that are stored uncompressed stay on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, record: Record, gray_bits: int = 0) -> Decoded:
        del gray_bits  # they are uint8
        part, index = record.path.split("/")
        if part not in self._arrays:
            self._arrays[part] = npz.read_array(self._path, f"{part}_images", mapped=True)
        image = self._arrays[part][int(index)]
        if image.ndim == 2:
            return Decoded(np.repeat(image[..., None], 3, axis=-1), "L")
        return Decoded(np.asarray(image), "RGB")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}}  # a worker process reads them itself


_FEATURES = {
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "text_feature.Text",
        "class_label_feature.ClassLabel",
        "tensor_feature.Tensor",
    )
}
_FILES = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def check_prepared(folder: Path) -> None:
    """Refuse metadata that `prepare` does not write: they name classes to import, and files.

    Raises:
      InputError: naming the file.
    """
    features, info = (read_json(folder / f"{name}.json") for name in ("features", "dataset_info"))
    classes = set(_values(features, "pythonclassname"))
    if not classes <= _FEATURES or [*_values(features, "type"), *_values(features, "protocls")]:
        raise InputError(
            f"{folder}/features.json: names {', '.join(map(str, classes - _FEATURES))[:200]}, "
            "which `prepare` does not; do not trust it, prepare the data set yourself"
        )
    with believed(folder / "dataset_info.json", "prepare the data set again"):
        names = [info.get("name"), *(each.get("name") for each in info.get("splits", []))]
        plain = all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in names)
        files = set(_values(info, "filepathtemplate"))
    if not plain or not files <= {_FILES} or info.get("fileFormat") != "array_record":
        raise InputError(
            f"{folder}/dataset_info.json: names other files than `prepare` writes; do not trust "
            "it, prepare the data set yourself"
        )


def _values(found: Any, key: str) -> Iterator[Any]:
    """The values of a key, in whichever writing, anywhere in JSON."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name.replace("_", "").casefold() == key:
                yield value if isinstance(value, str) else repr(value)
            yield from _values(value, key)
    elif isinstance(found, list):
        for value in found:
            yield from _values(value, key)


def find_prepared(root: Path, name: str) -> Path | None:
    """The newest version of a data set that `prepare` wrote below `root`, if there is one."""
    found = [
        path.parent
        for path in root.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def open_prepared(folder: Path, max_pixels: int = images.MAX_PIXELS) -> Layout:
    """A data set that `prepare` wrote: TFDS metadata, images in ArrayRecord files.

    Raises:
      InputError: the metadata are damaged or of another program.
    """
    with believed(folder / "metadata.json", "prepare the data set again"):
        facts = read_json(folder / "metadata.json")
        if not fits(facts, {"class_names": [str, ...], "multi_label": bool}):
            raise TypeError("it does not name the classes")
        task = Task(class_names=tuple(facts["class_names"]), multi_label=facts["multi_label"])
        parts: Parts = {part: [] for part in PARTS}
        for split, rows in facts["records"].items():
            for index, (name, label, group) in enumerate(rows):
                if not fits([name, group], [str, str]):
                    raise TypeError(f"a record is named {name!r:.40}, its group {group!r:.40}")
                label = tuple(label) if task.multi_label else int(label)
                parts[split].append(Record(name, label, f"{split}/{index}", group))
        authors = dict(facts["authors"])
    read = _PreparedImages(folder, max_pixels)
    files = tuple(str(path) for path in sorted(folder.glob("*.array_record*")))
    return Layout(task, parts, read, files, authors)


class _PreparedImages:
    """Reads images from ArrayRecord files, opened when first needed."""

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self._folder, self._max_pixels = folder, max_pixels
        self._splits: Mapping[str, Sequence[Any]] = {}

    def __call__(self, record: Record, gray_bits: int = 0) -> Decoded:
        split, index = record.path.split("/")
        name = f"{self._folder} image {record.id}"
        try:
            row = self._open()[split][int(index)]
        except InputError:
            raise
        except Exception as error:  # a damaged file raises nearly anything
            raise InputError(f"{name}: cannot be read ({error}); prepare it again") from error
        if row["id"].decode() != record.id:
            raise InputError(f"{name}: its record holds {row['id']!r}; prepare the data set again")
        return images.decode(io.BytesIO(row["image"]), name, self._max_pixels, gray_bits)

    def _open(self) -> Mapping[str, Sequence[Any]]:
        if not self._splits:
            with requires("tfds", f"{self._folder}: a prepared data set"):
                import tensorflow_datasets as tfds
            check_prepared(self._folder)
            builder = tfds.builder_from_directory(self._folder)
            raw = {"image": tfds.decode.SkipDecoding()}
            self._splits = builder.as_data_source(decoders=raw)
        return self._splits

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_splits": {}}  # a worker process opens them itself
