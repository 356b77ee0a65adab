"""Files from strangers, for `scripts/fuzz` and test_fuzz: valid ones, damaged ones, hostile ones.

A target takes bytes to a reader of this package. It may succeed or raise an `InputError` of one
line; anything else is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import save

from diffmic_jax import recipes
from diffmic_jax.config import Data
from diffmic_jax.data import archives, images, lists
from diffmic_jax.data.sources import open_source
from diffmic_jax.errors import InputError
from diffmic_jax.evaluation import compare
from diffmic_jax.inference import calibration, exported, ood
from diffmic_jax.nn import state_dict
from diffmic_jax.training.workdir import check_workdir
from tests.data.test_archives import FEATURES, INFO
from tests.hostile import Content, changed_json, damaged, pickles, safetensors, tables
from tests.inference.test_export import FACTS, classifier, serialized, write_export
from tests.nn.test_torch_files import NUMBERS, STATE, archived, written

Read = Callable[[Path, bytes], object]
"""Takes an empty folder and a file's content."""


class Target(NamedTuple):
    """A reader and what it gets."""

    valid: tuple[bytes, ...]
    """Files that it reads: what is refused at the door tells nothing of the rooms behind."""
    contents: Content
    read: Read


def of_bytes(valid: tuple[bytes, ...], read: Read, others: Content | None = None) -> Target:
    """A reader of valid files with some of their bytes changed, or of others."""
    return Target(valid, damaged(valid) if others is None else damaged(valid) | others, read)


def of_json(valid: dict[str, Any], read: Read) -> Target:
    """A reader of a JSON object with some of its values changed."""
    return Target((json.dumps(valid).encode(),), changed_json(valid), read)


