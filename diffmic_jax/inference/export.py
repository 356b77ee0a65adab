"""A trained workdir as a file that classifies without this package's training stack."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from diffmic_jax.data.files import write_bytes, write_json, write_text
from diffmic_jax.inference.load import Classifier, load_classifier, parameters_sha256
from diffmic_jax.method.train_step import fold, predict_step
from diffmic_jax.inference.card import model_card, versions
from diffmic_jax.training.state import Purpose, run_key
from diffmic_jax.training.workdir import as_json, config_sha256
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

Inputs, in this order:

- `image` uint8 [{batch}, {size}, {size}, 3]: RGB; the centre square, resized to {size} px with an
  antialiased bilinear filter. Gray images have three equal channels. No further normalisation.
- `index` int32 [{batch}]: seeds the random draws of each image. `predict` numbers the images of a
  folder from 0 in the order of their names.

Outputs, by name:

- `probabilities` float32 [{batch}, {classes}]: of {names}; {meaning}
- `spread` float32 [{batch}, {classes}]: standard deviation between the {draws} draws.
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
answer = jax.jit(program.call)(image, index)
```

"""


def export_workdir(
    workdir: Path,
    out: Path,
    *,
    batch_size: int | None = None,
    sampling: dict[str, object] | None = None,
) -> None:
    """Write the best checkpoint of a workdir as one program for CPU, CUDA and TPU.

    Beside it come its description (`.json`) and a page with inputs, outputs and the model card.

    Args:
      workdir: the run's folder.
      out: the file to write.
      batch_size: of every call; None leaves it open, and each size compiles once.
      sampling: fields of `config.sampling` to change; values of None change nothing.

    Raises:
      InputError: the folder holds no checkpoint, the sampling cannot work, or a file cannot be
        written.
    """
    classifier = load_classifier(workdir, sampling)
    program = _program(classifier, batch_size)
    write_bytes(out, program.serialize())
    facts = _facts(classifier, batch_size)
    write_json(out.with_name(f"{out.name}.json"), facts)
    page = _readme(out.name, facts) + model_card(workdir, classifier.meta)
    write_text(out.with_name(f"{out.name}.md"), page)


def _program(classifier: Classifier, batch_size: int | None) -> export.Exported:
    recipe, config = classifier.recipe, classifier.config
    # From the host: what devices the weights are on now is nothing to the program.
    host = jax.tree.map(np.asarray, classifier.variables)
    # Folded here, a program need not do it in every call.
    folded = jax.tree.map(np.asarray, jax.jit(partial(fold, recipe))(host))

    def classify(image: Array, index: Array) -> dict[str, Array]:
        variables = jax.tree.map(jnp.asarray, host)
        rows = jnp.ones(image.shape[:1])
        key = run_key(config.seed, Purpose.SAMPLING)
        ready = jax.tree.map(jnp.asarray, folded)
        answer = predict_step(recipe, variables, Batch(image, rows, rows, index), key, ready)
        return {
            "probabilities": answer.probabilities,
            "spread": answer.spread,
            "guidance": recipe.link.activate(answer.guidance.fused),
        }

    (batch,) = (batch_size,) if batch_size else export.symbolic_shape("b")
    size = recipe.image_size
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    index = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return export.export(jax.jit(classify), platforms=PLATFORMS)(image, index)


def _facts(classifier: Classifier, batch_size: int | None) -> dict[str, Any]:
    sampling = classifier.recipe.sampling
    return {
        "batch_size": batch_size,
        "class_names": list(classifier.class_names),
        "config_sha256": config_sha256(as_json(classifier.config)),
        "image_size": classifier.recipe.image_size,
        "multi_label": classifier.multi_label,
        "num_samples": sampling.num_samples,
        "num_steps": sampling.num_steps,
        "parameters_sha256": parameters_sha256(classifier.variables),
        "platforms": list(PLATFORMS),
        "recipe": classifier.recipe.name,
        "step": classifier.step,
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
        names=", ".join(facts["class_names"]),
        meaning="each class is a question of its own."
        if facts["multi_label"]
        else "they sum to 1.",
        draws=facts["num_samples"],
        example=one if facts["batch_size"] in (None, 1) else f"np.repeat({one}, {batch}, axis=0)",
    )
