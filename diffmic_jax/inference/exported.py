"""Exported classifiers: load one and classify with it.

An export is a program that `jax.export` wrote (StableHLO, weights included), with a description
beside it: `F` and `F.json`. This file may be copied: it needs jax, numpy and flatbuffers, and
nothing of this package.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

NEEDS = "jax numpy flatbuffers"
"""The packages that reading an export takes; jax does not declare the last."""
CUSTOM_CALLS = frozenset({"shape_assertion"})
"""Names that a program may call beyond StableHLO's own operations: JAX's check of a batch size."""
SECONDS = 20.0
"""That reading a program may take, and a second more for each MiB."""
OUTPUTS = ("guidance", "probabilities", "spread")
LARGEST = 10_000
"""Side of an image in pixels."""


class ExportedError(ValueError):
    """A file or an image cannot be used; the message is one line that names it and the fix."""


def load(path: str | Path) -> Exported:
    """The classifier of an exported file.

    It is a program. That it calls nothing outside of itself is checked, and that its description
    belongs to it; not how long it runs and how much memory it takes.

    Raises:
      ExportedError: the file or its description is missing or damaged, they do not belong
        together, or the program asks for more than an exported classifier does.
    """
    path = Path(path)
    description = path.with_name(f"{path.name}.json")
    try:
        facts = json.loads(description.read_text(encoding="utf-8"))
        content = path.read_bytes()
        _check_facts(path, facts, content)
        program = export.deserialize(bytearray(content))
        fits = _fits(program, facts)
        beyond = fits and _calls_beyond(program.mlir_module_serialized)
    except ImportError as error:
        raise ExportedError(f"{path}: reading it needs {NEEDS} ({error}); install them") from error
    except OSError as error:
        raise ExportedError(
            f"{error.filename}: cannot be read ({error.strerror}); an export is {path.name} and "
            f"{description.name}, side by side"
        ) from error
    except ExportedError:
        raise
    except Exception as error:  # a damaged program fails in many ways
        reason = " ".join(str(error).split())[:100]
        raise ExportedError(f"{path}: no exported classifier ({reason}); export it anew") from error
    if not fits:
        raise ExportedError(
            f"{path}: is no classifier as {description.name} has it; export it anew"
        )
    if beyond:
        raise ExportedError(
            f"{path}: wants to call {', '.join(beyond)[:200]}, which no exported classifier does; "
            "do not trust it"
        )
    return Exported(facts, program)


def _calls_beyond(module: bytes) -> list[str]:
    """What a module calls beyond `CUSTOM_CALLS`.

    A process of its own reads it: a module that was made to can keep the parser busy for ever, or
    end the process.

    Raises:
      ValueError: it cannot be read.
    """
    ask = f"import json, sys\nprint(json.dumps([*{calls.__name__}(sys.stdin.buffer.read())]))"
    # -P: it imports nothing from the folder in which it is called.
    command = [sys.executable, "-P", "-c", f"{inspect.getsource(calls)}\n{ask}"]
    limit = SECONDS + len(module) / 2**20
    try:
        done = subprocess.run(command, input=module, capture_output=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"reading it takes more than {limit:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or "the reader died"
        raise ValueError(said.splitlines()[-1]) from error
    return sorted({*json.loads(done.stdout)} - CUSTOM_CALLS)


def calls(module: bytes) -> set[str]:
    """What a serialized StableHLO module calls or does beyond computing."""
    # What `jax.extend.mlir` hands on, which would import all of JAX.
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    exchanges = ("infeed", "outfeed", "send", "recv")  # with something else than the caller
    found = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        name = operation.name
        if name.endswith("custom_call"):
            found.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
            return ir.WalkResult.ADVANCE
        dialect, _, kind = name.partition(".")
        if dialect not in ("builtin", "func", "stablehlo") or kind in exchanges:
            found.add(name)
        return ir.WalkResult.ADVANCE

    with ir.Context() as context:
        stablehlo.register_dialect(context)
        stablehlo.deserialize_portable_artifact(context, module).operation.walk(visit)
    return found


def _check_facts(path: Path, facts: Any, content: bytes) -> None:
    """Refuse a description of another program, or of no program.

    Raises:
      ExportedError: it is of another program.
      Exception: it is damaged.
    """
    if hashlib.sha256(content).hexdigest() != facts.get("program_sha256"):
        raise ExportedError(
            f"{path}: no exported classifier: not the program that {path.name}.json describes, "
            "damaged, or was exported by an older version; export it anew"
        )
    names, size, batch = facts["class_names"], facts["image_size"], facts["batch_size"]
    thresholds, bits = facts["thresholds"], facts.get("gray_bits", 0)
    fit, trim = facts.get("framing", ("crop", "none"))
    right = (
        fit in ("crop", "letterbox", "stretch") and trim in ("none", "disc"),
        isinstance(names, list) and names and all(isinstance(name, str) for name in names),
        type(size) is int and 0 < size <= LARGEST,
        batch is None or (type(batch) is int and batch > 0),
        len(thresholds) in (0, len(names)) and all(type(each) is float for each in thresholds),
        type(facts["multi_label"]) is bool and bits in (0, 8, 10, 12, 16),
    )
    if not all(right):
        raise ValueError("its description is not one")


def _fits(program: export.Exported, facts: dict[str, Any]) -> bool:
    """Whether images of the described size go in, and probabilities of its classes come out."""
    batch, size = facts["batch_size"], facts["image_size"]
    (image,) = program.in_avals
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    shapes = {each.shape[1:] for each in outputs.values()}
    return (
        image.dtype == np.uint8
        and image.shape[1:] == (size, size, 3)
        and (batch is None or image.shape[0] == batch)
        and tuple(sorted(outputs)) == OUTPUTS
        and shapes == {(len(facts["class_names"]),)}
        and not (program.ordered_effects or program.unordered_effects)
    )


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
          image: [B, S, S, 3] uint8, RGB, made square as in training (the program's page shows
            how), S = `image_size`.

        Returns:
          `probabilities` [B, C], `spread` [B, C] (standard deviation between the samples) and
          `guidance` [B, C] (probabilities of the guidance network alone).

        Raises:
          ExportedError: for images of another shape or type, or if the program fails.
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
        try:
            found = self._call(image)
        except Exception as error:  # what the compiler or the device says of a broken program
            reason = " ".join(str(error).split())[:200]
            raise ExportedError(f"the exported program fails ({reason}); export it anew") from error
        return {name: np.asarray(value) for name, value in found.items()}