def _save(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def _pictures() -> tuple[bytes, ...]:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    gray = (rgb[..., 0].astype(np.uint16) * 16, rgb[..., 0])
    kinds = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
    return (*(_save(rgb, kind) for kind in kinds), *(_save(each, "TIFF") for each in gray))


def _dicoms() -> tuple[bytes, ...]:
    from pydicom import uid

    from tests.data.dicoms import dicom, dump

    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    window = {"WindowCenter": 30, "WindowWidth": 20, "RescaleSlope": 2, "RescaleIntercept": -5}
    big = dicom(pixels, syntax=uid.ImplicitVRLittleEndian, **window)
    return dump(dicom(pixels)), dump(big), dump(dicom(np.zeros((8, 8, 3), np.uint8), "RGB"))


def _npz(packed: bool = False, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def _npzs() -> tuple[bytes, ...]:
    parts = {
        f"{part}_{what}": np.zeros((4, *shape), np.uint8)
        for part in archives.NPZ_PARTS
        for what, shape in (("images", (8, 8)), ("labels", (1,)))
    }
    parts["train_labels"][1:] = 1
    return _npz(**parts), _npz(True, **parts)


def _in(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """A reader of a file of this name."""

    def run(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return run


def _table(folder: Path, content: bytes) -> object:
    for name in ("a.png", "b.png", "c/d.png", *(f"{i}.png" for i in range(12))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "labels.csv").write_bytes(content)
    found = []
    for several in (False, True):
        data = Data(name="x", root=str(folder), labels="labels.csv", multi_label=several)
        with contextlib.suppress(InputError):
            source = open_source(data)
            assert all(Path(r.path).resolve().is_relative_to(folder) for r in source.records)
            found.append(source)
    if not found:
        raise InputError("neither")
    return found


def _npz_labels(path: Path) -> object:
    layout = archives.open_npz(path, "mine")
    return [layout.read(record) for record in layout.parts["train"]]


def _prepared(name: str) -> Read:
    """Of one of the two files that say what a prepared data set holds and where."""

    def read(folder: Path, content: bytes) -> object:
        for each, valid in (("features", FEATURES), ("dataset_info", INFO)):
            (folder / f"{each}.json").write_text(json.dumps(valid))
        (folder / f"{name}.json").write_bytes(content)
        return archives.check_prepared(folder)

    return read


def _description(folder: Path, content: bytes) -> object:
    write_export(folder / "x", PROGRAM, FACTS)
    with contextlib.suppress(ValueError, TypeError):
        found = json.loads(content)
        sha256 = json.loads((folder / "x.json").read_text())["program_sha256"]
        content = json.dumps(found | {"program_sha256": sha256}).encode()
    (folder / "x.json").write_bytes(content)
    return exported.load(folder / "x")


def _evaluation(folder: Path, content: bytes) -> object:
    (folder / "metrics.json").write_bytes(b"{}")
    return _in("predictions.csv", compare.read_predictions)(folder, content)


LABELS = "\n".join(["image,label", *(f"{i}.png,{'xy'[i % 2]}" for i in range(12))]).encode()
PROGRAM = serialized(classifier)
CONFIG = recipes.get("v1")
PREDICTIONS = b"id,label,prediction,prob_a,prob_b,confidence\n1,a,a,0.5,0.5,0\n2,b,a,0.5,0.5,0\n"
FITTED = {"temperature": 1.0, "uniform": 0.0, "multi_label": False, "scores": [0.1]}
CALIBRATED = {
    "diffusion": FITTED,
    "guidance": FITTED,
    "step": 3,
    "sampling": calibration._as_json(CONFIG.sampling),
}
METADATA = {
    "class_names": ["a", "b"],
    "multi_label": False,
    "records": {"train": [["1", 0, ""], ["2", 1, ""]]},
    "authors": {},
}
ENTRIES = [{"img_root": "a.png", "label": 1}, {"img_root": "b.png", "label": np.int64(0)}]


def targets() -> dict[str, Target]:
    """All, by name."""
    torch_files = (*(make(STATE, NUMBERS) for make in (written, archived)),)
    tensors = save({"w": np.zeros((2, 3), np.float32)})
    several = tuple(pickle.dumps(ENTRIES, protocol) for protocol in range(6))
    line = np.ones(4, np.float32)
    parts = {"features": np.ones((3, 4), np.float16), "centre": line, "scale": line}
    detector = _npz(step=np.array(3), threshold=np.array(0.5), **parts)

    def decoded(name: str) -> Read:
        return lambda _, content: images.decode(io.BytesIO(content), name, 10**6)

    def exported_program(folder: Path, content: bytes) -> object:
        return exported.load(write_export(folder / "x", content, FACTS))

    def tempered(path: Path) -> object:
        return calibration.read(path.parent, 3, CONFIG.sampling)

    state = _in("w.pth", state_dict.read)
    metadata = _in("metadata.json", lambda path: archives.open_prepared(path.parent))
    return {
        "tables": of_bytes((LABELS,), _table, tables()),
        "lists": of_bytes(
            several, _in("a.pkl", lambda path: lists.read_list(path, "train")), pickles()
        ),
        "pictures": of_bytes(_pictures(), decoded("x")),
        "dicom": of_bytes(_dicoms(), decoded("x.dcm")),
        "safetensors": of_bytes((tensors,), _in("w.safetensors", state_dict.read), safetensors()),
        "torch": of_bytes(torch_files, state, pickles()),
        "npz": of_bytes(_npzs(), _in("x.npz", _npz_labels)),
        "config": of_json(
            CONFIG.to_dict(), _in("config.json", lambda path: check_workdir(path.parent, CONFIG))
        ),
        "calibration": of_json(CALIBRATED, _in(calibration.FILE, tempered)),
        "detector": of_bytes((detector,), _in(ood.FILE, lambda path: ood.read(path.parent, 3))),
        "evaluations": of_bytes((PREDICTIONS,), _evaluation),
        "metadata": of_json(METADATA, metadata),
        "features": of_json(FEATURES, _prepared("features")),
        "info": of_json(INFO, _prepared("dataset_info")),
        "descriptions": of_json(FACTS, _description),
        "programs": of_bytes((PROGRAM,), exported_program),
    }


def run(target: Target, content: bytes) -> str:
    """'accepted' or 'refused'.

    Raises:
      Exception: it is a fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            target.read(Path(folder).resolve(), content)
        except (InputError, exported.ExportedError) as error:
            assert 0 < len(str(error)) < 5000, "a message without an end"
            return "refused"
    return "accepted"
