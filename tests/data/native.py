"""Tiny data sets in exactly the layout in which the real ones are distributed."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 40


def picture(path: Path, label: int, seed: int, mode: str = "RGB") -> None:
    """An image of noise whose brightness depends on the label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 90, (SIDE, SIDE + 8, 3), np.uint8)
    Image.fromarray(pixels + np.uint8(20 * label)).convert(mode).save(path)


def write_ham10000(root: Path, count: int = 42) -> None:
    """JPEGs, a one-hot table, and metadata in which a lesion has up to two images."""
    names = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")
    hot, metadata = [], []
    for i in range(count):
        image, label = f"ISIC_{24306 + i:07d}", i % 7
        picture(root / "images" / f"{image}.jpg", label, i)
        hot.append([image, *(float(label == c) for c in range(7))])
        lesion = f"HAM_{(i // 7 // 2) * 7 + label:07d}"
        metadata.append([lesion, image, names[label], "histo", "80.0", "male", "scalp"])
    columns = ["image", *(name.upper() for name in names)]
    _table(root / "ISIC2018_Task3_Training_GroundTruth.csv", columns, hot)
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    _table(root / "HAM10000_metadata.csv", columns, metadata)


def write_aptos2019(root: Path, count: int = 40) -> None:
    """PNGs named by code, and their grades."""
    rows = []
    for i in range(count):
        code = f"{i * 2654435761 % 2**32:012x}"
        picture(root / "train_images" / f"{code}.png", i % 5, i)
        rows.append([code, i % 5])
    _table(root / "train.csv", ["id_code", "diagnosis"], rows)


def radiograph(path: Path, found: np.ndarray, seed: int, side: int) -> None:
    """A gray image of noise with a bright spot for each finding, in a place of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (side, side))
    cell = side // 4
    for finding in found:
        top, left = (cell * i + rng.integers(0, cell // 2) for i in divmod(int(finding), 4))
        pixels[top : top + cell // 2, left : left + cell // 2] += 120
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_chestxray14(root: Path, patients: int = 16, side: int = SIDE) -> None:
    """Gray PNGs in numbered folders, the table with its trailing comma, and the official lists."""
    from diffmic_jax.data.catalog import FINDINGS

    rng = np.random.default_rng(0)
    rows, train, test = [], [], []
    for patient in range(1, patients + 1):
        for follow_up in range(3):
            name = f"{patient:08d}_{follow_up:03d}.png"
            found = np.flatnonzero(rng.random(14) < 0.25)
            labels = "|".join(FINDINGS[i] for i in found) or "No Finding"
            folder = f"images_{patient % 2 + 1:03d}"
            radiograph(root / folder / "images" / name, found, 3 * patient + follow_up, side)
            age, size = f"{40 + patient:03d}Y", ["2682", "2749", "0.143", "0.143", ""]
            rows.append([name, labels, f"{follow_up:03d}", patient, age, "M", "PA", *size])
            (test if patient % 3 == 0 else train).append(name)
    columns = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age"]
    columns += ["Patient Gender", "View Position", "OriginalImage[Width", "Height]"]
    columns += ["OriginalImagePixelSpacing[x", "y]", ""]
    _table(root / "Data_Entry_2017.csv", columns, rows)
    (root / "train_val_list.txt").write_text("\n".join(train))
    (root / "test_list.txt").write_text("\n".join(test))


def findings(root: Path) -> dict[str, set[str]]:
    """The findings of each image in the table."""
    with (root / "Data_Entry_2017.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["Image Index"]: set(row["Finding Labels"].split("|")) - {"No Finding"} for row in rows
    }


def write_pmg2000(root: Path, *, as_lists: bool, count: int = 24) -> None:
    """A folder per grade, or lists with paths of another machine and all images in one folder."""
    entries = []
    for i in range(count):
        grade = i % 4
        folder = "images" if as_lists else f"grade{grade}"
        picture(root / folder / f"{i:04d}.jpg", grade, i, "L")
        entries.append({"img_root": f"/home/them/PMG2000/{i:04d}.jpg", "label": grade})
    if as_lists:
        (root / "train.pkl").write_bytes(pickle.dumps(entries[:-8]))
        (root / "test.pkl").write_bytes(pickle.dumps(entries[-8:]))


def write_medmnist(
    path: Path,
    num_classes: int,
    *,
    size: int = 28,
    multi_label: bool = False,
    compress: bool = True,
) -> None:
    """An NPZ with MedMNIST's six arrays; gray unless there are seven classes."""
    rng = np.random.default_rng(size)
    arrays = {}
    for part, count in (("train", 32), ("val", 10), ("test", 14)):
        label = (np.arange(count)[:, None] % num_classes).astype(np.uint8)
        if multi_label:
            label = rng.integers(0, 2, (count, num_classes), np.uint8)
            label[0], label[1] = 0, 1
        shape = (count, size, size, 3) if num_classes == 7 else (count, size, size)
        pixels = rng.integers(0, 90, shape) + 10 * label[:, :1].reshape(-1, *[1] * (len(shape) - 1))
        arrays |= {f"{part}_images": pixels.astype(np.uint8), f"{part}_labels": label}
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compress else np.savez)(path, **arrays)


def _table(path: Path, columns: list[str], rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
