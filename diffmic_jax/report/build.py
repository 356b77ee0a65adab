"""From a workdir to its `report.html`.

What was evaluated is read from the workdir; the model runs only for the images that are shown one
by one and for the embeddings. What the workdir lacks is made first: the calibration, the
evaluation, the audit (`audit.json`).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from diffmic_jax import __version__
from diffmic_jax.data import files as records
from diffmic_jax.data.audit import audit
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.evaluation import compare
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import parameters_sha256
from diffmic_jax.report import cases, figures, gallery, page, sections
from diffmic_jax.report.collect import FILES, Results, read_results
from diffmic_jax.training.state import Purpose
from diffmic_jax.types import Variables

if TYPE_CHECKING:
    from diffmic_jax.api import Experiment

EMBEDDED = 300
"""Images in the t-SNE."""
FEWEST = 6
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")


def write_report(experiment: Experiment, out: Path, split: str = "test") -> None:
    """Write the report of a run.

    Args:
      experiment: a finished run.
      out: the file.
      split: the part of the data that it is about.

    Raises:
      InputError: there is no such run or part, or the data is gone or has changed.
    """
    state = experiment.best_state()
    variables = state.variables(average=experiment.config.train.ema)
    step = int(state.step)
    _complete(experiment, step, split)
    results = read_results(experiment.workdir, split)
    shown = _Shown(experiment, variables, split, results)
    source = experiment.source
    title = f"{source.name}: {experiment.recipe.name} on the {split} split"
    comparison = _comparison(experiment, results)
    diffuses = experiment.recipe.denoiser is not None
    sampling = experiment.recipe.sampling
    how = f"; {sampling.num_samples} draws of {sampling.num_steps} steps per image"
    head = [
        page.paragraph(
            f"{results.scores['n']:,} images, {len(results.class_names)} classes, checkpoint of "
            f"step {step:,}{how if diffuses else ''}."
        ),
        page.paragraph(
            "Research software, not for diagnosis. This file shows images of the data set: treat "
            "it as you treat these.",
            "warning",
        ),
    ]
    found = [
        ("results", "Results", sections.headline(results, comparison, diffuses)),
        ("training", "Training", sections.training(results)),
        ("classes", "Classes", sections.classes(results)),
        ("reliability", "Can the probabilities be believed?", sections.reliability(results)),
        ("referral", "Does uncertainty find the errors?", sections.referral(results)),
        ("mistakes", "The most confident mistakes", shown.mistakes()),
        ("gallery", "Cases", shown.gallery()),
        ("embeddings", "From noise to classes", shown.embeddings()),
        ("audit", "The data and its split", sections.audit(_audit(experiment))),
        ("facts", "Configuration and versions", _facts(experiment, variables, step)),
    ]
    records.write_text(out, page.document(title, head, found))


def _complete(experiment: Experiment, step: int, split: str) -> None:
    """Make what the workdir lacks."""
    fresh = False
    if calibration.read(experiment.workdir, step, experiment.config.sampling).diffusion is None:
        experiment.calibrate()
        fresh = (experiment.workdir / calibration.FILE).exists()
    folder = experiment.workdir / "eval" / split
    if fresh or not all((folder / name).exists() for name in FILES):
        experiment.evaluate(split)


def _comparison(experiment: Experiment, results: Results) -> dict[str, Any]:
    """The guidance first, the diffusion second."""
    return compare.compare(
        (results.guidance, results.probabilities),
        results.label,
        results.class_names,
        compare.groups_of(experiment.workdir, results.ids),
        experiment.config.eval.bootstrap,
        (
            compare.thresholds_of(results.scores["guidance"]),
            compare.thresholds_of(results.scores),
        ),
    )


def _audit(experiment: Experiment) -> dict[str, Any]:
    """The audit of the run's split, from the workdir if it is there."""
    path = experiment.workdir / "audit.json"
    if not path.exists():
        found = audit(experiment.source, on_bad_image=experiment.config.data.on_bad_image)
        records.write_json(path, found)
    return json.loads(path.read_text())


