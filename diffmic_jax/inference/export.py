"""A trained workdir as a file that classifies without this package's training stack."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from diffmic_jax.data.files import write_bytes, write_json, write_text
from diffmic_jax.data.framing import Framing
from diffmic_jax.inference.calibration import Calibration
from diffmic_jax.inference.card import COPIES, markdown, model_card, versions
from diffmic_jax.inference.exported import CUSTOM_CALLS, NEEDS, OUTPUTS, calls
from diffmic_jax.inference.joint import NLL_PROBABILITY_FLOOR
from diffmic_jax.inference.load import Model
from diffmic_jax.method.predict_step import fold, predict_step
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.training.workdir import config_sha256
from diffmic_jax.types import Array, Batch

PLATFORMS = ("cpu", "cuda", "tpu")
SQUARE = {
    "none": "",
    "disc": """\
from diffmic_jax.data.framing import bright_box
top, bottom, left, right = bright_box(np.asarray(image))
image = image.crop((left, top, right, bottom))
""",
    "crop": """\
side = min(image.size)
left, top = (image.width - side) // 2, (image.height - side) // 2
square = image.crop((left, top, left + side, top + side))
""",
    "letterbox": """\
side = max(image.size)
square = Image.new("RGB", (side, side))
square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
""",
    "stretch": """\
side = min(image.size)
square = image.resize((side, side), Image.Resampling.BILINEAR)
""",
}
"""`Framing.frame` and the centre square in Python, for the page."""
PREDICTED = {
    False: "The predicted class is that of the largest probability",
    True: "A class is predicted from its probability in `thresholds` of `{name}.json` on; none is "
    "listed where that is 0.5",
}
"""By whether an image has several labels."""
README = """\
# {name}

A classifier of medical images, exported by diffmic_jax {version}. Research software, not a medical
device.

| file | what |
|---|---|
| `{name}` | the program with its weights: StableHLO, serialized by `jax.export`, for {platforms} |
| `{name}.json` | classes, sizes, hashes and versions |
| `{name}.md` | this page and the model card |

Input:

- `image` uint8 [{batch}, {size}, {size}, 3]: RGB; {framed}the centre square, resized to {size} px
  with an antialiased bilinear filter. Photographs are turned upright by their EXIF orientation
  first. Gray images have three equal channels{gray}. No further normalisation.

Outputs, by name:

- `probabilities` float32 [{batch}, {classes}]: of {names}; {meaning}{copies}.
- `spread` float32 [{batch}, {classes}]: standard deviation of the {samples} samples.
- `guidance` float32 [{batch}, {classes}]: probabilities of the guidance network alone.

{predicted}. Prediction sets, and the check whether an image looks like those of the training,
are not in the program: `diffmic predict` with the workdir has them.

It needs `pip install {needs}`, and this package or a copy of its
`diffmic_jax/inference/exported.py`, which imports nothing else:

```python
import numpy as np
from PIL import Image, ImageOps
from diffmic_jax.inference import exported  # beside a copy of the file: import exported

classifier = exported.load("{name}")
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
{square}pixels = np.asarray(square.resize(({size}, {size}), Image.Resampling.BILINEAR))
answer = classifier({example})
print(dict(zip(classifier.class_names, answer["probabilities"][0])))
```

With jax alone:

```python
import jax
program = jax.export.deserialize(bytearray(open("{name}", "rb").read()))
answer = jax.jit(program.call)(image)
```

How long it can be read: it was written with jax {jax}. jax guarantees to read it with releases up
to six months newer than that one, and up to three weeks older. Later releases may or may not; where
it has to run for years, keep `jax=={jax}` and `jaxlib=={jaxlib}` installable, or the workdir, to
export it anew.

