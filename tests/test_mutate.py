"""The mutants of a small module."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(
    "mutate", Path(__file__).parents[1] / "scripts" / "mutate.py"
)
assert SPEC is not None and SPEC.loader is not None
mutate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mutate)

SOURCE = '''
def f(x: Literal[3], y: int) -> None:
    """Not 1 + 1."""
    if x < 2 and not y:
        raise ValueError(f"{x + 1} is too small", 7)
    x += 1
    g(x, -y)
    return h(x, y) if y else x**2
'''


FILE = Path("diffmic_jax/nn/any.py")


def test_every_kind_of_change_is_made_once_for_each_place():
    changes = [what for _, what, _ in mutate.mutants({FILE: SOURCE}, 0)]
    found = [(what["kind"], what["before"], what["after"]) for what in changes]
    condition = "if x < 2 and (not y):"
    kinds = [kind for kind, *_ in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "condition": 2,
        "operator": 2,
        "comparison": 1,
        "sign": 2,
        "constant": 3,
        "statement": 2,
        "arguments": 2,
    }
    assert ("operator", "x < 2 and (not y)", "x < 2 or not y") in found
    assert ("comparison", "x < 2", "x <= 2") in found
    assert ("sign", "not y", "y") in found
    assert ("sign", "-y", "y") in found
    assert ("constant", "2", "3") in found
    assert ("arguments", "g(x, -y)", "g(-y, x)") in found
    assert ("statement", "x += 1", "pass") in found
    assert any(before.startswith(condition) for kind, before, _ in found if kind == "condition")


def test_a_mutant_differs_in_one_place():
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    for _, what, text in mutate.mutants({FILE: SOURCE}, 0):
        pairs = zip(original, text.splitlines(), strict=True)
        changed = [number for number, (old, new) in enumerate(pairs, 1) if old != new]
        assert changed == [what["line"] - 1], what  # the source begins with an empty line


def test_a_sample_is_over_all_files_and_the_same_each_time():
    sources = {Path(name): f"{SOURCE}{name} = 1" for name in "abcde"}
    first, second = (mutate.mutants(sources, 20) for _ in range(2))
    assert first == second and len(first) == 20
    assert len({file for file, *_ in first}) > 1
    every = mutate.mutants(sources, 0)
    assert len(every) == 15 * 5 and all(each in every for each in first)
    assert mutate.mutants(sources, 99) == every


def test_a_file_has_the_tests_that_mirror_it_or_those_of_its_room():
    own = mutate.tests_of(Path("diffmic_jax/diffusion/readout.py"))
    assert own == ["tests/diffusion/test_readout.py"]
    assert mutate.tests_of(Path("diffmic_jax/diffusion/nothing.py")) == ["tests/diffusion"]


def test_a_folder_stands_for_its_files():
    found = mutate.files_of(Path("diffmic_jax/diffusion"))
    assert Path("diffmic_jax/diffusion/readout.py") in found and len(found) > 5
    assert mutate.files_of(found[-1]) == [found[-1]]


def test_what_the_first_tests_let_pass_is_looked_at_by_all_of_the_room():
    readout, nothing = (Path("diffmic_jax/diffusion", name) for name in ("readout.py", "no.py"))
    room = ("tests/diffusion",)
    assert mutate.looks(readout, [], []) == [("tests/diffusion/test_readout.py",), room]
    assert mutate.looks(nothing, [], []) == [room]
    assert mutate.looks(readout, ["a"], []) == [("a",)]
    assert mutate.looks(readout, ["a"], ["b", "c"]) == [("a",), ("b", "c")]
    assert mutate.looks(nothing, [], ["b"]) == [room, ("b",)]


def test_a_change_is_looked_at_until_one_notices_it(monkeypatch, tmp_path):
    root, file = tmp_path / "root", Path("a.py")
    root.mkdir()
    (root / file).write_text("x = 1")
    monkeypatch.setattr(mutate, "ROOT", root)
    monkeypatch.setattr(mutate, "PARTS", ("a.py",))
    folder = tmp_path / "copy"
    folder.mkdir()
    project, asked = mutate.Copy(folder), []

    def passes(where, tests, limit):
        asked.append((tests, (where / file).read_text()))
        return tests != ("second",) or limit is None

    monkeypatch.setattr(mutate, "passes", passes)
    looks = [("first",), ("second",), ("third",)]
    assert all(project.learn(tests) for tests in looks)
    del asked[:]
    assert project.noticed(file, "x = 2", looks) == 2
    assert asked == [(("first",), "x = 2"), (("second",), "x = 2")]
    assert (folder / file).read_text() == "x = 1"
    assert project.noticed(file, "x = 2", looks[::2]) == 0
