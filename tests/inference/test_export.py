from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

from diffmic_jax.cli import main as cli
from diffmic_jax.data.framing import Framing
from diffmic_jax.data.transforms import prepare
from diffmic_jax.inference import calibration, classify, export, exported
from diffmic_jax.inference.classify import classify_exported
from diffmic_jax.inference.exported import ExportedError
from diffmic_jax.inference.load import load
from diffmic_jax.types import Batch
from tests import tiny

# What a server runs: no training stack comes in.
SERVER = """
import sys
import numpy as np
import exported

file, images, out = sys.argv[1:]
classifier = exported.load(file)
image = np.load(images)
found = {str(n): classifier(image[:n])["probabilities"] for n in (1, 3, 8)}
found["later"] = classifier(image[3:])["probabilities"]
alone = {"diffmic_jax", "flax", "optax", "orbax", "grain", "ml_collections", "PIL", "scipy.special"}
assert not alone & set(sys.modules), alone & set(sys.modules)
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def program(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "classifier.stablehlo"
    assert cli.main(["export", f"--workdir={trained}", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    tiny.write_images(folder, 3, seed=9)
    next(folder.rglob("red_02.png")).unlink()
    return folder


@pytest.fixture(scope="module")
def predicted(trained, images, tmp_path_factory) -> np.ndarray:
    out = tmp_path_factory.mktemp("predicted") / "out.csv"
    flags = [f"--workdir={trained}", f"--images={images}", f"--out={out}"]
    assert cli.main(["predict", *flags]) == 0
    columns = range(2, 2 + len(tiny.CLASSES))
    return np.loadtxt(out, delimiter=",", skiprows=1, usecols=columns)


def pixels(folder: Path) -> np.ndarray:
    paths = sorted(folder.rglob("*.png"))
    return np.stack([prepare(np.asarray(Image.open(path)), 32) for path in paths])


def test_a_server_with_jax_alone_predicts_as_predict_does(program, images, predicted, tmp_path):
    np.save(tmp_path / "images.npy", pixels(images))
    shutil.copy(exported.__file__, tmp_path)  # the one file that a server gets of this package
    files = [str(program), "images.npy", "out.npz"]
    subprocess.run([sys.executable, "-c", SERVER, *files], check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        for name, rows in {
            "1": slice(1),
            "3": slice(3),
            "8": slice(8),
            "later": slice(3, 8),
        }.items():
            np.testing.assert_allclose(found[name], predicted[rows], atol=1e-5, err_msg=name)


def test_a_fixed_batch_and_another_sampling(trained, images, tmp_path):
    out = tmp_path / "two.stablehlo"
    flags = [f"--workdir={trained}", f"--out={out}", "--batch=2", "--num_samples=3"]
    assert cli.main(["export", *flags]) == 0
    classifier = exported.load(out)
    found = classifier(pixels(images)[:2])
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        ("probabilities", "spread", "guidance"), (2, 3)
    )
    assert classifier.facts["num_samples"] == 3
    assert "np.repeat(pixels[None], 2, axis=0)" in Path(f"{out}.md").read_text()
    with pytest.raises(
        exported.ExportedError, match=r"uint8\[3, 32, 32, 3\]; give uint8\[2, 32, 32, 3\]"
    ):
        classifier(pixels(images)[:3])


def test_an_exported_program_averages_over_mirrored_copies(trained, images, tmp_path):
    out = tmp_path / "mirrored.stablehlo"
    assert cli.main(["export", f"--workdir={trained}", f"--out={out}", "--flips=horizontal"]) == 0
    found = exported.load(out)(pixels(images))
    model = load(trained, {"sampling.flips": "horizontal"})
    batch = Batch(pixels(images), np.zeros(8, np.int32), np.ones(8, np.float32))
    expected = model.predictor(batch, model.sampling_key)
    assert expected.samples.shape == (8, 4, 3)  # two of each copy
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found["guidance"], expected.guidance, atol=1e-5)
    page = Path(f"{out}.md").read_text()
    assert "sum to 1, mean over the image and its mirror image." in page
    assert "deviation of the 4 samples" in page


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("trim", ["none", "disc"])
def test_the_page_frames_an_image_as_the_package_does(fit, trim):
    pixels = np.random.default_rng(0).integers(60, 256, (20, 30, 3), np.uint8)
    pixels[:3] = 0
    scope = {"image": Image.fromarray(pixels), "Image": Image, "np": np}
    exec(export.SQUARE[trim] + export.SQUARE[fit], scope)
    framed = Framing(fit, trim).frame(pixels)
    side = min(framed.shape[:2])
    top, left = ((length - side) // 2 for length in framed.shape[:2])
    expected = framed[top : top + side, left : left + side]
    np.testing.assert_array_equal(np.asarray(scope["square"]), expected)


def test_what_lies_beside_the_program(program, trained):
    facts = json.loads(Path(f"{program}.json").read_text())
    assert facts["class_names"] == list(tiny.CLASSES)
    assert facts["thresholds"] == []  # it has one label per image
    assert facts["platforms"] == ["cpu", "cuda", "tpu"]
    assert facts["parameters_sha256"] == load(trained).parameters_sha256
    page = Path(f"{program}.md").read_text()
    assert "`image` uint8 [B, 32, 32, 3]" in page
    assert "# Model card: v1 on images" in page
    assert "{" not in page.replace("{name}", "").split("```")[0]
    assert "jax guarantees to read it with releases up\nto six months newer" in page
    assert f"`jax=={jax.__version__}`" in page
    assert f"pip install {exported.NEEDS}`" in page


def test_the_program_does_not_say_where_it_was_made(program):
    text = jax.export.deserialize(bytearray(program.read_bytes())).mlir_module()
    assert "jit(classify)" in text
    assert '.py"' not in text and str(Path(__file__).parents[2]) not in text


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_program_tempers_its_mean_as_an_ensemble_does(multi_label):
    fitted = calibration.Calibration(temperature=2.0, uniform=0.25, multi_label=multi_label)
    p = np.array([[0.7, 0.3], [1.0, 0.0], [0.25, 0.75]])
    found = export._tempered(fitted, jax.numpy.asarray(p))
    np.testing.assert_allclose(found, calibration.tempered(fitted, p), rtol=1e-5)
    np.testing.assert_array_equal(export._tempered(None, p), p)


def test_a_package_that_reading_needs_is_named(program, monkeypatch):
    def missing(data: bytearray) -> None:
        raise ImportError("This module requires the 'flatbuffers' package")

    monkeypatch.setattr(exported.export, "deserialize", missing)
    with pytest.raises(ExportedError, match="needs jax numpy flatbuffers"):
        exported.load(program)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), r"image is float32\[1, 32, 32, 3\]; give uint8"),
        (np.zeros((32, 32, 3), np.uint8), r"give uint8\[B, 32, 32, 3\]"),
        (np.zeros((1, 16, 16, 3), np.uint8), r"give uint8\[B, 32, 32, 3\]"),
    ],
)
def test_a_wrong_input_is_refused(program, image, message):
    with pytest.raises(ExportedError, match=message):
        exported.load(program)(image)


def write_export(out: Path, content: bytes, facts: dict) -> Path:
    """An export with the checksum that fits, as a stranger could write it."""
    out.write_bytes(content)
    facts = facts | {"program_sha256": hashlib.sha256(content).hexdigest()}
    Path(f"{out}.json").write_text(json.dumps(facts))
    return out


def facts_of(program: Path) -> dict:
    return json.loads(Path(f"{program}.json").read_text())


def classifier(image: jax.Array) -> dict[str, jax.Array]:
    """The least that passes for one."""
    p = jax.numpy.zeros((image.shape[0], 3)) + image[:, 0, 0, :] / 255
    return {"guidance": p, "probabilities": p, "spread": p}


def serialized(function, shape=(2, 32, 32, 3), dtype=np.uint8, allowed: tuple[str, ...] = ()):
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in allowed]
    program = jax.export.export(jax.jit(function), disabled_checks=checks)
    return bytes(program(jax.ShapeDtypeStruct(shape, dtype)).serialize())


FACTS = {
    "class_names": ["a", "b", "c"],
    "image_size": 32,
    "batch_size": 2,
    "multi_label": False,
    "thresholds": [],
}


@pytest.mark.parametrize("size", [1, 32])
def test_the_least_classifier_is_taken(tmp_path, size):
    content = serialized(classifier, (2, size, size, 3))
    out = write_export(tmp_path / "x", content, FACTS | {"image_size": size})
    assert exported.load(out)(np.zeros((2, size, size, 3), np.uint8))["spread"].shape == (2, 3)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (lambda image: image.sum(), {}),
        (lambda image: classifier(image) | {"more": image}, {}),
        (lambda image: {name: p[:, :2] for name, p in classifier(image).items()}, {}),
        (classifier, {"shape": (2, 16, 16, 3)}),
        (classifier, {"shape": (4, 32, 32, 3)}),
        (classifier, {"dtype": np.int8}),
    ],
)
def test_another_program_is_refused(tmp_path, function, options):
    out = write_export(tmp_path / "x", serialized(function, **options), FACTS)
    with pytest.raises(
        exported.ExportedError, match="x: (is no classifier as x.json has it|no exported)"
    ):
        exported.load(out)


def test_a_program_that_calls_something_is_refused_by_its_name(tmp_path):
    def calls(image: jax.Array) -> dict[str, jax.Array]:
        def inner(_: int, p: jax.Array) -> jax.Array:
            return jax.ffi.ffi_call("evil", jax.ShapeDtypeStruct(p.shape, p.dtype))(p)

        found = classifier(image)
        return found | {"spread": jax.lax.fori_loop(0, 3, inner, found["spread"])}

    out = write_export(tmp_path / "x", serialized(calls, allowed=("evil",)), FACTS)
    with pytest.raises(
        exported.ExportedError, match="x: wants to call evil, which no exported classifier"
    ):
        exported.load(out)


def test_reading_a_program_that_was_made_to_take_for_ever_ends(tmp_path, monkeypatch):
    out = write_export(tmp_path / "x", serialized(classifier), FACTS)
    monkeypatch.setattr(exported, "SECONDS", 0.001)
    with pytest.raises(exported.ExportedError, match="x: no exported classifier .reading it takes"):
        exported.load(out)


def dies(module: bytes) -> set[str]:
    import os

    os.kill(os.getpid(), 9)
    return {str(module)}


def test_a_reader_that_dies_takes_nothing_with_it(tmp_path, monkeypatch):
    out = write_export(tmp_path / "x", serialized(classifier), FACTS)
    monkeypatch.setattr(exported, "calls", dies)
    with pytest.raises(exported.ExportedError, match="x: no exported classifier .the reader died"):
        exported.load(out)


def test_files_beside_the_caller_are_not_imported(tmp_path, monkeypatch):
    out = write_export(tmp_path / "x", serialized(classifier), FACTS)
    (tmp_path / "jaxlib.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    assert exported.load(out).class_names == ("a", "b", "c")


@pytest.mark.parametrize("kind", ["ordered_effects", "unordered_effects"])
def test_a_program_that_does_more_than_compute_does_not_fit(kind):
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
    program = jax.export.export(jax.jit(classifier))(image)
    assert exported._fits(program, FACTS)
    assert not exported._fits(dataclasses.replace(program, **{kind: ("prints",)}), FACTS)


@pytest.mark.parametrize(
    "changes",
    [
        *({"class_names": x} for x in ([], "abc", [1, 2, 3], None, {"a": 1}, ["a", "b"])),
        *({"image_size": x} for x in (0, -1, 10**9, 32.0, "32", True)),
        *({"batch_size": x} for x in (0, 3, "2")),
        *({"thresholds": x} for x in ([0.5], ["a", "b", "c"], 7, None)),
        *({"multi_label": x} for x in (1, "yes")),
        *({"gray_bits": x} for x in (11, "8", [])),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path, changes):
    content = serialized(classifier)
    out = write_export(tmp_path / "x", content, FACTS | changes)
    with pytest.raises(
        exported.ExportedError, match="x: (is no classifier as x.json has it|no exported)"
    ):
        exported.load(out)
    for text in ("[]", "3", "null", "", "[" * 10**5, '{"class_names": ["a"]}'):
        Path(f"{out}.json").write_text(text)
        with pytest.raises(exported.ExportedError, match="x: no exported classifier"):
            exported.load(out)


def test_every_flipped_bit_and_every_mixture_is_found(tmp_path):
    content = bytearray(serialized(classifier))
    out = write_export(tmp_path / "x", bytes(content), FACTS)
    for place in range(0, len(content), len(content) // 20):
        content[place] ^= 1 << place % 8
        out.write_bytes(content)
        with pytest.raises(exported.ExportedError, match=r"not the program that x\.json describes"):
            exported.load(out)
        content[place] ^= 1 << place % 8
    facts = facts_of(out)
    write_export(out, serialized(lambda image: classifier(image[..., ::-1])), FACTS)
    Path(f"{out}.json").write_text(json.dumps(facts))  # killed before it was written anew
    with pytest.raises(exported.ExportedError, match=r"not the program that x\.json describes"):
        exported.load(out)


def test_a_file_that_is_missing_or_damaged_is_named(program, tmp_path):
    with pytest.raises(ExportedError, match=r"none\.stablehlo\.json: cannot be read"):
        exported.load(tmp_path / "none.stablehlo")
    damaged = tmp_path / "damaged.stablehlo"
    damaged.write_bytes(program.read_bytes()[:1000])
    Path(f"{damaged}.json").write_bytes(Path(f"{program}.json").read_bytes())
    with pytest.raises(ExportedError, match=r"damaged\.stablehlo: no exported classifier"):
        exported.load(damaged)
    write_export(damaged, damaged.read_bytes(), facts_of(program))
    with pytest.raises(exported.ExportedError, match=r"damaged\.stablehlo: no exported classifier"):
        exported.load(damaged)


def test_a_file_that_cannot_be_written_is_named(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out.stablehlo"
    assert cli.main(["export", f"--workdir={trained}", f"--out={out}"]) == 2
    assert f"{out}: cannot be written" in capsys.readouterr().err


class TwoLabels:
    """Stands for an exported program of two labels per image, whose answer is known."""

    facts: ClassVar = {"class_names": ["a", "b"], "multi_label": True, "thresholds": [0.2, 0.6]}
    class_names, image_size, batch_size = ("a", "b"), 4, None

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        p = np.tile([[0.3, 0.5]], (len(image), 1))
        return {"probabilities": p, "spread": 0 * p}


def test_an_exported_program_predicts_by_the_thresholds_of_its_run():
    found = classify_exported(TwoLabels(), {"image": np.zeros((4, 4, 3), np.uint8)})
    assert found.labels == ["a"]  # at 0.5 it would be b


def test_an_open_program_is_asked_for_some_images_at_a_time(monkeypatch):
    monkeypatch.setattr(classify, "MOST_AT_ONCE", 2)
    sizes = []

    class Noted(TwoLabels):
        def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
            sizes.append(len(image))
            p = image.mean(axis=(1, 2, 3))[:, None] / 255 * [1.0, 0.5]
            return {"probabilities": p, "spread": 0 * p}

    images = {str(i): np.full((4, 4, 3), 50 * i, np.uint8) for i in range(5)}
    found = classify_exported(Noted(), images)
    assert sizes == [2, 2, 2]  # the last one filled up
    np.testing.assert_allclose(found.probabilities[:, 0], np.arange(5) * 50 / 255)


def test_the_page_says_what_the_program_leaves_to_its_user(program):
    page = Path(f"{program}.md").read_text()
    assert "ImageOps.exif_transpose" in page and "upright by their EXIF orientation" in page
    assert "The predicted class is that of the largest probability." in page
    assert "are not in the program" in page
    facts = json.loads(Path(f"{program}.json").read_text())
    several = export._readme("x", facts | {"multi_label": True, "gray_bits": 12})
    assert "from its probability in `thresholds` of `x.json` on" in several
    assert "those of more than 8 bits become 8 on the scale 0..4095" in several
