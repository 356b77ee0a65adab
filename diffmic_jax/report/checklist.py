"""A reporting checklist, filled in with what a run's own files say.

CLAIM (2024 update) and TRIPOD+AI ask a study for a hundred things. `CHECKLIST.md` answers those
that a run knows and names what is left for the authors. It is a draft for a paper's supplement,
no proof of anything: the facts are of this run, the judgement is the authors'.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.files import write_text
from diffmic_jax.evaluation.metrics import SCALARS, SINGLE_LABEL_ONLY
from diffmic_jax.inference.card import cell, origins, table, versions, write_card
from diffmic_jax.report.checklist_items import CLAIM, TRIPOD_AI, Item
from diffmic_jax.training.workdir import config_sha256, skipped_images

FILE = "CHECKLIST.md"
PROTOCOLS = {
    "given": "the parts that the data comes with, what they lack cut with groups kept whole",
    "authors": "DiffMIC's published lists",
    "random": "cut at random, by class",
    "grouped": "cut at random, with every group in one part",
}
INTRODUCTION = """\
Filled in by diffmic_jax with what the files of this run say; the last column is for the authors of
a study. Items have the numbers of CLAIM (2024 update) and TRIPOD+AI and words of our own: read
the publications (doi 10.1148/ryai.240300, 10.1136/bmj-2023-078378) beside them.
"""
NOT_YET = "not evaluated yet"


def write_documents(workdir: Path, meta: Mapping[str, Any]) -> None:
    """Write `MODEL_CARD.md` and `CHECKLIST.md`, with the metrics that are there by now.

    Args:
      workdir: the run's folder.
      meta: of its checkpoint, as for `card.model_card`.
    """
    write_card(workdir, meta)
    write_text(workdir / FILE, checklist(workdir, meta))


def checklist(workdir: Path, meta: Mapping[str, Any]) -> str:
    """The filled-in checklists of a run, as Markdown; arguments as for `write_documents`."""
    known = facts(workdir, meta)
    parts = [f"# Reporting checklist: {known['title']}\n", INTRODUCTION]
    for name, items in (("CLAIM, 2024 update", CLAIM), ("TRIPOD+AI", TRIPOD_AI)):
        rows = [("item", "about", "this run", "for the authors to fill in")]
        parts += [f"## {name}\n", table([*rows, *(_row(item, known) for item in items)])]
    return "\n".join(parts)


def _row(item: Item, known: Mapping[str, str]) -> tuple[str, str, str, str]:
    said = item.run.format_map(known).replace("|", "\\|").replace("\n", " ")
    return item.number, item.topic, said or "-", item.authors or "-"


def facts(workdir: Path, meta: Mapping[str, Any]) -> dict[str, str]:
    """What a run knows, in phrases, by the names that the items use."""
    config = meta["config"]
    data, split = config["data"], _Split(workdir)
    names, multi_label = meta["class_names"], meta["multi_label"]
    measures = [each for each in SCALARS if not (multi_label and each in SINGLE_LABEL_ONLY)]
    skipped = len(skipped_images(workdir))
    return {
        "title": f"{config['recipe']} on {data['name']}",
        "use": "research software; not tested or cleared for clinical use",
        "data": _data_set(data["name"]),
        "skipped": f"{skipped:,} images that could not be read",
        "missing": "an image that cannot be read "
        + ("is left out" if data["on_bad_image"] == "skip" else "stops the run")
        + f"; {skipped:,} left out",
        "labels": f"{', '.join(names)}; {'any number' if multi_label else 'one'} per image",
        "measures": ", ".join(measures) + "; by class; of the guidance alone beside them",
        "hash": config_sha256(config),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "origins": origins(meta.get("origins", {})),
        "output": "a probability for each class"
        + (", each with a threshold fitted on validation" if multi_label else ", that sum to 1")
        + "; share of votes, interval and entropy of the draws",
        "limits": "images of one source; an answer for any image, also for one of another kind",
        "poor_input": "an image that cannot be decoded is refused; any other is answered, whatever "
        "it shows",
        "regions": f"saliency map and {config['guidance']['num_regions']} regions with their "
        "attention, for every image",
        **_about_data(data, split),
        **_about_model(config),
        **_about_results(workdir, config, split),
    }


def _data_set(name: str) -> str:
    known = CATALOG.get(name)
    about: tuple[str, ...] = (known.description, known.homepage) if known else ()
    if name == "phantom":
        about = ("made by the software from a seed: no patients",)
    elif name in MEDMNIST:
        about = ("https://medmnist.com",)
    return "; ".join(filter(None, (f"data set {name}", *about)))


class _Split:
    """A run's `split.csv`; without one everything is empty."""

    def __init__(self, workdir: Path) -> None:
        self.labels: dict[str, Counter[str]] = {}
        self.images: Counter[str] = Counter()
        self._groups: dict[str, list[str]] = {}
        path = workdir / "split.csv"
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                for row in csv.DictReader(file):
                    self._add(row["split"], row["label"], row["group"])

    def _add(self, part: str, label: str, group: str) -> None:
        self.images[part] += 1
        self.labels.setdefault(part, Counter()).update(filter(None, label.split("|")))
        if group:
            self._groups.setdefault(part, []).append(group)

    @property
    def grouped(self) -> bool:
        """Whether it is known which images belong together."""
        return bool(self._groups)

    @property
    def leaked(self) -> int:
        """Test images whose group is in training or validation as well."""
        seen = {*self._groups.get("train", ()), *self._groups.get("validation", ())}
        return sum(group in seen for group in self._groups.get("test", ()))


