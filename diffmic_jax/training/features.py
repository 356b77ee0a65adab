"""Features of images under a trunk that does not learn, computed once and kept in a file.

The head of a plain classifier then learns from them at the speed of memory. An image has several
views, the first one as it is and the others augmented as in training, and every step takes one of
them at random.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from diffmic_jax.config import Config
from diffmic_jax.data import transforms
from diffmic_jax.data.cache import Examples
from diffmic_jax.data.loader import Batching
from diffmic_jax.data.store import CachedPixels, check_space, reserve
from diffmic_jax.errors import InputError
from diffmic_jax.fields import flatten
from diffmic_jax.method.build import Method
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.method.state import init_variables, of_network
from diffmic_jax.method.train_step import guide
from diffmic_jax.training import parallel
from diffmic_jax.training.state import Purpose, run_key
from diffmic_jax.types import Array, Batch, Variables

log = logging.getLogger("diffmic_jax")

VERSION = 1
"""Of the features: raise it when a trunk or the augmentation computes others."""
CHUNK = 64
"""Images that go through the trunk together."""
TRUNK = ("guidance.backbone", "model.width", "model.stem", "train.dtype")
VIEWS = ("data.flip", "data.rotation", "data.crop", "data.augmentation")
COPIES = ("sampling.flips",)
"""Fields of the configuration that features depend on: all, those of views, those of copies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Versions:
    """What an image has features of."""

    fields: tuple[str, ...]
    """Of the configuration, that they depend on."""
    count: int
    """V, or M."""
    of: Callable[[Array, Array, Array], Array]
    """(images [B, S, S, 3] uint8, their positions [B], number) -> images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """The features of a run's images."""

    config: Config
    method: Method
    folder: Path

    def views(self, examples: Examples, variables: Variables) -> Examples:
        """The same examples with features of all views, [n, V, F] float32, for images.

        Args:
          examples: of images.
          variables: parameters and statistics, keyed by network; they may lie on any devices.

        Raises:
          InputError: the folder cannot be written or is too small.
        """
        count = self.config.guidance.views
        return self._with(
            examples, variables, Versions(fields=VIEWS, count=count, of=self._augmented)
        )

    def copies(self, examples: Examples, variables: Variables) -> Examples:
        """The same examples with features [n, M, F] of what `predict_step` would see of an image.

        That is the image and its mirrored copies. Arguments and errors as in `views`.
        """
        count = len(MIRRORS[self.method.sampling.flips])
        return self._with(
            examples, variables, Versions(fields=COPIES, count=count, of=self._mirrored)
        )

    def _augmented(self, images: Array, index: Array, view: Array) -> Array:
        """The images [B, S, S, 3] in one view; the first is the image itself."""
        # Not the run's own seed, so that runs of several seeds share their views.
        key = jax.random.fold_in(run_key(0, Purpose.VIEWS), view)
        augment = transforms.augmenting(self.config.data)
        found: Array = jax.lax.cond(view > 0, augment, lambda x, *_: x, images, index, key)
        return found

    def _mirrored(self, images: Array, index: Array, view: Array) -> Array:
        """One of the copies of the images [B, S, S, 3]; the first is the image itself."""
        del index
        flips = [partial(jnp.flip, axis=axes) for axes in MIRRORS[self.method.sampling.flips]]
        found: Array = jax.lax.switch(view, flips, images)
        return found

    def _with(self, examples: Examples, variables: Variables, versions: Versions) -> Examples:
        own = jax.device_get(of_network(variables, "guidance"))
        path = self.folder / "features" / f"{self._hash(examples, own, versions)}.npy"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not _is_whole(path, len(examples)):
                    self._compute(path, examples, own, versions)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"config.data.cache_dir: {path.parent} cannot be used ({reason}); name another "
                "folder"
            ) from error
        rows = np.arange(len(examples))
        return dataclasses.replace(examples, pixels=CachedPixels(path), rows=rows)

    def _hash(self, examples: Examples, own: Variables, versions: Versions) -> str:
        """Of all that features depend on: fields, weights and pixels."""
        values = flatten(self.config.to_dict())
        depends = {name: values[name] for name in TRUNK + versions.fields}
        facts = VERSION, versions.count, depends
        digest = hashlib.sha256(json.dumps(facts).encode())
        trunk = {kind: tree.get("global_trunk", {}) for kind, tree in own.items()}
        for path, leaf in jax.tree_util.tree_leaves_with_path(trunk):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).data)
        for start in range(0, len(examples), CHUNK):
            positions = np.arange(start, min(start + CHUNK, len(examples)))
            digest.update(np.ascontiguousarray(examples.images(positions)).data)
        return digest.hexdigest()[:32]

    def _compute(self, path: Path, examples: Examples, own: Variables, versions: Versions) -> None:
        """Write the features of all images; the file is whole or absent."""
        count, part, done = len(examples), path.with_suffix(".part"), 0
        log.info("computes features of %d images in %d versions, once", count, versions.count)
        with tqdm(
            total=count, unit="image", desc="features", leave=False, disable=_hidden()
        ) as bar:
            for found in self._chunks(examples, own, versions):
                if not done:
                    array = _opened(part, (count, *found.shape[1:]))
                array[done : done + len(found)] = found
                done += len(found)
                bar.update(len(found))
        array.flush()
        os.replace(part, path)

    def _chunks(
        self, examples: Examples, own: Variables, versions: Versions
    ) -> Generator[np.ndarray, None, None]:
        """Features [n, V, F] of some images after the others."""
        mesh = parallel.own_mesh()
        size, count = parallel.padded_batch_size(mesh, CHUNK), len(examples)
        rows, whole = parallel.split_rows(mesh), parallel.replicated(mesh)
        run = jax.jit(
            partial(self._features, versions.of),
            in_shardings=(whole, rows, rows, whole),
            out_shardings=whole,
        )
        own = jax.device_put(own, whole)
        for start in range(0, count, size):
            index = np.minimum(np.arange(start, start + size, dtype=np.int32), count - 1)
            images = examples.images(index)
            found = [run(own, images, index, np.int32(i)) for i in range(versions.count)]
            yield np.stack(found, axis=1)[: count - start]

    def _features(
        self,
        version: Callable[[Array, Array, Array], Array],
        own: Variables,
        images: Array,
        index: Array,
        number: Array,
    ) -> Array:
        """Features [B, F] float32 of images [B, S, S, 3] uint8 in one version."""
        image = self.method.preprocess.normalise(version(images, index, number))
        variables = {kind: {"guidance": tree} for kind, tree in own.items()}
        features = guide(self.method, variables, Batch(image, index, jnp.ones(len(index)))).features
        assert features is not None, "a plain classifier has features"
        return features.astype(jnp.float32)


