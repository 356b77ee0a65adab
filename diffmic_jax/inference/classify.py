"""Images that belong to no data set, from files or arrays, to a model's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.data import loader
from diffmic_jax.data.cache import decoded_once
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.layouts import Record, read_file, unlabelled
from diffmic_jax.data.named import find_images, is_pattern
from diffmic_jax.data.sources import Source
from diffmic_jax.data.transforms import prepare
from diffmic_jax.errors import InputError
from diffmic_jax.inference import calibration
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.exported import Exported
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.predict import predict_batches
from diffmic_jax.inference.predictions import Outputs, prediction_rows, write_uncertainty
from diffmic_jax.method.task import SEPARATOR, Task
from diffmic_jax.training import parallel

Image = Path | np.ndarray
"""A file, or uint8 [H, W, 3] or gray [H, W]."""
MOST_AT_ONCE = 32
"""Images of one call of an exported program that takes any number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
    """Outputs for named images."""

    ids: list[str]
    outputs: Outputs
    skipped: dict[str, str]
    """Name of each image that was left out, and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """A classifier's results for n images."""

    ids: list[str]
    """[n] the images' names."""
    labels: list[str]
    """[n] the predicted class, or several as 'a|b'."""
    class_names: tuple[str, ...]
    """The C classes, the columns of what follows."""
    probabilities: np.ndarray
    """[n, C], as in predictions.csv."""
    std: np.ndarray
    """[n, C] standard deviation of the samples."""
    sets: list[tuple[str, ...]] | None
    """[n] the classes of each prediction set; None without a calibration, with several labels, or
    where it is an exported program."""
    in_distribution: np.ndarray | None = None
    """[n] bool; None: the run has no out-of-distribution detector, or it is an exported program."""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per image.

        Raises:
          InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError("to_pandas needs pandas; pip install pandas") from error
        table = pandas.DataFrame({"id": self.ids, "prediction": self.labels})
        for i, name in enumerate(self.class_names):
            table[f"prob_{name}"] = self.probabilities[:, i]
            table[f"std_{name}"] = self.std[:, i]
        if self.sets is not None:
            table["set"] = [SEPARATOR.join(each) for each in self.sets]
        if self.in_distribution is not None:
            table["in_distribution"] = self.in_distribution
        return table


def predictions(model: Model, found: Classified, coverage: float = COVERAGE) -> Predictions:
    """What is public of a model's outputs; `coverage` is that of the prediction sets."""
    task, outputs, fitted = model.task, found.outputs, model.calibrations
    calibrated = calibration.apply(fitted.diffusion, outputs.probabilities, coverage)
    predicted = task.predicted(outputs.probabilities, fitted.thresholds[0])
    sets = None
    if calibrated is not None and calibrated.sets is not None:
        sets = [
            tuple(name for name, member in zip(task.class_names, row, strict=True) if member)
            for row in calibrated.sets
        ]
    return Predictions(
        ids=found.ids,
        labels=[task.name(label) for label in predicted],
        class_names=task.class_names,
        probabilities=outputs.probabilities,
        std=outputs.std,
        sets=sets,
        in_distribution=model.detector.is_familiar(outputs.features) if model.detector else None,
    )


def by_name(images: Any) -> dict[str, Path | np.ndarray]:
    """Each image by a name of its own: its path as given, or its place in the list."""
    several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    named: dict[str, Path | np.ndarray] = {}
    for place, image in enumerate(several):
        for name, each in _each(image, place, alone=len(several) == 1).items():
            named[f"{name}#{place}" if name in named else name] = each
    return named


def _each(image: Any, place: int, alone: bool) -> Mapping[str, Any]:
    """An image, or those of a folder or pattern, by name: in a folder that is named `alone`."""
    if not isinstance(image, str | Path):
        return {f"image_{place}": image}
    path = Path(image).expanduser()
    if path.is_dir() or is_pattern(str(image)):
        found = find_images([str(image)]).images
        return found if alone else {str(file): file for file in found.values()}
    return {str(image): path}