def _about_data(data: Mapping[str, Any], split: _Split) -> dict[str, str]:
    cut = "read from a file" if data["split"] else PROTOCOLS[data["protocol"]]
    share = data["validation_fraction"]
    disjoint = "images"
    if split.grouped:
        disjoint += f"; {split.leaked:,} test images are of a group (patient, lesion) that "
        disjoint += "training or validation have as well"
    else:
        disjoint += "; which of them are of one patient is not known"
    flips = [side for side in ("horizontal", "vertical") if data[f"{side}_flip"]]
    most = (split.labels.get("train") or Counter()).most_common()
    total = split.images["train"]
    ends = [
        f"{name} {n:,} of {total:,} ({n / total:.1%})" for name, n in most[:: len(most) - 1 or 1]
    ]
    return {
        "images": ", ".join(f"{n:,} {part}" for part, n in split.images.items()) or "not recorded",
        "split": f"{cut}; validation share {share} of training where none is given; "
        f"seed {data['split_seed']}; every image's part is in split.csv",
        "disjoint": disjoint,
        "distribution": "; ".join(
            f"{part}: " + ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
            for part, counts in split.labels.items()
        )
        or "not recorded",
        "imbalance": f"commonest and rarest class in training: {', '.join(ends)}; no resampling"
        if most
        else "not recorded",
        "preprocessing": f"centre square, {data['image_size']} px (bilinear), RGB, mean and "
        "standard deviation of ImageNet",
        "augmentation": f"flips: {' and '.join(flips) or 'none'}; rotation up to "
        f"{data['rotation']:g} degrees; in training alone",
    }


