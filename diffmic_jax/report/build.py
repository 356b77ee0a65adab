"""From a run to its `report.html`.

The numbers are read from the workdir; the model runs only for the images that are shown and for the
embeddings. What the workdir lacks is made first: the calibration, the evaluation, the audit
(`audit.json`).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from diffmic_jax import __version__
from diffmic_jax.data.audit import audit, audit_records
from diffmic_jax.data.dataset import Dataset
from diffmic_jax.data.files import believed, read_json, write_json, write_text
from diffmic_jax.evaluation import compare
from diffmic_jax.evaluation.run import calibrate, evaluate
from diffmic_jax.inference.card import (
    answer_of,
    samples_of,
    steps_of,
    tempering_of,
    title_of,
    write_card,
)
from diffmic_jax.inference.evaluated import folder_of, is_current
from diffmic_jax.inference.load import Model
from diffmic_jax.planning import plan as plans
from diffmic_jax.report import audited, page, planned, sections
from diffmic_jax.report.collect import FILES, Results, data_name, read_results
from diffmic_jax.report.images import ImageSections
from diffmic_jax.report.info import num_parameters
from diffmic_jax.report.verdict import BASELINES, verdict
from diffmic_jax.training.owner import owned

AUDIT = "audit.json"
UNAUDITED = (
    "The images were not read again to look for copies across the parts and for classes that can "
    "be told by their files: it would have taken more than a tenth of the minutes "
    "that the fit was given. diffmic report does it."
)
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")
WARNING = (
    "Research software, not for diagnosis. This file contains images of the data set: the same "
    "rules of access hold for it."
)


def write_report(
    model: Model, dataset: Dataset, out: Path, split: str = "test", audits: bool = True
) -> None:
    """Write the report of a run.

    Args:
      model: of the run.
      dataset: that the run was trained on.
      out: the file.
      split: the part of the data that it is about.
      audits: audit the images, unless it was done before.

    Raises:
      InputError: there is no such part, the data has changed, or a file cannot be written.
    """
    model = _completed(model, dataset, split)
    results = _results(model, split)
    audit, comparison = _audit(model, dataset, audits), _comparison(model, results)
    baselines = audit.get("baselines", dict.fromkeys(BASELINES))
    if results.task.multi_label and split != "test":
        baselines = dict.fromkeys(BASELINES)  # they are of the test part, and name no images
    groups = compare.groups_of(model.workdir, results.ids)
    with believed(model.workdir / AUDIT, "delete it, and write the report again"):
        leaked = audit["leaked_images"] if split == "test" else 0
        conclusion = verdict(results, comparison, baselines, groups, leaked)
        headline = sections.headline(results, comparison, baselines)
        data = audited.section(audit)
        if "baselines" not in audit:
            data += page.paragraph(UNAUDITED)
    head = [
        page.paragraph(_summary(model, results, split), "sub"),
        conclusion,
        page.paragraph(WARNING, "warning"),
    ]
    parts = [
        ("results", "Results", headline),
        *_sections(model, dataset, split, results),
        ("audit", "The data and its split", data),
        *_planned(model),
        ("facts", "Configuration and versions", _facts(model)),
    ]
    write_text(out, page.document(data_name(model.config), head, parts))


def _results(model: Model, split: str) -> Results:
    """The evaluation of a part, with what is to be said of the networks behind it."""
    first, *others = model.members
    found = read_results(first.workdir, split, model.config.eval.bootstrap, model.home)
    own, folds = model.tempering.diffusion, len(model.by_fold) > 1
    return dataclasses.replace(
        found,
        diffuses=model.method.denoiser is not None,
        who=title_of(model),
        networks=1 + len(others),
        tempering=tempering_of(own) if own else "",
        careful=folds,
        held_out="on the images that the members hold out" if folds else "on the validation part",
    )


def _sections(
    model: Model, dataset: Dataset, split: str, results: Results
) -> list[tuple[str, str, str]]:
    """Name, title and content of the sections about the model."""
    images = ImageSections.of(model, dataset, split, results)
    found = [
        ("training", "Training", sections.training(results)),
        ("classes", "Classes", sections.classes(results)),
        ("reliability", "Are the probabilities calibrated?", sections.reliability(results)),
        ("decisions", "What is acting on the probabilities worth?", sections.decisions(results)),
        ("referral", "Does uncertainty find the errors?", sections.referral(results)),
        ("mistakes", "The most confident errors", images.mistakes()),
        ("gallery", "Cases", images.gallery()),
    ]
    if len(model.method.sampling.timesteps):
        found.append(("embeddings", "The denoiser's features", images.embeddings()))
    return found


def _planned(model: Model) -> list[tuple[str, str, str]]:
    """The section about the decisions of `fit`, where these made the run."""
    plan = plans.read(model.workdir)
    if plan is None:
        return []
    with believed(model.workdir / plans.FILE, plans.FIX):
        return [("plan", "What was decided, and why", planned.section(plan))]


def _completed(model: Model, dataset: Dataset, split: str) -> Model:
    """Make what the workdir lacks, or has of another checkpoint.

    Returns:
      The model with the calibration that is there then.
    """
    folder = folder_of(model, split)
    whole = is_current(model, split) and all((folder / name).exists() for name in FILES)
    calibrated = model.calibrations.diffusion is not None or not len(dataset.examples["validation"])
    if whole and calibrated:
        return model
    with owned(model.workdir):
        if not calibrated:
            calibrate(model, dataset)
            model = dataclasses.replace(model)  # which reads the calibration again
        evaluate(model, dataset, split)
        write_card(model)
    return model


def _summary(model: Model, results: Results, split: str) -> str:
    how = f", the mean of {steps_of(samples_of(model), model.method.sampling.num_steps)}"
    answer = answer_of(model)
    return (
        f"{model.method.name} on the {split} part: {results.scores['n']:,} images, "
        f"{results.task.num_classes} classes. Checkpoint of step {model.step:,}"
        f"{how if model.method.denoiser else ''}." + f" The answer: {answer}." * bool(answer)
    )


def _comparison(model: Model, results: Results) -> dict[str, Any]:
    """The guidance prediction first, the diffusion second."""
    scores, names = results.scores, results.task.class_names
    return compare.compare(
        (results.guidance, results.probabilities),
        results.label,
        results.task,
        compare.groups_of(model.workdir, results.ids),
        model.config.eval.bootstrap,
        (compare.thresholds_of(scores["guidance"], names), compare.thresholds_of(scores, names)),
    )


def _audit(model: Model, dataset: Dataset, audits: bool) -> dict[str, Any]:
    """The audit of the run's split, from the workdir if it is there; else what needs no image."""
    path = model.workdir / AUDIT
    found = read_json(path) if path.exists() else {}
    if "baselines" not in found:  # one of an earlier version lacks them
        if not audits:
            return audit_records(dataset.source)
        # Each fold is held out by some of the networks: together they learn from all of them.
        learned = ("train", "validation") if len(model.by_fold) > 1 else ("train",)
        found = audit(dataset.source, learned=learned)
        write_json(path, found)
    return found


def _facts(model: Model) -> str:
    values: dict[str, object] = {
        "parameters": f"{num_parameters(model):,}",
        "parameters SHA-256": model.parameters_sha256,
        "step": model.step,
        "diffmic_jax": __version__,
        "python": platform.python_version(),
    }
    values |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    return sections.facts(values, model.config.to_dict())
