"""A plain fine-tuning of the same weights in PyTorch, in given minutes, to compare `fit` with.

    diffmic fit photos --minutes=20 --out=runs/photos
    TORCH_PYTHON benchmarks/torch_finetune.py --split=runs/photos/split.csv --root=photos \
        --weights=efficientnet-lite0-57934424.pth --minutes=20 --out=runs/photos-torch \
        --classes benign malignant
    diffmic compare runs/photos/eval/test runs/photos-torch

What a tutorial does: AdamW, one cycle of the rate, horizontal flips and random crops, one network
of all training images, the last step. It needs torch, numpy and Pillow, and the split that `fit`
has written. A folder with `predictions.csv` comes out, which `diffmic compare` and
`evaluation.metrics` read. With `--several` an image has any number of labels.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch_lite0 import network

MEAN, SCALE = 127.0, 128.0
TRAINING = 0.97
"""Of the time, what is for training; the rest predicts the test part."""
TICKS = 10_000
"""Parts of the cycle of the rate, which follows the clock."""


def main() -> None:
    """Read, train, predict."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("split", "root", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", nargs="+", required=True, help="in the order of the labels")
    parser.add_argument("--several", action="store_true", help="labels are lists as 'a|b'")
    args = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(args.seed)
    with args.split.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = args.classes
    # The validation part is training for a network that chooses nothing.
    train = [row for row in rows if row["split"] != "test"]
    test = [row for row in rows if row["split"] == "test"]
    images, tests = (_read(args.root, part, args.size) for part in (train, test))
    labels = _labels([row["label"] for row in train], names, args.several)
    net = network(str(args.weights), len(names)).to(memory_format=torch.channels_last)
    left = args.minutes * 60 - (time.monotonic() - began)
    _train(net, images, labels, args, max(1.0, TRAINING * left - 5))
    _write(args.out, test, names, _predict(net, tests, args.several))
    print(json.dumps({"minutes": round((time.monotonic() - began) / 60, 2), **vars_of(args)}))


def vars_of(args: argparse.Namespace) -> dict[str, str]:
    """The arguments for the record."""
    return {name: str(value) for name, value in vars(args).items()}


def _read(root: Path, rows: list[dict[str, str]], size: int) -> torch.Tensor:
    """Centre squares [N, 3, S, S] uint8."""
    files = [path for path in root.rglob("*") if path.is_file()]
    # An image is known by its path, or by its name where that is all the labels have.
    places = {path.stem: path for path in files} | {path.name: path for path in files}
    places |= {str(path.relative_to(root)): path for path in files}
    found = np.empty((len(rows), size, size, 3), np.uint8)
    for i, row in enumerate(rows):
        image = Image.open(places[row["image"]]).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        found[i] = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()


def _labels(texts: list[str], names: list[str], several: bool) -> torch.Tensor:
    """Indices [N], or with several labels zeros and ones [N, C]."""
    if not several:
        return torch.tensor([names.index(text) for text in texts])
    return torch.tensor([[float(name in text.split("|")) for name in names] for text in texts])


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """Flipped at random, and shifted by up to an eighth of the side."""
    flip = torch.rand(len(images)) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    pad = images.shape[-1] // 8
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
    side = images.shape[-1]
    return padded[:, :, top : top + side, left : left + side]


def _input(images: torch.Tensor) -> torch.Tensor:
    return ((images.float() - MEAN) / SCALE).contiguous(memory_format=torch.channels_last)


def _train(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    args: argparse.Namespace,
    seconds: float,
) -> None:
    """As many steps as fit, with one cycle of the rate over the time that they may take."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=TICKS)
    loss = F.binary_cross_entropy_with_logits if args.several else F.cross_entropy
    net.train()
    steps, queue = 0, torch.empty(0, dtype=torch.long)
    began = time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1:
        while cycle.last_epoch < int(share * (TICKS - 1)):
            cycle.step()
        if len(queue) < args.batch:
            queue = torch.randperm(len(labels))
        picked, queue = queue[: args.batch], queue[args.batch :]
        optimizer.zero_grad()
        logits = net(_input(_augmented(images[picked].float())))
        loss(logits, labels[picked]).backward()
        optimizer.step()
        steps += 1
    print(f"{steps} steps, {steps * args.batch / len(labels):.1f} epochs")


@torch.no_grad()
def _predict(net: torch.nn.Module, images: torch.Tensor, several: bool) -> np.ndarray:
    net.eval()
    logits = torch.cat([net(_input(part)) for part in images.split(64)])
    return (logits.sigmoid() if several else logits.softmax(dim=1)).numpy()


def _write(out: Path, rows: list[dict[str, str]], names: list[str], p: np.ndarray) -> None:
    """`predictions.csv`, what a comparison reads of it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *(f"prob_{name}" for name in names)])
        for row, own in zip(rows, p.tolist(), strict=True):
            writer.writerow([row["image"], row["label"], *own])


if __name__ == "__main__":
    main()