def _facts(experiment: Experiment, variables: Variables, step: int) -> str:
    values: dict[str, object] = {
        "parameters": f"{sum(x.size for x in jax.tree.leaves(variables['params'])):,}",
        "parameters SHA-256": parameters_sha256(variables),
        "step": step,
        "diffmic_jax": __version__,
        "python": platform.python_version(),
    }
    values |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    return sections.facts(values, experiment.config.to_dict())


class _Shown:
    """The sections in which the model runs."""

    def __init__(
        self, experiment: Experiment, variables: Variables, split: str, results: Results
    ) -> None:
        whole = "test" if split == CLEAN else split
        self._examples = experiment.data.examples[whole]
        place = {record.id: i for i, record in enumerate(self._examples.records)}
        # Draws belong to the position in the whole part.
        self._place = np.array([place[image] for image in results.ids])
        self._recipe, self._variables = experiment.recipe, variables
        self._look = cases.make_look(experiment.recipe)
        self._key, self._results = experiment.key(Purpose.SAMPLING), results
        self._region = experiment.config.guidance.region_size
        self._timesteps = experiment.recipe.sampling.timesteps

    def _cards(self, name: str, chosen: np.ndarray) -> page.Raw:
        batches = (cases.batch_of(self._examples, self._place[[i]]) for i in chosen)
        found = [self._look(self._variables, batch, self._key) for batch in batches]
        return page.grid(
            gallery.card(f"{name}-{i}", self._results, i, case, self._region, self._timesteps)
            for i, case in zip(chosen.tolist(), found, strict=True)
        )

    def mistakes(self) -> str:
        chosen = gallery.most_confident_mistakes(self._results)
        if not len(chosen):
            return page.paragraph("There is none.")
        note = "Wrong labels often stand at the top of such a list: look at these first."
        return page.paragraph(note, "note") + self._cards("mistake", chosen)

    def gallery(self) -> str:
        note = (
            "The first images of each class, not chosen by how well they went. Left: the regions, "
            "with a thicker line for more attention; right: the saliency, blue to red. The curves "
            f"are the label vector from noise to answer, mean and middle {cases.LEVEL}% of draws. "
            "In the table each draw is read out by itself, so its range need not hold p."
        )
        chosen = gallery.first_of_each_class(self._results)
        return page.paragraph(note, "note") + self._cards("case", chosen)

    def embeddings(self) -> str:
        results = self._results
        if not len(self._timesteps):
            return page.paragraph("Nothing is diffused: the guidance is the classifier.", "note")
        if len(results.ids) < FEWEST:
            return page.paragraph("Too few images for a map.", "note")
        count = min(EMBEDDED, len(results.ids))
        chosen = np.unique(np.linspace(0, len(results.ids) - 1, count).round().astype(int))
        steps = len(self._timesteps)
        at = np.unique(np.linspace(0, steps - 1, 4).round().astype(int))
        hidden = cases.embeddings(
            self._recipe,
            self._variables,
            self._examples,
            self._place[chosen],
            self._key,
            at,
        )
        labels = np.full(len(chosen), -1) if results.multi_label else results.label[chosen]
        drawn = [
            page.figure(figures.scatter(f"tsne-{i}", f"t = {self._timesteps[i]}", _tsne(h), labels))
            for i, h in zip(at, hidden, strict=True)
        ]
        key = "".join(
            f'<span style="--k: var(--c{c % 14})">{page.text(name)}</span>'
            for c, name in enumerate(results.class_names)
        )
        note = (
            f"The denoiser's last hidden layer for one draw of {len(chosen)} images, by t-SNE, "
            "from the first step to the last. Distances between clusters mean nothing in it."
        )
        legend = "" if results.multi_label else page.Raw(f'<p class="key">{key}</p>')
        return page.paragraph(note, "note") + legend + page.grid(drawn, "small")


def _tsne(hidden: np.ndarray) -> np.ndarray:
    """[N, D] -> [N, 2], the same for the same input."""
    perplexity = min(30, (len(hidden) - 1) / 3)
    # Its threads wait for each other at every step: on a busy machine, one is many times faster.
    with threadpool_limits(1):
        reduced = PCA(min(50, *hidden.shape), random_state=0).fit_transform(hidden)
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
