"""Mutation testing of a file or a room: which changes to it does no test notice?

Prints a line of JSON for each change that its tests let pass, then one with the score, the share of
changes that they notice. Works on a copy of the project; a test that no longer ends counts as one
that noticed. Not every survivor is a fault of the tests: some changes change nothing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("diffmic_jax", "tests", "configs", "studies", "scripts", "main.py", "pyproject.toml")
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
UNSEEN = ("annotation", "returns", "decorator_list")
"""Fields of a node in which nothing is changed."""


def places(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes in which something can be changed: no annotations, messages or imports."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom | ast.Assert):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in UNSEEN:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child)


def changes(node: ast.AST) -> list[str]:
    """What can be done to a node."""
    found = []
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        # `a | b` of types is no arithmetic, and is not among the operators.
        found.append("operator")
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        found.append("comparison")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        found.append("sign")
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        found.append("constant")
    if isinstance(node, ast.Call) and len(node.args) > 1:
        found.append("arguments")
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if call or isinstance(node, ast.AugAssign):
        found.append("statement")
    if isinstance(node, ast.If | ast.IfExp):
        found.append("condition")
    return found


def change(node: ast.AST, what: str) -> ast.AST:
    """The changed node in place of one, which may be changed itself."""
    match node, what:
        case ((ast.BinOp() | ast.BoolOp()), _):
            node.op = OPERATORS[type(node.op)]()  # type: ignore[assignment]
        case ast.Compare(), _:
            node.ops = [OPERATORS[type(node.ops[0])]()]  # type: ignore[list-item]
        case ast.UnaryOp(), _:
            return node.operand
        case ast.Constant(value=bool(value)), _:
            node.value = not value
        case ast.Constant(value=int(value) | float(value)), _:
            node.value = value + 1
        case ast.Call(), "arguments":
            node.args[:2] = node.args[1::-1]
        case ((ast.If() | ast.IfExp()), _):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case _:
            return ast.Pass()
    return node


class _Put(ast.NodeTransformer):
    """Puts a node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The new node for the old one."""
        return self.new if node is self.old else self.generic_visit(node)


def mutants(source: str) -> Iterator[tuple[dict[str, object], str]]:
    """All changed versions of a module: line, kind, before and after; and the whole text."""
    count = sum(1 for _ in places(ast.parse(source)))
    for i in range(count):
        for what in changes(list(places(ast.parse(source)))[i]):
            tree = ast.parse(source)
            node = list(places(tree))[i]
            before, new = ast.unparse(node), change(copy.deepcopy(node), what)
            text = ast.unparse(ast.fix_missing_locations(_Put(node, new).visit(tree)))
            line = getattr(node, "lineno", 0)
            yield {"line": line, "kind": what, "before": before, "after": ast.unparse(new)}, text


def tests_of(file: Path) -> list[str]:
    """The tests that mirror a file of the package, else all of its room."""
    room = Path("tests", *file.parts[1:-1])
    own = sorted(room.glob(f"test_{file.stem}*.py"))
    return [str(path) for path in own or [room]]


def passes(folder: Path, tests: Sequence[str], limit: float | None) -> bool:
    """Whether the tests pass in a copy of the project, within a limit in seconds."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=limit, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def files_of(place: Path) -> list[Path]:
    """The file, or those of a folder, from the project's root."""
    found = sorted((ROOT / place).glob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
    return [path.relative_to(ROOT) for path in found]


def main() -> int:
    """Mutate what the command line names; 1 if its tests fail as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="or folder of the package, from the project's root")
    parser.add_argument("tests", nargs="*", help="files; default: those that mirror each file")
    parser.add_argument("--sample", type=int, default=0, help="so many changes, drawn at random")
    asked = parser.parse_args()
    sources = {file: (ROOT / file).read_text() for file in files_of(asked.file)}
    found = [(file, *each) for file, source in sources.items() for each in mutants(source)]
    if 0 < asked.sample < len(found):
        found = random.Random(0).sample(found, asked.sample)
    tests = {file: asked.tests or tests_of(file) for file, *_ in found}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copied(ROOT / part, folder / part)
        began = time.monotonic()
        every = sorted({each for own in tests.values() for each in own})
        if not passes(folder, every, None):
            print(f"{' '.join(every)} fail without any change", file=sys.stderr)
            return 1
        limit = 60 + 5 * (time.monotonic() - began)
        survivors = 0
        for file, what, text in found:
            (folder / file).write_text(text)
            if passes(folder, tests[file], limit):
                survivors += 1
                print(json.dumps({"file": str(file), **what}), flush=True)
            (folder / file).write_text(sources[file])
    score = 1 - survivors / max(len(found), 1)
    print(json.dumps({"file": str(asked.file), "mutants": len(found), "score": round(score, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
