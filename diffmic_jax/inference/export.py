"""A trained workdir as a file that classifies without this package's training stack."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from diffmic_jax.data.files import write_bytes, write_json, write_text
from diffmic_jax.inference.card import COPIES, markdown, model_card, versions
from diffmic_jax.inference.exported import CUSTOM_CALLS, calls
from diffmic_jax.inference.load import Model
from diffmic_jax.method.predict_step import fold, predict_step
from diffmic_jax.method.sampling import MIRRORS
from diffmic_jax.training.workdir import config_sha256
from diffmic_jax.types import Array, Batch

PLATFORMS = ("cpu", "cuda", "tpu")
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

- `image` uint8 [{batch}, {size}, {size}, 3]: RGB; the centre square, resized to {size} px with an
  antialiased bilinear filter. Gray images have three equal channels. No further normalisation.

Outputs, by name:

- `probabilities` float32 [{batch}, {classes}]: of {names}; {meaning}{copies}.
- `spread` float32 [{batch}, {classes}]: standard deviation of the {samples} samples.
- `guidance` float32 [{batch}, {classes}]: probabilities of the guidance network alone.

With this package (its loader needs only jax and numpy):

```python
import numpy as np
from PIL import Image
from diffmic_jax.inference import exported

classifier = exported.load("{name}")
image = Image.open("image.png").convert("RGB")
side = min(image.size)
left, top = (image.width - side) // 2, (image.height - side) // 2
square = image.crop((left, top, left + side, top + side))
pixels = np.asarray(square.resize(({size}, {size}), Image.Resampling.BILINEAR))
answer = classifier({example})
print(dict(zip(classifier.class_names, answer["probabilities"][0])))
```

With jax alone:

```python
import jax
program = jax.export.deserialize(bytearray(open("{name}", "rb").read()))
answer = jax.jit(program.call)(image)
```

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
    program = _program(model, batch_size)
    if beyond := calls(program.mlir_module_serialized) - CUSTOM_CALLS:
        raise RuntimeError(f"the program calls {beyond}, which `exported.load` does not allow")
    content = program.serialize()
    facts = _facts(model, batch_size) | {"program_sha256": hashlib.sha256(content).hexdigest()}
    write_bytes(out, content)
    write_json(out.with_name(f"{out.name}.json"), facts)
    write_text(out.with_name(f"{out.name}.md"), _readme(out.name, facts) + model_card(model))


def _program(model: Model, batch_size: int | None) -> export.Exported:
    method = model.method
    # From the host: what devices the weights are on now is nothing to the program.
    host = jax.tree.map(np.asarray, model.variables)
    # Folded here, a program need not do it in every call.
    folded = jax.tree.map(np.asarray, jax.jit(partial(fold, method))(host))

    def classify(image: Array) -> dict[str, Array]:
        variables = jax.tree.map(jnp.asarray, host)
        rows = jnp.ones(image.shape[:1])
        ready = jax.tree.map(jnp.asarray, folded)
        found = predict_step(method, variables, Batch(image, rows, rows), model.sampling_key, ready)
        return {
            "probabilities": found.probabilities,
            "spread": found.spread,
            "guidance": method.task.link.activate(found.guidance.fused),
        }

    (batch,) = (batch_size,) if batch_size else export.symbolic_shape("b")
    size = method.image_size
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    return export.export(jax.jit(classify), platforms=PLATFORMS)(image)


def _facts(model: Model, batch_size: int | None) -> dict[str, Any]:
    sampling = model.method.sampling
    return {
        "batch_size": batch_size,
        **model.task.for_checkpoint(),
        "config_sha256": config_sha256(model.config),
        "flips": sampling.flips,
        "gray_bits": model.config.data.gray_bits,
        "image_size": model.method.image_size,
        "num_samples": sampling.num_samples,
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
    one = "pixels[None]"
    return README.format(
        name=name,
        version=facts["versions"].get("diffmic_jax", ""),
        platforms=", ".join(facts["platforms"]),
        batch=batch,
        size=facts["image_size"],
        classes=len(facts["class_names"]),
        names=markdown(", ".join(facts["class_names"])),
        meaning="each class is a question of its own" if facts["multi_label"] else "they sum to 1",
        copies=COPIES[facts["flips"]],
        samples=facts["num_samples"] * len(MIRRORS[facts["flips"]]),
        example=one if facts["batch_size"] in (None, 1) else f"np.repeat({one}, {batch}, axis=0)",
    )
