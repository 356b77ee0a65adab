"""Mutation testing of a file or a room: which changes to it does no test notice?

The tests that mirror its file run on each change, and on what these let pass all tests of its room.
Prints a line of JSON for each change that both let pass, then one with the score, the share of
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
from collections.abc import Iterator, Mapping, Sequence
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


def mutable(source: str) -> list[tuple[int, str]]:
    """All changes of a module: the number of the place, and what is done there."""
    nodes = enumerate(places(ast.parse(source)))
    return [(i, what) for i, node in nodes for what in changes(node)]


def mutant(source: str, i: int, what: str) -> tuple[dict[str, object], str]:
    """One changed version of a module: line, kind, before and after; and the whole text."""
    tree = ast.parse(source)
    node = list(places(tree))[i]
    before, new = ast.unparse(node), change(copy.deepcopy(node), what)
    text = ast.unparse(ast.fix_missing_locations(_Put(node, new).visit(tree)))
    line = getattr(node, "lineno", 0)
    return {"line": line, "kind": what, "before": before, "after": ast.unparse(new)}, text


def mutants(sources: Mapping[Path, str], sample: int) -> list[tuple[Path, dict[str, object], str]]:
    """So many changes of all that some files have, the same each time; 0: all of them."""
    found = [(file, *each) for file, source in sources.items() for each in mutable(source)]
    if 0 < sample < len(found):
        found = random.Random(0).sample(found, sample)
    return [(file, *mutant(sources[file], i, what)) for file, i, what in found]


def tests_of(file: Path) -> list[str]:
    """The tests that mirror a file of the package, else all of its room."""
    room = Path("tests", *file.parts[1:-1])
    own = sorted(room.glob(f"test_{file.stem}*.py"))
    return [str(path) for path in own or [room]]


def passes(folder: Path, tests: Sequence[str], limit: float | None) -> bool:
    """Whether the tests pass in a copy of the project, within a limit in seconds."""
    flags = ("-q", "-x", "-p", "no:cacheprovider", "-m", "not slow")
    command = [sys.executable, "-m", "pytest", *flags, *tests]
    # The path is for processes that tests start: they are to find the copy as well.
    environment = os.environ | {"PYTHONPATH": str(folder)}
    if limit is not None:  # of what is changed: two changes within a second would pass for one
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
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


def looks(file: Path, tests: Sequence[str], then: Sequence[str]) -> list[tuple[str, ...]]:
    """The tests that look for a change in a file, one after the other until one notices it."""
    own = tuple(tests or tests_of(file))
    later = tuple(then if tests or then else [str(Path("tests", *file.parts[1:-1]))])
    return [own, later] if later and later != own else [own]


class Copy:
    """A copy of the project in which files are changed and tests run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limits: dict[tuple[str, ...], float] = {}
        for part in PARTS:
            copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copied(ROOT / part, folder / part)

    def learn(self, tests: tuple[str, ...]) -> bool:
        """Whether tests pass without any change, and how long a change may take them."""
        began = time.monotonic()
        passed = passes(self.folder, tests, None)
        self.limits[tests] = 60 + 5 * (time.monotonic() - began)
        return passed

    def noticed(self, file: Path, text: str, tests: Sequence[tuple[str, ...]]) -> int:
        """Which look, from 1, notices another text of a file; 0 if none does."""
        (self.folder / file).write_text(text)
        found = enumerate((passes(self.folder, own, self.limits[own]) for own in tests), 1)
        first = next((i for i, passed in found if not passed), 0)
        shutil.copy2(ROOT / file, self.folder / file)
        return first


def main() -> int:
    """Mutate what the command line names; 1 if its tests fail as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="or folder of the package, from the project's root")
    parser.add_argument("tests", nargs="*", help="files; default: those that mirror each file")
    parser.add_argument(
        "--then",
        nargs="*",
        default=[],
        help="tests for a second look at what the first let pass; default: all of the room, if no "
        "tests are named",
    )
    parser.add_argument("--sample", type=int, default=0, help="so many changes, drawn at random")
    asked = parser.parse_args()
    sources = {file: (ROOT / file).read_text() for file in files_of(asked.file)}
    found = mutants(sources, asked.sample)
    tests = {file: looks(file, asked.tests, asked.then) for file, *_ in found}
    counts = [0, 0, 0]
    with tempfile.TemporaryDirectory() as name:
        project = Copy(Path(name))
        for every in sorted({own for each in tests.values() for own in each}):
            if not project.learn(every):
                print(f"{' '.join(every)} fail without any change", file=sys.stderr)
                return 1
        for file, what, text in found:
            look = project.noticed(file, text, tests[file])
            counts[look] += 1
            if not look:
                print(json.dumps({"file": str(file), **what}), flush=True)
    score = round(1 - counts[0] / max(len(found), 1), 3)
    noticed = {"noticed": counts[1], "noticed_then": counts[2]}
    print(json.dumps({"file": str(asked.file), "mutants": len(found), **noticed, "score": score}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
