"""Files from strangers, for `scripts/fuzz` and test_fuzz: valid ones, damaged ones, hostile ones.

A target takes bytes to a reader of this package. It may succeed or raise an `InputError` of one
line; anything else is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
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
from tests.inference.test_export import FACTS, classifier, serialized, write_export
from tests.nn.test_torch_files import NUMBERS, STATE, archived, written

Content = st.SearchStrategy[bytes]
HOSTILE = (
    *("", "=cmd|' /C calc'!A0", "../../etc/passwd", "/etc/passwd", "a\r\nb", "\u202e", "$x^$"),
    *("nan", "-1", "1e999", "9" * 5000, "a|b", "'", '"', "\0", "<script>", "\u00e9", "e\u0301"),
)
NUMBERS_OF_SIZE = (
    0,
    1,
    -1,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63,
    2**64,
    10**30,
)


def json_values() -> st.SearchStrategy[Any]:
    """Anything that JSON can hold."""
    leaves = (
        st.none()
        | st.booleans()
        | st.sampled_from(NUMBERS_OF_SIZE)
        | st.floats(allow_nan=True)
        | st.sampled_from(HOSTILE)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*HOSTILE, "a", "class_names"]), inner, max_size=4)
        ),
        max_leaves=8,
    )


@st.composite
def damaged(draw: Any, bases: tuple[bytes, ...]) -> bytes:
    """A file with bytes changed, cut out, repeated or put in; often a number, as of a size."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64)))
        kind = draw(st.sampled_from(("flip", "number", "cut", "repeat", "end", "put")))
        if kind == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "number":
            order = draw(st.sampled_from(("little", "big")))
            number = draw(st.sampled_from(NUMBERS_OF_SIZE)) % 2 ** (8 * length)
            data[place : place + length] = number.to_bytes(length, order)
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.integers(1, 50))
        elif kind == "end":
            del data[place:]
        else:
            data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def changed_json(draw: Any, base: dict[str, Any]) -> bytes:
    """A JSON object with values at any depth changed or left out."""
    found = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(0, 3))):
        inside = found
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and draw(st.booleans()):
                inside = inside[key]
                continue
            if draw(st.integers(0, 3)):
                inside[key] = draw(json_values())
            else:
                del inside[key]
            break
    return json.dumps(draw(st.sampled_from([found, found, found, draw(json_values())]))).encode()


@st.composite
def tables(draw: Any) -> bytes:
    """Tables of labels, more or less."""
    cells = st.sampled_from((*HOSTILE, "a.png", "b.png", "c/d.png", "x", "y", "0", "1", "2", "1.0"))
    columns = st.sampled_from(("image", "label", "split", "group", "x", "y", "male", *HOSTILE))
    header = draw(st.lists(columns, min_size=1, max_size=5))
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=8))
    separator = draw(st.sampled_from(",;\t|"))
    quoted = [[f'"{c}"' if draw(st.booleans()) else c for c in row] for row in [header, *rows]]
    text = draw(st.sampled_from(("\n", "\r\n", "\r"))).join(map(separator.join, quoted))
    encoding = draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")))
    return text.encode(encoding, "replace")


@st.composite
def safetensors(draw: Any) -> bytes:
    """Headers with shapes, types and offsets of any kind."""
    number = st.sampled_from((*NUMBERS_OF_SIZE, 2, 4, 6, 8, 24))
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(("F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X")),
            "shape": st.lists(number, max_size=4),
            "data_offsets": st.lists(number, min_size=2, max_size=2),
        }
    )
    names = st.sampled_from(("w", "__metadata__", *HOSTILE))
    header = draw(st.dictionaries(names, entry | json_values(), max_size=4))
    text = json.dumps(header).encode()
    size = draw(st.sampled_from((len(text), len(text), len(text), *NUMBERS_OF_SIZE))) % 2**64
    return struct.pack("<Q", size) + text + bytes(draw(st.sampled_from((0, 24, 1000))))


def pickles() -> Content:
    """Instructions of pickles in any order, with arguments of any size."""
    whole = st.sampled_from([bytes([code]) for code in range(0x28, 0x98)])
    long = st.sampled_from(
        [
            *(b"r" + struct.pack("<I", n % 2**32) for n in NUMBERS_OF_SIZE),
            *(b"X" + struct.pack("<I", n % 2**32) for n in NUMBERS_OF_SIZE),
            *(b"\x96" + struct.pack("<Q", n % 2**64) for n in NUMBERS_OF_SIZE),
            *(b"\x8e" + struct.pack("<Q", n % 2**64) for n in NUMBERS_OF_SIZE),
            b"cos\nsystem\n",
            b"cnumpy\ndtype\n",
            b"X\x01\0\0\0a",
            b"(lp0\n",
        ]
    )
    return st.lists(whole | long, max_size=30).map(
        lambda parts: b"\x80\x04" + b"".join(parts) + b"."
    )


class Target(NamedTuple):
    """A reader and what it gets."""

    contents: Content
    read: Callable[[Path, bytes], object]
    """Takes an empty folder and the file's content."""


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

    from tests.data.test_dicom import dicom, dump

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


def _prepared(folder: Path, content: bytes) -> object:
    for name in ("features", "dataset_info", "metadata"):
        (folder / f"{name}.json").write_bytes(content)
    archives.open_prepared(folder)
    return archives.check_prepared(folder)


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
CALIBRATED = {
    "diffusion": {"temperature": 1.0, "uniform": 0.0, "multi_label": False, "scores": [0.1]},
    "guidance": None,
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
    detector = _npz(step=np.array(3), features=np.ones((3, 4), np.float32), threshold=np.array(0.5))
    return {
        "tables": Target(tables() | damaged((LABELS,)), _table),
        "lists": Target(
            damaged(several) | pickles(), _in("a.pkl", lambda path: lists.read_list(path, "train"))
        ),
        "pictures": Target(
            damaged(_pictures()), lambda _, content: images.decode(io.BytesIO(content), "x", 10**6)
        ),
        "dicom": Target(
            damaged(_dicoms()),
            lambda _, content: images.decode(io.BytesIO(content), "x.dcm", 10**6),
        ),
        "safetensors": Target(
            safetensors() | damaged((tensors,)), _in("w.safetensors", state_dict.read)
        ),
        "torch": Target(damaged(torch_files) | pickles(), _in("w.pth", state_dict.read)),
        "npz": Target(damaged(_npzs()), _in("x.npz", _npz_labels)),
        "config": Target(
            changed_json(CONFIG.to_dict()),
            _in("config.json", lambda path: check_workdir(path.parent, CONFIG)),
        ),
        "calibration": Target(
            changed_json(CALIBRATED),
            _in(calibration.FILE, lambda path: calibration.read(path.parent, 3, CONFIG.sampling)),
        ),
        "detector": Target(
            damaged((detector,)), _in(ood.FILE, lambda path: ood.read(path.parent, 3))
        ),
        "evaluations": Target(damaged((PREDICTIONS,)), _evaluation),
        "prepared": Target(changed_json(METADATA), _prepared),
        "descriptions": Target(changed_json(FACTS), _description),
        "programs": Target(
            damaged((PROGRAM,)),
            lambda folder, content: exported.load(write_export(folder / "x", content, FACTS)),
        ),
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