"""


def export_model(model: Model, out: Path, *, batch_size: int | None = None) -> None:
    """Write a model as one program for CPU, CUDA and TPU.

    Beside it come its description (`.json`) and a page with inputs, outputs and the model card.

    Args:
      model: of a run.
      out: the file to write.
      batch_size: of every call; None leaves it open, and each size compiles once.

    Raises:
      InputError: a file cannot be written.
    """
    with _nameless():
        program = _program(model, batch_size)
    if beyond := calls(program.mlir_module_serialized) - CUSTOM_CALLS:
        raise RuntimeError(f"the program calls {beyond}, which `exported.load` does not allow")
    content = program.serialize()
    facts = _facts(model, batch_size) | {"program_sha256": hashlib.sha256(content).hexdigest()}
    write_bytes(out, content)
    write_json(out.with_name(f"{out.name}.json"), facts)
    write_text(out.with_name(f"{out.name}.md"), _readme(out.name, facts) + model_card(model))


@contextlib.contextmanager
def _nameless() -> Iterator[None]:
    """Without the lines that an operation was called from: they name folders of this machine."""
    limit = "jax_traceback_in_locations_limit"
    usual = getattr(jax.config, limit)
    jax.config.update(limit, 0)
    try:
        yield
    finally:
        jax.config.update(limit, usual)


def _program(model: Model, batch_size: int | None) -> export.Exported:
    # All with the key of the whole, as it predicts.
    programs = [_member_program(each, model.sampling_key) for each in model.members]
    tempering = model.tempering

    def classify(image: Array) -> Mapping[str, Array]:
        outputs = [program(image) for program in programs]
        if len(outputs) == 1 and not any(tempering):
            return {name: outputs[0][name] for name in OUTPUTS}
        samples = jnp.concatenate([each["samples"] for each in outputs], axis=1)
        names = ("probabilities", "guidance")
        means = {name: jnp.mean(jnp.stack([each[name] for each in outputs]), 0) for name in names}
        scaled = {
            name: _tempered(own, means[name]) for name, own in zip(names, tempering, strict=True)
        }
        return scaled | {"spread": _tempered(tempering.diffusion, samples).std(axis=1)}

    (batch,) = (batch_size,) if batch_size else export.symbolic_shape("b")
    size = model.method.image_size
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    return export.export(jax.jit(classify), platforms=PLATFORMS)(image)


def _tempered(fitted: Calibration | None, probabilities: Array) -> Array:
    """`calibration.tempered`, of jax's arrays."""
    if fitted is None:
        return probabilities
    flat = 0.5 if fitted.multi_label else 1 / probabilities.shape[-1]
    p = (probabilities + fitted.uniform * flat) / (1 + fitted.uniform)
    p = jnp.clip(p, NLL_PROBABILITY_FLOOR, 1 - NLL_PROBABILITY_FLOOR)
    if fitted.multi_label:
        return jax.nn.sigmoid(jax.scipy.special.logit(p) / fitted.temperature)
    return jax.nn.softmax(jnp.log(p) / fitted.temperature, axis=-1)


def _member_program(model: Model, key: Array) -> Callable[[Array], dict[str, Array]]:
    """A function from images to one model's outputs, with its weights as constants."""
    method = model.method
    # From the host: what devices the weights are on now is nothing to the program.
    host = jax.tree.map(np.asarray, model.variables)
    # Folded here, a program need not do it in every call.
    folded = jax.tree.map(np.asarray, jax.jit(partial(fold, method))(host))
    read_out = method.sampling.readout

    def classify(image: Array) -> dict[str, Array]:
        variables = jax.tree.map(jnp.asarray, host)
        rows = jnp.ones(image.shape[:1])
        ready = jax.tree.map(jnp.asarray, folded)
        found = predict_step(method, variables, Batch(image, rows, rows), key, ready)
        return {
            "probabilities": found.probabilities,
            "spread": found.spread,
            "samples": jax.vmap(lambda y0_hat: read_out(y0_hat[None]), 0, 1)(found.y0_hat),
            "guidance": method.task.link.activate(found.guidance.fused),
        }

    return classify


def _facts(model: Model, batch_size: int | None) -> dict[str, Any]:
    sampling = model.method.sampling
    return {
        "batch_size": batch_size,
        **model.task.for_checkpoint(),
        "config_sha256": config_sha256(model.config),
        "flips": sampling.flips,
        "framing": list(Framing.of(model.config.data)),
        "gray_bits": model.config.data.gray_bits,
        "image_size": model.method.image_size,
        "num_samples": sum(each.method.sampling.num_samples for each in model.members),
        "num_steps": sampling.num_steps,
        "parameters_sha256": model.parameters_sha256,
        "platforms": list(PLATFORMS),
        "recipe": model.method.name,
        "step": model.step,
        "thresholds": list(model.calibrations.thresholds[0]),
        "versions": versions(),
    }


def _readme(name: str, facts: dict[str, Any]) -> str:
    batch = facts["batch_size"] or "B"
    one, framing, bits = "pixels[None]", Framing(*facts["framing"]), facts["gray_bits"]
    return README.format(
        name=name,
        version=facts["versions"].get("diffmic_jax", ""),
        jax=facts["versions"]["jax"],
        jaxlib=facts["versions"]["jaxlib"],
        needs=NEEDS,
        platforms=", ".join(facts["platforms"]),
        batch=batch,
        size=facts["image_size"],
        framed=framing.words,
        square=SQUARE[framing.trim] + SQUARE[framing.fit],
        classes=len(facts["class_names"]),
        names=markdown(", ".join(facts["class_names"])),
        gray=f"; those of more than 8 bits become 8 on the scale 0..{2**bits - 1}" if bits else "",
        predicted=PREDICTED[facts["multi_label"]].format(name=name),
        meaning="each class is a question of its own" if facts["multi_label"] else "they sum to 1",
        copies=COPIES[facts["flips"]],
        samples=facts["num_samples"] * len(MIRRORS[facts["flips"]]),
        example=one if facts["batch_size"] in (None, 1) else f"np.repeat({one}, {batch}, axis=0)",
    )