def _about_model(config: Mapping[str, Any]) -> dict[str, str]:
    guidance, denoiser, diffusion = (config[key] for key in ("guidance", "denoiser", "diffusion"))
    train, sampling = config["train"], config["sampling"]
    metric, fraction = config["checkpoint"]["metric"], config["data"]["validation_fraction"]
    optimizer = "AMSGrad" if guidance["amsgrad"] else "Adam"
    losses = {
        f"the noise MSE, weights {train['loss_weight']}": train.get("noise_weight", 1),
        "an MMD for each of the two guesses": train["mmd_weight"]
        * (denoiser["conditioning"] in ("fused", "dual")),
        "the cross-entropy of the denoised label": train.get("label_weight", 0),
    }
    loss = " and ".join(f"{weight:g} times {name}" for name, weight in losses.items() if weight)
    selection = f"by {metric} on validation where the data has one, else the last step"
    if fraction:
        selection = f"the checkpoint of the best {metric} on validation"
    clip = f", clipped at norm {train['clip_norm']:g}" if train["clip_norm"] else ""
    trunk = f"{guidance['backbone']} (width {guidance['width']})"
    model = f"a plain {trunk} classifier"
    if guidance.get("network", "dcg") == "dcg":  # which earlier runs do not tell
        model = f"guidance of two {trunk}, {guidance['num_regions']} regions of "
        model += f"{guidance['region_size']} px"
    if not denoiser["encoder"]:
        return {
            "model": f"recipe {config['recipe']}: {model}, without diffusion; all sizes in "
            "config.json",
            "diffusion": "none",
            "answer": "the classifier's probabilities",
            "training": f"one model, seed {config['seed']}, {train['dtype']}, batch "
            f"{train['batch_size']}; {train['epochs']} epochs; {optimizer} at "
            f"{guidance['learning_rate']:g}; its loss: {guidance['loss']}",
            "selection": selection,
        }
    return {
        "model": f"recipe {config['recipe']}: {model}; "
        f"denoiser of {denoiser['feature_dim']} features over {denoiser['encoder']} (width "
        f"{denoiser['width']}), condition: {denoiser['conditioning']}; all sizes in config.json",
        "diffusion": f"{diffusion['num_train_steps']} timesteps, {diffusion['schedule']} schedule, "
        f"beta {diffusion['beta_start']:g} to {diffusion['beta_end']:g}",
        "answer": f"mean of {sampling['num_samples']} draws, {sampling['num_steps']} "
        f"{sampling['sampler']} steps each ({sampling['start']}), readout: {sampling['readout']}",
        "training": f"one model, seed {config['seed']}, {train['dtype']}, batch "
        f"{train['batch_size']}; guidance alone for {guidance['warmup_epochs']} epochs, then "
        f"{train['epochs']} epochs of the denoiser with the guidance "
        f"{'frozen' if guidance['frozen'] else 'learning on'}; guidance: {optimizer} at "
        f"{guidance['learning_rate']:g}; denoiser: Adam, {train['learning_rate']:g} to "
        f"{train['final_learning_rate']:g} by cosine{clip}; its loss: {loss}"
        + (f"; at most {train['max_steps']:,} steps" if train["max_steps"] else ""),
        "selection": selection,
    }


def _about_results(workdir: Path, config: Mapping[str, Any], split: _Split) -> dict[str, str]:
    paths = sorted(workdir.glob("eval/*/metrics.json"))
    found = {path.parent.name: json.loads(path.read_text()) for path in paths}
    resamples, unit = config["eval"]["bootstrap"], "groups" if split.grouped else "images"
    return {
        "intervals": f"95% by bootstrap, {resamples:,} resamples of {unit}; two runs by McNemar's "
        "test and paired bootstrap (`compare`)",
        "calibration": "temperature and conformal sets, fitted on validation (calibration.json); "
        "told beside the results as they are"
        if (workdir / "calibration.json").exists()
        else "none",
        "internal": f"evaluated parts: {', '.join(found) or NOT_YET}",
        "results": _each(found, _headline),
        "per_class": _each(found, _classes),
        "errors": _each(found, _errors),
        "calibration_results": _each(found, _calibrated),
    }


def _each(found: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], str]) -> str:
    return "; ".join(f"{part}: {tell(scores)}" for part, scores in found.items()) or NOT_YET


def _headline(scores: Mapping[str, Any]) -> str:
    def line(values: Mapping[str, Any], names: Sequence[str]) -> str:
        known = [name for name in names if values[name] is not None]
        return ", ".join(f"{name} {cell(values, name)}" for name in known)

    guidance = line(scores["guidance"], ("accuracy", "f1_macro", "auroc_macro"))
    return f"n = {scores['n']:,}, {line(scores, SCALARS)}; guidance alone {guidance}"


def _classes(scores: Mapping[str, Any]) -> str:
    lines = []
    for name, values in scores["per_class"].items():
        shown = values | {"ci95": scores["ci95_per_class"][name]}
        measured = (f"{m} {cell(shown, m)}" for m in ("recall", "precision", "auroc"))
        lines.append(f"{name} ({values['support']:,}): {', '.join(measured)}")
    return "; ".join(lines)


def _errors(scores: Mapping[str, Any]) -> str:
    referral = scores.get("referral")
    if not referral:
        return "see per class"
    return (
        f"{referral['errors']:,} of {scores['n']:,} wrong; the {referral['share']:.0%} of the "
        f"highest entropy hold {referral['errors_referred']:,} of them; report.html shows the most "
        "confident ones"
    )


def _calibrated(scores: Mapping[str, Any]) -> str:
    after = scores.get("calibrated")
    if not after:
        return "none"
    told = f"ECE {scores['ece']:.3f}, with temperature {after['ece']:.3f}"
    if sets := after.get("conformal"):
        told += f"; conformal sets cover {sets['coverage']:.3f} (asked for {sets['target']:g})"
    return told
