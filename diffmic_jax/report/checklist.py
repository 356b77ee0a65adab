"""A reporting checklist, filled in from the files of a run.

CLAIM (2024 update) and TRIPOD+AI list about a hundred items that a study has to report.
`CHECKLIST.md` fills in those that the files of a run contain and names what is left to the authors.
It is a draft for the supplement of a paper: the facts are those of this run, the judgement is the
authors'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffmic_jax.config import Config, Data
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.files import read_table, write_text
from diffmic_jax.data.framing import Framing
from diffmic_jax.inference.card import (
    COPIES,
    answer_of,
    markdown,
    origins,
    steps_of,
    table,
    versions,
)
from diffmic_jax.inference.load import Model
from diffmic_jax.method.networks import OF_GUIDANCE, SHARED
from diffmic_jax.method.task import DOUBT, SEPARATOR
from diffmic_jax.nn.preprocess import Preprocess
from diffmic_jax.planning import plan as plans
from diffmic_jax.report.checklist_items import CLAIM, TRIPOD_AI, Item
from diffmic_jax.report.checklist_results import about_results
from diffmic_jax.training.workdir import config_sha256, skipped_images

FILE = "CHECKLIST.md"
PROTOCOLS = {
    "given": "the parts that the data comes with, what they lack cut with groups kept whole",
    "authors": "DiffMIC's published lists",
    "random": "cut at random, by class",
    "grouped": "cut at random, with every group in one part",
}
FLIPS = {"none": "none", "horizontal": "horizontal", "both": "horizontal and vertical"}
OPTIMIZERS = {"amsgrad": "AMSGrad", "adam": "Adam", "adamw": "AdamW"}
INTRODUCTION = """\
Filled in by diffmic_jax from the files of this run; the last column is for the authors of a study.
Items have the numbers of CLAIM (2024 update) and TRIPOD+AI in words of our own: use them together
with the publications (doi 10.1148/ryai.240300, 10.1136/bmj-2023-078378).
"""
UNKNOWN = "not recorded"


def write_checklist(model: Model) -> Path:
    """Write `CHECKLIST.md` into the workdir of a model; returns the file.

    Raises:
      InputError: the file cannot be written.
    """
    path = model.home / FILE
    write_text(path, checklist(model))
    return path


def checklist(model: Model) -> str:
    """The filled-in checklists of a run, as Markdown."""
    known = facts(model)
    parts = [f"# Reporting checklist: {markdown(known['title'])}\n", INTRODUCTION]
    for name, items in (("CLAIM, 2024 update", CLAIM), ("TRIPOD+AI", TRIPOD_AI)):
        rows = [("item", "about", "this run", "for the authors to fill in")]
        parts += [f"## {name}\n", table([*rows, *(_row(item, known) for item in items)])]
    return "\n".join(parts)


def _row(item: Item, known: Mapping[str, str]) -> tuple[str, str, str, str]:
    run = markdown(item.run.format_map(known))
    return item.number, item.topic, run or "-", item.authors or "-"


def facts(model: Model) -> dict[str, str]:
    """What the run's files contain, in phrases, by the names that the items use."""
    config, task, method = model.config, model.task, model.method
    split, several = _Split(model.workdir), task.multi_label
    return {
        "title": f"{config.recipe} on {config.data.name}",
        "use": "research software; not tested or cleared for clinical use",
        "labels": f"{', '.join(task.class_names)}; {'any number' if several else 'one'} per image",
        "measures": ", ".join(task.metrics)
        + "; by class"
        + "; the same of the guidance prediction alone" * bool(config.denoiser.encoder),
        "hash": config_sha256(config),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "origins": origins(model.meta.get("origins", {})),
        "output": "a probability for each class"
        + (", each with a threshold fitted on validation" if several else ", that sum to 1")
        + "; share of votes, interval and entropy of the samples",
        "limits": "images of one source; an image of any other kind is classified too",
        "poor_input": "an image that cannot be decoded is refused; any other is classified",
        "regions": f"saliency map and {config.guidance.num_regions} regions with their attention, "
        "for every image",
        **_about_missing(model),
        **_about_data(config.data, split, method.preprocess),
        **(_about_diffusion(model) if config.denoiser.encoder else _about_classifier(model)),
        "ensemble": answer_of(model) or "one model",
        "selection": _selection(model),
        **about_results(model, split.grouped),
    }


