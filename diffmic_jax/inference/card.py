"""The model card: a classifier, its training data and its results, in a page of Markdown."""

from __future__ import annotations

import html
import importlib.metadata
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.config import Config
from diffmic_jax.data.files import read_table, write_text
from diffmic_jax.inference.calibration import Calibration
from diffmic_jax.inference.evaluated import evaluations
from diffmic_jax.inference.load import Model
from diffmic_jax.method.networks import OF_GUIDANCE
from diffmic_jax.training.workdir import config_sha256, skipped_images

FILE = "MODEL_CARD.md"
PACKAGES = ("diffmic_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
HEADLINE = ("accuracy", "f1_macro", "balanced_accuracy", "auroc_macro", "nll", "ece")
COPIES = {
    "none": "",
    "horizontal": ", mean over the image and its mirror image",
    "both": ", mean over the image and its three mirror images",
}
"""What `sampling.flips` does to a prediction."""
LIMITS = """\
**Intended use.** Research on diffusion classifiers and on medical image data sets: to compare
methods, to study errors and uncertainty.

**Not a medical device.** It has not been tested, cleared or approved for any clinical use. Do not
use it to diagnose, to triage or to choose a treatment.

**Limits.** The results hold for images from the same source as the data above: other scanners,
hospitals, populations or diseases can change them, and only an evaluation on such images shows by
how much. Every image gets an answer in terms of the classes, also one of something else. The
probabilities are calibrated risks only as far as `ece` above shows. Where the split was not made by
patient, test images may resemble training images, and the results may be too good."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute the results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a source tree that is not installed
    return found


def markdown(text: str) -> str:
    """Text that comes from outside, such as the name of a class, as text in Markdown: on one line,
    and neither HTML nor a link nor the end of a cell."""
    known = text.encode("utf-8", "replace").decode()
    line = "".join(char if char.isprintable() else " " for char in known)
    escaped = html.escape(line, quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escaped)


def write_card(model: Model) -> None:
    """Write `MODEL_CARD.md` beside a model's results, with the metrics that are there by now.

    Raises:
      InputError: the file cannot be written.
    """
    write_text(model.home / FILE, model_card(model))


def model_card(model: Model) -> str:
    """The card of a run, with the split, skipped images and metrics that its workdir has."""
    config = model.config
    parts = (
        f"# Model card: {markdown(config.recipe)} on {config.data.name}\n",
        "## Model\n",
        _list(_model(model)),
        "## Data\n",
        _list(_data(model)),
        "## Results\n",
        _results(model),
        "## Use and limits\n",
        LIMITS + "\n",
        "## Versions\n",
        _list(versions()),
    )
    return "\n".join(parts)


def _list(facts: Mapping[str, Any]) -> str:
    return "".join(f"- {name}: {markdown(str(value))}\n" for name, value in facts.items())


def _model(model: Model) -> dict[str, Any]:
    config, task = model.config, model.task
    guidance, denoiser, sampling = config.guidance, config.denoiser, config.sampling
    regions = f"{guidance.num_regions} regions"
    if guidance.local_trunk:
        regions += f", their trunk: {guidance.local_trunk}"
    own = denoiser.encoder != OF_GUIDANCE
    encoder = denoiser.encoder if own else "on the guidance's features of the image"
    return {
        "method": "DiffMIC: a guidance network and a diffusion model over the label"
        if model.method.denoiser
        else "a classifier without diffusion",
        "recipe": config.recipe,
        "classes": ", ".join(task.class_names),
        "labels": "any number per image" if task.multi_label else "one per image",
        "input": f"{config.data.image_size} px squares, RGB",
        "guidance": f"{guidance.backbone}, "
        + (regions if guidance.network == "dcg" else "a plain classifier"),
        "denoiser": f"{encoder}, {denoiser.feature_dim} features"
        if denoiser.encoder
        else "none: the guidance is the classifier",
        "started from": origins(model.meta.get("origins", {})),
        "prediction": (
            f"mean of {steps_of(sampling.num_samples, sampling.num_steps, sampling.sampler)}"
            if denoiser.encoder
            else "that of the guidance"
        )
        + COPIES[sampling.flips],
        "answer": answer_of(model) or "that of this network",
        "configuration": f"SHA-256 {config_sha256(config)}",
    }


def answer_of(model: Model) -> str:
    """Of which networks a model's answer is the mean, and its temperature; empty for one as it is.

    All else on the card is of the first of them.
    """
    kinds = Counter(_kind(each.config) for each in model.members)
    count, folds, own = len(model.members), model.config.data.folds, model.tempering.diffusion
    facts = []
    if count > 1:
        each = ", ".join(f"{n} of {kind}" for kind, n in kinds.items())
        facts.append(f"mean of {count} networks ({each}), of which this is the first")
    elif own:
        facts.append("of one network")
    if folds and len(model.by_fold) == folds:
        facts.append(f"each of {folds} parts of the images is held out by some of them")
    if own:
        facts.append(tempering_of(own))
    return "; ".join(facts)


def tempering_of(own: Calibration) -> str:
    """A temperature, and what is mixed in before it, in words."""
    share = own.uniform / (1 + own.uniform)
    mixed = f" after a share of {share:.0%} of equal probabilities" if share >= 0.005 else ""
    return f"temperature {own.temperature:.3g}{mixed}"


def title_of(model: Model) -> str:
    """What answers: a diffusion, a classifier, or an average of both."""
    diffuse = [each.method.denoiser is not None for each in model.members]
    if any(diffuse) and not all(diffuse):
        return "average"
    return "diffusion" if all(diffuse) else "classifier"


def _kind(config: Config) -> str:
    """A network in a word."""
    alone = config.guidance.tune == "head" and not config.denoiser.encoder
    return f"{config.recipe}, the last layer alone" if alone else config.recipe


def samples_of(model: Model) -> int:
    """The samples of which a prediction is the mean, over all networks that diffuse."""
    diffuse = (each.method for each in model.members if each.method.denoiser)
    return sum(method.sampling.total_samples for method in diffuse)


def steps_of(samples: int, steps: int, sampler: str = "") -> str:
    """As `2 samples of one step each`."""
    kind = f"{sampler} step" if sampler else "step"
    each = " each" * (samples > 1)
    return (
        f"{samples} sample{'s' * (samples > 1)} of "
        f"{f'{steps} {kind}s' if steps != 1 else f'one {kind}'}{each}"
    )


def origins(found: Mapping[str, str]) -> str:
    """The weights that each network started from, as a checkpoint records them, in a phrase."""
    return "; ".join(f"{name}: {origin}" for name, origin in found.items()) or "not recorded"


def _data(model: Model) -> dict[str, Any]:
    data, counts = model.config.data, _split_counts(model.workdir)
    return {
        "data set": data.name,
        "split": f"{data.protocol}, seed {data.split_seed}",
        "images": ", ".join(f"{n:,} {part}" for part, n in counts.items()) or "not recorded",
        "left out as unreadable": len(skipped_images(model.workdir)),
    }


def _split_counts(workdir: Path) -> dict[str, int]:
    path = workdir / "split.csv"
    if not path.exists():
        return {}
    return dict(Counter(row["split"] for row in read_table(path, "split")))


def _results(model: Model) -> str:
    found, other = evaluations(model)
    notes = "".join(f"\nNot shown: {part}, which is {what}.\n" for part, what in other.items())
    if not found:
        return f"None yet.\n{notes}"
    rows: list[Sequence[str]] = [("part", "answer", "images", *HEADLINE)]
    for part, scores in found.items():
        answers = {title_of(model): scores}
        if model.method.denoiser:
            answers["guidance alone"] = scores["guidance"]
        for name, values in answers.items():
            cells = (cell(values, metric) for metric in HEADLINE)
            rows.append((markdown(part), name, str(scores["n"]), *cells))
        if few := of_fewer_classes(scores):
            notes += f"\n{markdown(part)}: {few}\n"
    intervals = "95% intervals by bootstrap over images, or groups where there are."
    return f"{table(rows)}\n{intervals}\n{notes}"


def of_fewer_classes(scores: Mapping[str, Any]) -> str:
    """A sentence on means over classes that leave some out, which no image has; else empty."""
    count, means = len(scores["per_class"]), scores.get("classes_in_mean", {})
    fewer = [f"{name} over {n}" for name, n in means.items() if n < count]
    return (
        f"Means over classes leave out those that are undefined: {', '.join(fewer)} of {count}."
        * bool(fewer)
    )


def cell(values: Mapping[str, Any], name: str) -> str:
    """A metric to three digits, with its 95% interval from `ci95` if there is one; or a dash."""
    if values[name] is None:
        return "-"
    low_high = values["ci95"].get(name)
    return f"{values[name]:.3f}" + (f" ({low_high[0]:.3f}-{low_high[1]:.3f})" if low_high else "")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, the first one the header, as a Markdown table."""
    first, *rest = ("| " + " | ".join(row) + " |\n" for row in rows)
    rule = "|" + "---|" * (first.count("|") - 1) + "\n"
    return first + rule + "".join(rest)
