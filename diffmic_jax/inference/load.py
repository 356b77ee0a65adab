"""A trained workdir as a classifier: no training data needed, classes from the checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from diffmic_jax.data import files as records
from diffmic_jax.data import loader
from diffmic_jax.data.cache import Examples, cached
from diffmic_jax.data.images import list_images
from diffmic_jax.data.layouts import Record, read_file
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import evaluate as evaluation
from diffmic_jax.evaluation import results
from diffmic_jax.evaluation.uncertainty import COVERAGE
from diffmic_jax.inference import calibration
from diffmic_jax.method.build import Recipe, make_recipe
from diffmic_jax.settings import resolve
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints, placed
from diffmic_jax.training.state import Purpose, init_state, run_key
from diffmic_jax.types import Variables


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The best checkpoint of a run, ready to classify."""

    config: ml_collections.ConfigDict
    meta: dict[str, Any]
    """Of the checkpoint."""
    class_names: tuple[str, ...]
    multi_label: bool
    recipe: Recipe
    mesh: Mesh
    step: int
    variables: Variables


def _meta(workdir: Path) -> dict[str, Any]:
    """Class names and configuration of a run, from its checkpoint."""
    # The metric only ranks checkpoints, and the run's own is not known yet.
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        return checkpoints.meta(checkpoints.best_step)


def stored_config(
    workdir: Path, sampling: dict[str, object] | None = None
) -> ml_collections.ConfigDict:
    """The configuration of a run, from its checkpoint.

    Args:
      workdir: the run's folder.
      sampling: fields of `config.sampling` to change; values of None change nothing.

    Raises:
      InputError: if the folder holds no checkpoint, or for a sampling that cannot work.
    """
    config = ml_collections.ConfigDict(_meta(workdir)["config"])
    changes = {name: value for name, value in (sampling or {}).items() if value is not None}
    config.sampling.update(changes)
    return resolve(config)


def load_classifier(workdir: Path, sampling: dict[str, object] | None = None) -> Classifier:
    """Restore the best checkpoint of a workdir. Arguments and errors as in `stored_config`."""
    config = stored_config(workdir, sampling)
    meta = _meta(workdir)
    class_names, multi_label = tuple(meta["class_names"]), meta["multi_label"]
    recipe = make_recipe(config, len(class_names), multi_label=multi_label)
    mesh = parallel.make_mesh()
    abstract = jax.eval_shape(partial(init_state, recipe), jax.random.key(0))
    with Checkpoints(workdir, config.checkpoint.metric, read_only=True) as checkpoints:
        state = checkpoints.restore(
            checkpoints.best_step, placed(abstract, parallel.replicated(mesh))
        )
    variables = state.variables(average=config.train.ema)
    step = int(state.step)
    return Classifier(config, meta, class_names, multi_label, recipe, mesh, step, variables)


def parameters_sha256(variables: Variables) -> str:
    """SHA-256 over all parameters: path, dtype, shape and bytes of each, in order of path."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def classify(classifier: Classifier, examples: Examples) -> evaluation.Answers:
    """Answers for images, in order; an image's place among them seeds its draws."""
    config = classifier.config
    rows = parallel.bucket(classifier.mesh, len(examples), config.eval.batch_size)
    batches = loader.eval_batches(examples, batch_size=rows)
    predict = evaluation.make_predictor(classifier.recipe, classifier.mesh)
    key = run_key(config.seed, Purpose.SAMPLING)
    return evaluation.answer(predict(classifier.variables), batches, key, title="predict")


def predict_folder(
    workdir: Path,
    images: Path,
    out: Path,
    sampling: dict[str, object] | None = None,
    on_bad_image: str = "error",
    uncertainty: Path | None = None,
    coverage: float | None = None,
) -> tuple[int, dict[str, str]]:
    """Classify every image under a folder into a CSV.

    Args:
      workdir: the run's folder.
      images: folder of images, sub-folders included.
      out: the CSV.
      sampling: fields of `config.sampling` to change; values of None change nothing.
      on_bad_image: 'error' stops at an image that cannot be decoded, 'skip' leaves it out.
      uncertainty: a second CSV, of how sure the answers are; None for none.
      coverage: of the prediction sets in it; None: the usual one, if the run is calibrated.

    Returns:
      How many images were classified, and what was wrong with each that was left out.

    Raises:
      InputError: for a folder without images, an unreadable image or a bad workdir. Nothing is
        written then.
    """
    paths = list_images(images)
    classifier = load_classifier(workdir, sampling)
    config = classifier.config
    fitted = calibration.read(workdir, classifier.step, config.sampling)
    if coverage is not None and fitted.diffusion is None:
        raise InputError(
            f"coverage: {workdir} is not calibrated for these draws; leave the sampling as it was "
            "trained with, or train with a validation part"
        )
    records_ = tuple(Record(p.relative_to(images).as_posix(), 0, str(p)) for p in paths)
    read = partial(read_file, max_pixels=config.data.max_pixels)
    source = Source(
        "images", classifier.class_names, {"train": (), "validation": (), "test": records_}, read
    )
    with tempfile.TemporaryDirectory() as folder:
        # All are decoded before the first is classified, so a bad one is told at once.
        found = cached(source, config.data.image_size, Path(folder), on_bad_image=on_bad_image)
        examples = found.examples["test"]
        answers = classify(classifier, examples)
    ids = [record.id for record in examples.records]
    if uncertainty:
        results.write_uncertainty(
            uncertainty,
            ids,
            answers,
            classifier.class_names,
            classifier.multi_label,
            fitted,
            COVERAGE if coverage is None else coverage,
        )
    records.write_predictions(
        out,
        ids,
        None,
        classifier.class_names,
        answers.probabilities,
        answers.spread,
        multi_label=classifier.multi_label,
        thresholds=fitted.thresholds[0],
    )
    return len(examples), found.skipped


def describe(workdir: Path) -> dict[str, Any]:
    """What a workdir holds: classes, recipe, step, test metrics and a hash of the parameters."""
    classifier = load_classifier(workdir)
    facts: dict[str, Any] = {
        "classes": list(classifier.class_names),
        "recipe": classifier.recipe.name,
        "step": classifier.step,
        "image_size": classifier.recipe.image_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(classifier.variables["params"])),
        "parameters_sha256": parameters_sha256(classifier.variables),
    }
    for path in sorted(workdir.glob("eval/*/metrics.json")):
        scores = json.loads(path.read_text())
        for name in ("accuracy", "f1_macro"):
            facts[f"{path.parent.name}_{name}"] = scores[name]
    return facts