def width(method: Method) -> int:
    """F, the number of features of an image."""
    image = jnp.zeros((1, method.image_size, method.image_size, 3))

    def features(key: Array) -> Array | None:
        variables = init_variables(method, key)
        return guide(method, variables, Batch(image, jnp.zeros(1), jnp.ones(1))).features

    found: int = jax.eval_shape(features, jax.random.key(0)).shape[-1]
    return found


class Zeros:
    """Features that are all 0, of the shape of real ones: to measure with."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Of one image: [V, F] or [F]."""
        self._shape = shape

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n] rows -> [n, ...] float32."""
        return np.zeros((len(rows), *self._shape), np.float32)


def of_random_views(
    batches: Generator[Batch, None, None], batching: Batching, seed: int, start_step: int
) -> Generator[Batch, None, None]:
    """Batches with one view of each image, [B, F] from [B, V, F].

    Which one is a pure function of the seed, the step and the row of the whole batch.
    """
    with contextlib.closing(batches):
        for step, batch in enumerate(batches, start_step):
            # Not the numbers that the order of an epoch is made from.
            random = np.random.default_rng((seed, step, 0, 2))
            views = random.integers(batch.image.shape[1], size=batching.batch_size)[batching.rows]
            yield batch._replace(image=batch.image[np.arange(len(views)), views])


def _is_whole(path: Path, count: int) -> bool:
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):  # absent, or damaged
        return False


def _opened(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new file of float32 zeros, whose space is there."""
    check_space(path.parent, 4 * math.prod(shape), "fewer config.guidance.views")
    array: np.memmap = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    reserve(path)
    return array


def _hidden() -> bool | None:
    """None shows a bar on terminals alone."""
    return None if parallel.is_main_process() else True