def _about_missing(model: Model) -> dict[str, str]:
    skipped = f"{len(skipped_images(model.workdir)):,}"
    skips = model.config.data.on_bad_image == "skip"
    return {
        "skipped": f"{skipped} images that could not be read",
        "missing": "an image that cannot be read "
        + ("is left out" if skips else "stops the run")
        + f"; {skipped} left out",
    }


def _data_set(name: str) -> str:
    known = CATALOG.get(name)
    about: tuple[str, ...] = (known.description, known.homepage) if known else ()
    if name == "phantom":
        about = ("generated by the software from a seed: no patients",)
    elif name in MEDMNIST:
        about = ("https://medmnist.com",)
    return "; ".join(filter(None, (f"data set {name}", *about)))


class _Split:
    """A run's `split.csv`; without one everything is empty."""

    def __init__(self, workdir: Path) -> None:
        self.labels: dict[str, Counter[str]] = {}
        self.images: Counter[str] = Counter()
        self._groups: dict[str, list[str]] = {}
        self.ungrouped = 0
        path = workdir / "split.csv"
        if path.exists():
            for row in read_table(path, "split", "label", "group"):
                self._add(row["split"], row["label"], row["group"])

    def _add(self, part: str, label: str, group: str) -> None:
        self.images[part] += 1
        self.labels.setdefault(part, Counter()).update(
            name for name in label.split(SEPARATOR) if name and not name.startswith(DOUBT)
        )
        if group:
            self._groups.setdefault(part, []).append(group)
        else:
            self.ungrouped += 1

    @property
    def grouped(self) -> bool:
        """Whether it is known which images belong together."""
        return bool(self._groups)

    @property
    def leaked(self) -> int:
        """Test images whose group is in training or validation as well."""
        seen = {*self._groups.get("train", ()), *self._groups.get("validation", ())}
        return sum(group in seen for group in self._groups.get("test", ()))


def _about_data(data: Data, split: _Split, own: Preprocess) -> dict[str, str]:
    cut = "read from a file" if data.split else PROTOCOLS[data.protocol]
    counts = (f"{n:,} {part}" for part, n in split.images.items())
    held = f"validation share {data.validation_fraction} of training where none is given"
    if data.folds:
        held = f"validation is one of {data.folds} parts of what is not for the test"
    return {
        "data": _data_set(data.name),
        "images": ", ".join(counts) or UNKNOWN,
        "split": f"{cut}; {held}; seed {data.split_seed}; every image's part is in split.csv",
        "disjoint": _disjoint(split),
        "distribution": "; ".join(
            f"{part}: " + ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
            for part, counts in split.labels.items()
        )
        or UNKNOWN,
        "imbalance": _imbalance(split, data.balance),
        "preprocessing": f"{Framing.of(data).words}centre square, {data.image_size} px "
        f"(bilinear), RGB, less {_levels(own.mean)} and over {_levels(own.std)} of 255",
        "augmentation": f"flips: {FLIPS[data.flip]}; rotation up to {data.rotation:g} degrees"
        f"{_more_augmentation(data)}; in training alone",
    }


def _levels(values: Sequence[float]) -> str:
    return "/".join(f"{255 * value:.0f}" for value in values)


def _more_augmentation(data: Data) -> str:
    crop = f"; crops of {data.crop:.0%} of the area or more" if data.crop < 1 else ""
    operations = "; one operation of TrivialAugment" if data.augmentation == "trivial" else ""
    return crop + operations


def _disjoint(split: _Split) -> str:
    if not split.grouped:
        return "images; which of them are of one patient is not known"
    return (
        f"images; {split.leaked:,} test images are of a group (patient, lesion) that training or "
        "validation have as well"
        + f"; the group of {split.ungrouped:,} images is not known"
        * bool(split.ungrouped)
    )


def _imbalance(split: _Split, balance: float) -> str:
    classes = (split.labels.get("train") or Counter()).most_common()
    total = split.images["train"]
    ends = classes[:: len(classes) - 1 or 1]
    if not ends:
        return UNKNOWN
    shares = ", ".join(f"{name} {n:,} of {total:,} ({n / total:.1%})" for name, n in ends)
    sampling = f"classes drawn as count^{1 - balance:g}" if balance else "no resampling"
    return f"commonest and rarest class in training: {shares}; {sampling}"


