"""Exported classifiers: load one and classify with it.

An export is a program that `jax.export` wrote (StableHLO, weights included), with a description
beside it: `F` and `F.json`. This file may be copied: it needs jax, numpy and flatbuffers, and
nothing of this package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

NEEDS = "jax numpy flatbuffers"
"""The packages that reading an export takes; jax does not declare the last."""


class ExportedError(ValueError):
    """A file or an image cannot be used; the message is one line that names it and the fix."""


def load(path: str | Path) -> Exported:
    """The classifier of an exported file.

    Raises:
      ExportedError: the file or its description is missing or damaged.
    """
    path = Path(path)
    description = path.with_name(f"{path.name}.json")
    try:
        facts = json.loads(description.read_text(encoding="utf-8"))
        program = export.deserialize(bytearray(path.read_bytes()))
    except ImportError as error:
        raise ExportedError(f"{path}: reading it needs {NEEDS} ({error}); install them") from error
    except OSError as error:
        raise ExportedError(
            f"{error.filename}: cannot be read ({error.strerror}); an export is {path.name} and "
            f"{description.name}, side by side"
        ) from error
    except Exception as error:  # a damaged program fails in many ways
        reason = " ".join(str(error).split())[:100]
        raise ExportedError(f"{path}: no exported classifier ({reason}); export it anew") from error
    if len(program.in_avals) != 1:
        raise ExportedError(f"{path}: was exported by an older version; export it anew")
    return Exported(facts, program)


class Exported:
    """A classifier without its training stack; call it with images."""

    def __init__(self, facts: dict[str, Any], program: export.Exported) -> None:
        """Use `load`."""
        self.facts = facts
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        self.image_size: int = facts["image_size"]
        self.batch_size: int | None = facts["batch_size"]
        # Compiled once per batch size.
        self._call = jax.jit(program.call)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Classify images; equal images get equal results, whatever they are classified with.

        Args:
          image: [B, S, S, 3] uint8, RGB, centre square, resized to S = `image_size`.

        Returns:
          `probabilities` [B, C], `spread` [B, C] (standard deviation between the samples) and
          `guidance` [B, C] (probabilities of the guidance network alone).

        Raises:
          ExportedError: for images of another shape or type.
        """
        image = np.asarray(image)
        batch = "B" if self.batch_size is None else self.batch_size
        size = (self.image_size, self.image_size, 3)
        fits = image.ndim == 4 and image.shape[1:] == size and image.dtype == np.uint8
        if not fits or len(image) != (self.batch_size or max(len(image), 1)):
            raise ExportedError(
                f"image is {image.dtype}{list(image.shape)}; give uint8[{batch}, {size[0]}, "
                f"{size[1]}, 3]"
            )
        found = self._call(image)
        return {name: np.asarray(value) for name, value in found.items()}
