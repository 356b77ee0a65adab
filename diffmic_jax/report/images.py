"""The sections of a report in which the model runs: errors, cases, embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from diffmic_jax.data.cache import Examples
from diffmic_jax.data.dataset import Dataset
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.layouts import Read
from diffmic_jax.data.sources import CLEAN
from diffmic_jax.inference.load import Model
from diffmic_jax.report import cases, figures, gallery, page
from diffmic_jax.report.cases import Case, Original
from diffmic_jax.report.collect import Results
from diffmic_jax.report.svg import NUM_COLOURS
from diffmic_jax.types import Batch

EMBEDDED = 300
"""Images in the t-SNE, at most."""
FEWEST = 6
"""Images that a t-SNE needs."""
MAPS = 4
"""Steps of the sampler that have a t-SNE, at most."""
GALLERY_NOTE = "The first images of each class, in the order of the split."
MISTAKES_NOTE = "Check the labels of these images first: wrong labels often rank high here."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSections:
    """A model and an evaluated part of its data."""

    model: Model
    examples: Examples
    """The whole part: a sample's noise depends on the image's position in it."""
    positions: np.ndarray
    """[N] in `examples`, of the images in `results`."""
    results: Results
    explain: Callable[[Batch], Case]
    """As `cases.make_explainer` returns it."""
    read: Read
    """Decodes a record."""

    @classmethod
    def of(cls, model: Model, dataset: Dataset, split: str, results: Results) -> ImageSections:
        """The sections of a split, which may be the clean part of the test images."""
        examples = dataset.examples["test" if split == CLEAN else split]
        place = {record.id: i for i, record in enumerate(examples.records)}
        return cls(
            model=model,
            examples=examples,
            positions=np.array([place[image] for image in results.ids]),
            results=results,
            explain=cases.make_explainer(model),
            read=dataset.source.read,
        )

    def mistakes(self) -> str:
        """The most confident errors."""
        chosen = gallery.most_confident_mistakes(self.results)
        if not len(chosen):
            return page.paragraph("There is none.")
        note = page.paragraph(MISTAKES_NOTE, "note") + self._legend_of_cards()
        return note + self._cards("mistake", chosen)

    def gallery(self) -> str:
        """A few images of each class."""
        chosen = gallery.first_of_each_class(self.results)
        note: str = page.paragraph(GALLERY_NOTE, "note")
        if not len(gallery.most_confident_mistakes(self.results)):  # it stands there otherwise
            note += self._legend_of_cards()
        return note + self._cards("case", chosen)

    def embeddings(self) -> str:
        """The denoiser's last hidden layer as t-SNE maps, at some steps of the sampler."""
        results, timesteps = self.results, self.model.method.sampling.timesteps
        if len(results.ids) < FEWEST:
            return page.paragraph("Too few images for a map.", "note")
        chosen = _spread(len(results.ids), EMBEDDED)
        at = _spread(len(timesteps), MAPS)
        hidden = cases.embeddings(self.model, self.examples, self.positions[chosen], at)
        several = results.task.multi_label
        labels = np.full(len(chosen), -1) if several else results.label[chosen]
        maps = [
            page.figure(figures.scatter(f"tsne-{i}", f"t = {timesteps[i]}", _tsne(layer), labels))
            for i, layer in zip(at, hidden, strict=True)
        ]
        steps = ", from the first step to the last" if len(at) > 1 else ""
        note = (
            f"The denoiser's last hidden layer for one sample of {len(chosen)} images, by t-SNE"
            f"{steps}. Distances between clusters have no meaning in it."
        )
        legend = "" if several else self._legend()
        return page.paragraph(note, "note") + legend + page.grid(maps, "small")

    def _cards(self, name: str, chosen: np.ndarray) -> page.Raw:
        return page.grid(
            gallery.card(f"{name}-{i}", self.results, i, *self._case(i)) for i in chosen.tolist()
        )

    def _case(self, i: int) -> tuple[Case, Original]:
        position = self.positions[i]
        case = self.explain(cases.batch_of(self.examples, self.positions[[i]]))
        bits = self.model.config.data.gray_bits
        scale = {"gray_bits": bits} if bits else {}
        decoded = self.read(self.examples.records[position], **scale)
        framing = Framing.of(self.model.config.data)
        return case, Original.of(framing.frame(decoded.pixels))

    def _legend_of_cards(self) -> page.Raw:
        method = self.model.method
        steps, regions = len(method.sampling.timesteps), self.model.config.guidance.network == "dcg"
        return gallery.legend(regions, steps > 0, steps > 1, self.results.networks > 1)

    def _legend(self) -> page.Raw:
        keys = "".join(
            f'<span style="--k: var(--c{c % NUM_COLOURS})">{page.text(name)}</span>'
            for c, name in enumerate(self.results.task.class_names)
        )
        return page.Raw(f'<p class="key">{keys}</p>')


def _spread(count: int, most: int) -> np.ndarray:
    """Indices of 0..count-1 at equal distances, `most` of them at most."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _tsne(hidden: np.ndarray) -> np.ndarray:
    """[N, D] -> [N, 2], the same for the same input."""
    perplexity = min(30, (len(hidden) - 1) / 3)
    # Its threads wait for each other at every step: on a busy machine, one is many times faster.
    with threadpool_limits(1):
        reduced = PCA(min(50, *hidden.shape), random_state=0).fit_transform(hidden)
        points: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
            reduced
        )
    return points