def _about_classifier(model: Model) -> dict[str, str]:
    config = model.config
    train, guidance = config.train, config.guidance
    return {
        "model": f"recipe {config.recipe}: {_guidance(config)}, without diffusion; all sizes in "
        "config.json",
        "diffusion": "none",
        "prediction": f"the classifier's probabilities{COPIES[config.sampling.flips]}",
        "training": f"{_networks(model)}; {train.epochs} epochs; {_optimizer(config)}; its loss: "
        f"{guidance.loss}",
    }


def _about_diffusion(model: Model) -> dict[str, str]:
    config = model.config
    guidance, denoiser, train, sampling = (
        config.guidance,
        config.denoiser,
        config.train,
        config.sampling,
    )
    beta = model.method.schedule.beta
    clip = f", clipped at norm {train.clip_norm:g}" if train.clip_norm else ""
    limit = f"; at most {train.max_steps:,} steps" if train.max_steps else ""
    return {
        "model": f"recipe {config.recipe}: {_guidance(config)}; denoiser of {denoiser.feature_dim} "
        f"features over {_encoder(config)}, condition: {denoiser.conditioning}; all sizes in "
        "config.json",
        "diffusion": f"{len(beta)} timesteps, {config.diffusion.schedule} schedule, beta "
        f"{beta[0]:.2g} to {beta[-1]:.2g}",
        "prediction": f"mean of "
        f"{steps_of(sampling.num_samples, sampling.num_steps, sampling.sampler)} "
        f"({sampling.start}), readout: {sampling.readout}"
        f"{COPIES[sampling.flips]}",
        "training": f"{_networks(model)}; guidance alone for {guidance.warmup_epochs} epochs, "
        f"then {train.epochs} epochs of the denoiser with the guidance "
        f"{'frozen' if guidance.frozen else 'trained along'}; guidance: {_optimizer(config)}; "
        f"denoiser: Adam, {train.learning_rate:g} to {train.final_learning_rate:g} by "
        f"cosine{clip}; its loss: {_losses(config)}{limit}",
    }


def _networks(model: Model) -> str:
    config, train = model.config, model.config.train
    answer = answer_of(model) or "one model"
    return f"{answer}, seed {config.seed}, {train.dtype}, batch {train.batch_size}"


def _guidance(config: Config) -> str:
    guidance = config.guidance
    trunk = f"{guidance.backbone} (width {config.model.width})"
    if guidance.network == "classifier":
        return f"a plain {trunk} classifier"
    trunks = {"": f"two {trunk}", SHARED: f"one {trunk} for the image and its regions"}.get(
        guidance.local_trunk, f"{trunk} and, for the regions, {guidance.local_trunk}"
    )
    return f"guidance of {trunks}, {guidance.num_regions} regions of {guidance.region_size} px"


def _encoder(config: Config) -> str:
    if config.denoiser.encoder == OF_GUIDANCE:
        return "the guidance's features of the image"
    return f"{config.denoiser.encoder} (width {config.model.width})"


def _optimizer(config: Config) -> str:
    return f"{OPTIMIZERS[config.guidance.optimizer]} at {config.guidance.learning_rate:g}"


def _losses(config: Config) -> str:
    """The terms of the denoiser's loss and their weights."""
    train = config.train
    has_mmd = config.denoiser.conditioning in ("fused", "dual")
    losses = {
        f"the noise MSE, weights {train.loss_weight}": train.noise_weight,
        "an MMD for each branch of the guidance": train.mmd_weight * has_mmd,
        "the cross-entropy of the denoised label": train.label_weight,
    }
    return " and ".join(f"{weight:g} times {name}" for name, weight in losses.items() if weight)


def _selection(model: Model) -> str:
    config, plan = model.config, plans.read(model.workdir)
    metric = config.checkpoint.metric
    if plan and plan.choice:
        return f"checkpoints by {metric} on held-out images; {plan.choice}"
    if config.data.validation_fraction:
        return f"the checkpoint of the best {metric} on validation"
    return f"by {metric} on validation where the data has one, else the last step"