def classify(model: Model, images: Mapping[str, Image], on_bad_image: str = "error") -> Classified:
    """Classify images, in order.

    Args:
      model: the classifier.
      images: by name.
      on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' leaves it out.

    Raises:
      InputError: there is no image that can be used, or one that cannot.
    """
    if not images:
        raise InputError("predict: there are no images; name some")
    places = {name: str(image) for name, image in images.items() if isinstance(image, Path)}
    records = tuple(unlabelled(name, places.get(name, name), model.task) for name in images)
    own = model.config.data

    def read(record: Record, gray_bits: int = 0) -> Decoded:
        image = images[record.id]
        if isinstance(image, Path):
            return read_file(record, gray_bits, max_pixels=own.max_pixels)
        return _checked(record.id, image)

    parts: dict[str, tuple[Record, ...]] = {"train": (), "validation": (), "test": records}
    framing = Framing.of(own)
    source = Source(name="images", task=model.task, splits=parts, read=read, framing=framing)
    # All are decoded before the first is classified, so a bad one is reported at once.
    found = decoded_once(source, own.image_size, on_bad_image=on_bad_image, gray_bits=own.gray_bits)
    examples = found.examples["test"]
    if not len(examples):
        first = next(iter(found.skipped.values()))
        raise InputError(f"predict: no image can be read; the first one: {first}")
    rows = parallel.bucket(model.mesh, len(examples), model.config.eval.batch_size)
    batches = loader.eval_batches(examples, loader.Batching(batch_size=rows))
    outputs = predict_batches(model.predictor, batches, model.sampling_key, "predict")
    ids = [record.id for record in examples.records]
    return Classified(ids=ids, outputs=outputs, skipped=found.skipped)


def _checked(name: str, image: np.ndarray) -> Decoded:
    """An image that is an array.

    Raises:
      InputError: it is not uint8 [H, W, 3] or [H, W], or has no pixel.
    """
    image = np.asarray(image)
    is_image = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size
    if image.dtype != np.uint8 or not is_image:
        raise InputError(
            f"{name}: is {image.dtype}{list(image.shape)}; give uint8 [height, width, 3], or "
            "[height, width] for gray"
        )
    rgb = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
    return Decoded(rgb, "L" if image.ndim == 2 else "RGB")


def classify_exported(program: Exported, images: Mapping[str, Image]) -> Predictions:
    """Classify images with an exported program, in order.

    Raises:
      InputError: there is no image, or one cannot be used.
    """
    if not images:
        raise InputError("predict: there are no images; name some")
    task = Task.of_checkpoint(program.facts)
    framing, bits = Framing(*program.facts.get("framing", ())), program.facts.get("gray_bits", 0)

    def prepared(name: str, image: Image) -> np.ndarray:
        if isinstance(image, Path):
            found = read_file(Record(name, 0, str(image)), bits)
        else:
            found = _checked(name, image)
        return prepare(framing.frame(found.pixels, name), program.image_size)

    pixels = np.stack([prepared(*each) for each in images.items()])
    rows = program.batch_size or min(len(pixels), MOST_AT_ONCE)
    place = np.arange(-(-len(pixels) // rows) * rows)
    # The last batch is filled up with copies of the first image.
    source = np.where(place < len(pixels), place, 0)
    parts = [program(pixels[source[i : i + rows]]) for i in place[::rows]]
    found = {key: np.concatenate([part[key] for part in parts])[: len(pixels)] for key in parts[0]}
    predicted = task.predicted(found["probabilities"], program.facts["thresholds"])
    return Predictions(
        ids=[*images],
        labels=[task.name(label) for label in predicted],
        class_names=task.class_names,
        probabilities=found["probabilities"],
        std=found["spread"],
        sets=None,
    )


def write_uncertainty_of(
    model: Model, found: Classified, out: Path, coverage: float | None = None
) -> None:
    """Write a CSV of calibrated probabilities, samples and prediction sets.

    Args:
      model: the classifier.
      found: its outputs.
      out: the file.
      coverage: of the prediction sets; None: the usual one, if the run is calibrated.

    Raises:
      InputError: a coverage that the run has no calibration for, or the file cannot be written.
    """
    fitted = model.calibrations.diffusion
    if coverage is not None and fitted is None:
        raise InputError(
            f"coverage: {model.workdir} is not calibrated for this sampling; leave the sampling "
            "as it was trained with, or train with a validation part"
        )
    share = COVERAGE if coverage is None else coverage
    calibrated = calibration.apply(fitted, found.outputs.probabilities, share)
    write_uncertainty(out, found.ids, found.outputs, model.task, calibrated)


def table(model: Model, ids: Sequence[str], outputs: Outputs) -> tuple[list[str], list[list[str]]]:
    """Header and a row per image, without labels: see `prediction_rows`.

    With a detector the column `in_distribution` says whether an image looks like the training's.
    """
    p, std, thresholds = outputs.probabilities, outputs.std, model.calibrations.thresholds[0]
    header, rows = prediction_rows(ids, None, model.task, p, std, thresholds)
    if model.detector is None:
        return header, rows
    familiar = model.detector.is_familiar(outputs.features)
    cells = ["yes" if each else "no" for each in familiar]
    return [*header, "in_distribution"], [[*row, c] for row, c in zip(rows, cells, strict=True)]
