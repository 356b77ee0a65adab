"""Small folders and tables of images, and what was found in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from diffmic_jax.data import sources
from diffmic_jax.data.sources import Source


def write_image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_folders(root: Path, count: int = 10, classes: str = "ab") -> Path:
    for name in classes:
        for i in range(count):
            write_image(root / name / f"{i}.png")
    return root


def write_table(root: Path, header: str, rows: list[str]) -> Path:
    """A folder of images 0.png, 1.png, ... and a CSV whose rows begin with the image's number."""
    for row in rows:
        write_image(root / "images" / f"{row.split(',')[0]}.png")
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    return root


def ids(source: Source, part: str) -> list[str]:
    return [record.id for record in source.splits[part]]


def sizes(source: Source) -> list[int]:
    return [len(source.splits[part]) for part in sources.PARTS]


def grouped_table(root: Path) -> Path:
    """60 images of 20 groups of one class each, split so that every group is in both parts."""
    rows = [f"{i},{i // 3 % 2},{'test' if i % 3 == 0 else 'train'},g{i // 3}" for i in range(60)]
    return write_table(root, "image,label,split,group", rows)


def groups_of(source: Source) -> list[set[str]]:
    return [{record.group for record in source.splits[part]} for part in sources.PARTS]
